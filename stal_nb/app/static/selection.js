// The page side of stal_nb.app.selection_explorer.SelectionExplorer: what each strategy would query of a pool, and why.
//
// Messages, page -> Python:  {type: "open"}                                answered by "pool"
//                            {type: "why", id, strategy, budget}           answered by "reason"
// Messages, Python -> page:  {type: "pool", ...}, [JPEG of all images, JPEG of all maps]
//                            {type: "reason", id, strategy, budget, text}
// All queries are in "pool", so choosing and framing need no answer of Python.

const SVG = "http://www.w3.org/2000/svg";
const PLANE = { width: 400, height: 270, edge: 16 };

function node(tag, properties = {}, ...children) {
  const { class: name, data = {}, aria = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  if (name) element.className = name;
  for (const [key, value] of Object.entries(data)) element.dataset[key] = value;
  for (const [key, value] of Object.entries(aria)) element.setAttribute(key === "role" ? key : `aria-${key}`, value);
  element.append(...children);
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const percent = (x) => `${(100 * x).toFixed(x < 0.095 ? 1 : 0)}%`;

class Explorer {
  constructor(model, el) {
    this.model = model;
    this.root = node("div", { class: "stal-selection", aria: { role: "application", label: "Selection explorer" } }, "Loading the pool …");
    el.append(this.root);
    this.receiver = (content, buffers) => this.hear(content, buffers);
    this.changed = () => this.pool && this.update();
    model.on("msg:custom", this.receiver);
    for (const name of ["strategy", "budget", "colour", "selected"]) model.on(`change:${name}`, this.changed);
    model.send({ type: "open" });
  }

  remove() {
    this.model.off("msg:custom", this.receiver);
    for (const name of ["strategy", "budget", "colour", "selected"]) this.model.off(`change:${name}`, this.changed);
    (this.addresses ?? []).forEach((address) => URL.revokeObjectURL(address));
    this.root.remove();
  }

  hear(content, buffers) {
    if (content.type === "pool" && !this.pool) {
      this.pool = content;
      this.addresses = buffers.map((b) => URL.createObjectURL(new Blob([b], { type: "image/jpeg" })));
      this.build();
      this.update();
    }
    const now = { id: this.model.get("selected"), strategy: this.model.get("strategy"), budget: this.model.get("budget") };
    if (content.type === "reason" && content.id === now.id && content.strategy === now.strategy && content.budget === now.budget)
      this.reason.textContent = content.text;
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  // -- what is built once ------------------------------------------------------------------------------------------------------------

  build() {
    const { pool } = this;
    this.strategy = node("select", { aria: { label: "Strategy" }, onchange: () => this.set("strategy", this.strategy.value) },
      ...pool.strategies.map(([value, textContent]) => node("option", { value, textContent })));
    this.budget = node("input", { type: "range", aria: { label: "Budget" }, min: 0, max: pool.most, step: 1, oninput: () => this.set("budget", Number(this.budget.value)) });
    this.colour = node("select", { aria: { label: "Colour by" }, onchange: () => this.set("colour", this.colour.value) },
      node("option", { value: "group", textContent: "group" }), node("option", { value: "class", textContent: "main class" }));
    this.amount = node("output", { class: "stal-value" });
    const bar = node("div", { class: "stal-bar" },
      node("label", {}, "Strategy", this.strategy), node("label", {}, "Budget", this.budget, this.amount), node("label", {}, "Colour by", this.colour));
    this.thumbs = pool.ids.map((id, i) => this.thumb(id, i));
    this.gallery = node("div", { class: "stal-gallery", aria: { role: "group", label: "The pool, in order" } }, ...this.thumbs.map((t) => t.button));
    this.large = [0, 1].map((sheet) => node("div", { class: "stal-large", aria: { role: "img", label: ["image", "uncertainty"][sheet] } }));
    this.facts = node("div", { class: "stal-facts" });
    this.reason = node("div", { class: "stal-reason", data: { testid: "reason" }, aria: { live: "polite" } });
    this.legend = node("div", { class: "stal-legend" });
    this.classes = node("div", { class: "stal-classes", data: { testid: "classes" } });
    this.overlap = node("div", { class: "stal-overlap", data: { testid: "overlap" } });
    this.root.replaceChildren(bar, this.gallery,
      node("div", { class: "stal-panels" },
        node("section", {}, node("h4", { textContent: "Why?" }), node("div", { class: "stal-pair" }, ...this.large), this.facts, this.reason),
        node("section", {}, node("h4", { textContent: "The pool, as the network sees it" }), this.buildPlane(), this.legend),
        node("section", {}, node("h4", { textContent: "Classes queried, relative to the pool" }), this.classes),
        node("section", {}, node("h4", { textContent: "Images that two strategies have in common" }), this.overlap)));
    const mean = pool.shares[0].map((_, c) => pool.shares.reduce((sum, row) => sum + row[c], 0) / pool.ids.length);
    this.base = mean;
    this.order = mean.map((_, c) => c).filter((c) => mean[c] > 0).sort((a, b) => mean[b] - mean[a]);
  }

  thumb(id, i) {
    const { columns, ids } = this.pool, rows = Math.ceil(ids.length / columns);
    const layer = (sheet) => node("span", { class: sheet ? "stal-map" : "stal-image" });
    const pictures = [layer(0), layer(1)];
    pictures.forEach((picture, sheet) => this.show(picture, sheet, i));
    const caption = node("span", { class: "stal-caption" });
    const button = node("button", { type: "button", class: "stal-thumb", data: { id }, onclick: () => this.set("selected", id) }, ...pictures, caption);
    button.style.setProperty("--group", this.pool.group_colours[this.pool.groups[i]]);
    button.onmouseenter = button.onfocus = () => this.point(i, true);
    button.onmouseleave = button.onblur = () => this.point(i, false);
    return { button, caption, rows };
  }

  show(element, sheet, i) {
    const { columns, ids } = this.pool, rows = Math.ceil(ids.length / columns), part = (k, n) => (n > 1 ? (100 * k) / (n - 1) : 0);
    element.style.backgroundImage = `url(${this.addresses[sheet]})`;
    element.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    element.style.backgroundPosition = `${part(i % columns, columns)}% ${part(Math.floor(i / columns), rows)}%`;
  }

  buildPlane() {
    const { plane, explained, ids } = this.pool, { width, height, edge } = PLANE;
    const range = (axis) => [Math.min(...plane.map((p) => p[axis])), Math.max(...plane.map((p) => p[axis]))];
    const [[x0, x1], [y0, y1]] = [range(0), range(1)], scale = (v, low, high, size) => edge + ((v - low) / (high - low || 1)) * (size - 2 * edge);
    this.marks = plane.map(([x, y], i) => {
      const mark = svg("path", { transform: `translate(${scale(x, x0, x1, width)} ${height - scale(y, y0, y1, height)})`, "data-id": ids[i] }, svg("title"));
      mark.addEventListener("click", () => this.set("selected", ids[i]));
      mark.addEventListener("mouseenter", () => this.point(i, true));
      mark.addEventListener("mouseleave", () => this.point(i, false));
      return mark;
    });
    this.layer = svg("g", {}, ...this.marks);
    const words = svg("text", { x: width / 2, y: height - 2, class: "stal-axis" });
    words.textContent = `two directions of largest variance: ${percent(explained[0])} and ${percent(explained[1] ?? 0)}`;
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "stal-plane", "data-testid": "plane", role: "img", "aria-label": "map of the pool" }, this.layer, words);
  }

  // -- what follows the controls -----------------------------------------------------------------------------------------------------

  get query() {
    return this.pool.chosen[this.model.get("strategy")][this.model.get("budget")];
  }

  point(i, on) {
    this.thumbs[i].button.classList.toggle("stal-pointed", on);
    this.marks[i].classList.toggle("stal-pointed", on);
  }

  update() {
    const { pool, model } = this, strategy = model.get("strategy"), budget = model.get("budget"), query = new Set(this.query);
    this.strategy.value = strategy;
    this.budget.value = budget;
    this.budget.setAttribute("aria-valuetext", `${budget} images`);
    this.amount.textContent = `${budget} of ${pool.ids.length} images`;
    this.colour.value = model.get("colour");
    this.root.dataset.strategy = strategy;
    this.root.dataset.budget = budget;
    const order = pool.orders[strategy], place = new Map(this.query.map((i, k) => [i, k + 1]));
    const ranked = pool.captions[strategy][0] !== "";
    const sorted = ranked ? order : [...this.query, ...order.filter((i) => !query.has(i))];
    sorted.forEach((i, k) => {
      const { button, caption } = this.thumbs[i], queried = query.has(i);
      button.style.order = k;
      button.setAttribute("aria-pressed", queried);
      const rank = ranked ? `${pool.captions[strategy][i]}` : place.has(i) ? `pick ${place.get(i)}` : "–";
      caption.textContent = `${rank} · ${pool.scores[i].toFixed(2)}`;
      button.setAttribute("aria-label", `${pool.ids[i]}, ${pool.groups[i]}, ${queried ? "queried" : "not queried"}, ${rank}, entropy ${pool.scores[i].toFixed(2)}`);
    });
    this.gallery.style.setProperty("--count", pool.ids.length);
    this.updatePlane(query);
    this.updateClasses();
    this.updateOverlap(strategy, budget);
    this.updateWhy(strategy, budget);
  }

  updatePlane(query) {
    const { pool } = this, byClass = this.model.get("colour") === "class";
    this.marks.forEach((mark, i) => {
      const queried = query.has(i);
      mark.setAttribute("d", queried ? "M0-9L9 0L0 9L-9 0Z" : "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0");
      mark.setAttribute("class", `${queried ? "stal-queried" : ""} ${pool.ids[i] === this.model.get("selected") ? "stal-selected" : ""}`);
      mark.style.fill = byClass ? pool.class_colours[pool.main[i]] : pool.group_colours[pool.groups[i]];
      mark.firstChild.textContent = `${pool.ids[i]}\n${pool.groups[i]}\nmostly ${pool.classes[pool.main[i]]}\nentropy ${pool.scores[i].toFixed(2)}`;
    });
    this.layer.append(...this.marks.filter((_, i) => query.has(i))); // on top
    const names = byClass ? [...new Set(pool.main)].map((c) => [pool.classes[c], pool.class_colours[c]]) : Object.entries(pool.group_colours);
    this.legend.replaceChildren(...names.map(([name, colour]) => {
      const swatch = node("i");
      swatch.style.background = colour;
      return node("span", {}, swatch, name);
    }), node("span", {}, "◆ queried"));
  }

  updateClasses() {
    const { pool, query } = this;
    this.classes.replaceChildren(...this.order.map((c) => {
      const share = query.length ? query.reduce((sum, i) => sum + pool.shares[i][c], 0) / query.length : 0;
      const log = query.length ? Math.log2(Math.min(4, Math.max(0.25, share / this.base[c]))) : 0; // -2 to 2
      const bar = node("i", { title: `${pool.classes[c]}: ${percent(share)} of the queried pixels, ${percent(this.base[c])} of the pool` });
      Object.assign(bar.style, { background: pool.class_colours[c], left: `${50 + 25 * Math.min(0, log)}%`, width: `${25 * Math.abs(log)}%` });
      const times = query.length ? `× ${(share / this.base[c]).toFixed(1)}` : "";
      return node("div", { class: "stal-row" }, node("span", { textContent: pool.classes[c] }), node("span", { class: "stal-track" }, bar), node("span", { textContent: times }));
    }));
  }

  updateOverlap(strategy, budget) {
    const names = this.pool.strategies, sets = names.map(([name]) => new Set(this.pool.chosen[name][budget]));
    const cell = (a, b) => [...sets[a]].filter((i) => sets[b].has(i)).length;
    const rows = names.map(([name, title], a) => {
      const head = node("button", { type: "button", textContent: title, onclick: () => this.set("strategy", name) });
      head.setAttribute("aria-pressed", name === strategy);
      return node("tr", {}, node("th", {}, head), ...names.map(([, other], b) => {
        const shared = cell(a, b), td = node("td", { textContent: shared, title: `${title} and ${other}: ${shared} of ${budget}` });
        const depth = budget ? shared / budget : 0;
        td.style.background = `rgba(33,102,172,${0.85 * depth})`;
        td.style.color = depth > 0.55 ? "white" : "inherit";
        return td;
      }));
    });
    this.overlap.replaceChildren(node("table", {}, ...rows));
  }

  updateWhy(strategy, budget) {
    const { pool } = this, i = Math.max(0, pool.ids.indexOf(this.model.get("selected"))), id = pool.ids[i];
    this.thumbs.forEach(({ button }, k) => button.classList.toggle("stal-selected", k === pool.ids.indexOf(this.model.get("selected"))));
    if (id !== this.model.get("selected")) {
      this.large.forEach((element) => (element.style.backgroundImage = "none"));
      this.facts.textContent = "";
      this.reason.textContent = "Click on a picture or on a point.";
      return;
    }
    this.large.forEach((element, sheet) => this.show(element, sheet, i));
    const most = pool.shares[i].map((share, c) => [share, c]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    this.facts.textContent = `${id}, ${pool.groups[i]}, entropy ${pool.scores[i].toFixed(3)}: ${most.map(([s, c]) => `${pool.classes[c]} ${percent(s)}`).join(", ")}`;
    const queried = this.query.includes(i);
    this.reason.textContent = queried ? "Queried." : "Not queried.";
    this.model.send({ type: "why", id, strategy, budget });
  }
}

function render({ model, el }) {
  const explorer = new Explorer(model, el);
  return () => explorer.remove();
}

export default { render };
