// The page side of stal_nb.app.dashboard.RunDashboard: draws what Python read in the folder of a run, and tells which button was pressed.
//
// Traits, all from Python:  view      what `view_of` gives: state, stages, numbers, results, query, words
//                           curves    {terms, colours, loss, lanes, classes, stages}; loss and lanes are float32 tables, row by row, step first, NaN = not logged
//                           pictures  {round, items: [{id, entropy, image, map}], problem}; JPEG
//                           notice    what was just done, or went wrong
// Messages, page -> Python: {type: "hello" | "bye", view: name of this view}, {type: "start" | "pause" | "label"}

const SVG = "http://www.w3.org/2000/svg";
const SETTLE = 4000; // ms for which a pressed button waits for the folder to show it
const SMOOTH = 9; // logged rows in a running mean

function make(tag, { style, data, aria, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.style, style);
  Object.assign(node.dataset, data);
  for (const [key, value] of Object.entries(aria ?? {})) node.setAttribute(key === "role" ? key : `aria-${key}`, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const count = (value) => Math.round(value).toLocaleString("en");
const percent = (value) => (value === null || value === undefined ? "–" : value.toFixed(1));

// Round numbers between two ends.
function ticks(low, high, about = 5) {
  const rough = (high - low || 1) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) found.push(Math.abs(v) < 1e-12 ? 0 : v);
  return found;
}

const short = (value) => (Math.abs(value) >= 10000 ? `${+(value / 1000).toPrecision(4)}k` : `${+value.toPrecision(4)}`);

// A table of float32, row by row: columns that can be drawn.
function columns(buffer, width) {
  if (!buffer || !buffer.byteLength) return Array.from({ length: width }, () => []);
  const bytes = buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength), all = new Float32Array(bytes);
  return Array.from({ length: width }, (_, c) => Array.from({ length: all.length / width }, (_, r) => all[r * width + c]));
}

function smoothed(values) {
  const out = [];
  for (let i = 0; i < values.length; i++) {
    const some = values.slice(Math.max(0, i - SMOOTH + 1), i + 1).filter(Number.isFinite);
    out.push(some.length ? some.reduce((a, b) => a + b, 0) / some.length : NaN);
  }
  return out;
}

// -- charts ---------------------------------------------------------------------------------------------------------------------------

class Chart {
  constructor(title, height = 220) {
    this.height = height;
    this.read = make("span", { className: "stal-read" });
    this.title = make("span", { textContent: title });
    this.svg = draw("svg", { role: "img", "aria-label": title, height });
    this.none = make("div", { className: "stal-none", hidden: true });
    this.root = make("figure", {}, make("figcaption", {}, this.title, this.read), this.svg, this.none);
    this.left = 44, this.right = 12, this.top = 14, this.bottom = 34;
  }

  empty(text) {
    this.none.textContent = text;
    this.none.hidden = !text;
    this.svg.style.display = text ? "none" : "";
    return Boolean(text);
  }

  // Axes of a new picture; children of the old one go.
  begin(x, y, { xName, yName, xTicks }) {
    this.width = Math.max(200, this.root.clientWidth);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren();
    const inner = this.width - this.left - this.right, tall = this.height - this.top - this.bottom;
    this.x = (v) => this.left + ((v - x[0]) / (x[1] - x[0] || 1)) * inner;
    this.y = (v) => this.top + tall - ((v - y[0]) / (y[1] - y[0] || 1)) * tall;
    this.unx = (p) => x[0] + ((p - this.left) / inner) * (x[1] - x[0]);
    for (const v of ticks(...y, 4)) {
      this.svg.append(draw("line", { class: "stal-grid", x1: this.left, x2: this.width - this.right, y1: this.y(v), y2: this.y(v) }),
        draw("text", { x: this.left - 6, y: this.y(v) + 4, "text-anchor": "end" }, short(v)));
    }
    for (const v of xTicks ?? ticks(...x, Math.max(4, Math.floor(inner / 90)))) {
      this.svg.append(draw("text", { x: this.x(v), y: this.height - this.bottom + 15, "text-anchor": "middle" }, short(v)));
    }
    this.svg.append(draw("line", { class: "stal-axis", x1: this.left, x2: this.width - this.right, y1: this.height - this.bottom, y2: this.height - this.bottom }),
      draw("text", { x: (this.left + this.width - this.right) / 2, y: this.height - 4, "text-anchor": "middle" }, xName),
      draw("text", { x: this.left - 38, y: this.top - 4 }, yName));
  }

  path(xs, ys, attributes) {
    let d = "", pen = false;
    for (let i = 0; i < xs.length; i++) {
      if (!Number.isFinite(ys[i])) pen = false;
      else {
        d += `${pen ? "L" : "M"}${this.x(xs[i]).toFixed(1)} ${this.y(ys[i]).toFixed(1)}${pen ? "" : "h0"}`; // a point alone is a dot
        pen = true;
      }
    }
    this.svg.append(draw("path", { d, fill: "none", "stroke-linejoin": "round", "stroke-linecap": "round", ...attributes }));
  }
}

// Series over the training steps, with a hair line that reads them.
class Series extends Chart {
  constructor(title, { smooth, most, unit, height }) {
    super(title, height);
    Object.assign(this, { smooth, most, unit, at: null });
    this.svg.addEventListener("pointermove", (event) => {
      const box = this.svg.getBoundingClientRect();
      this.at = ((event.clientX - box.left) / box.width) * this.width;
      this.point();
    });
    this.svg.addEventListener("pointerleave", () => ((this.at = null), this.point()));
  }

  show(names, colours, table, stages) {
    const xs = table[0] ?? [];
    if (this.empty(xs.length ? "" : "Begins with the first logged step.")) return (this.read.textContent = "");
    Object.assign(this, { names, colours, table });
    const values = table.slice(1).flat().filter(Number.isFinite).sort((a, b) => a - b);
    const high = 1.12 * (values[Math.floor(0.99 * (values.length - 1))] || 1), begun = stages.filter(([, first]) => xs.some((x) => x > first));
    this.begin([Math.min(...begun.map(([, first]) => first)), Math.max(...xs)], [0, high], { xName: "training step", yName: this.unit });
    const clip = `stal-clip-${(Series.clips = (Series.clips ?? 0) + 1)}`, area = draw("clipPath", { id: clip });
    area.append(draw("rect", { x: this.left, y: this.top, width: this.width - this.left - this.right, height: this.height - this.top - this.bottom }));
    this.svg.append(area);
    begun.forEach(([name, first], k) => {
      const start = this.x(first), room = (begun[k + 1] ? this.x(begun[k + 1][1]) : this.width) - start;
      this.svg.append(draw("line", { class: "stal-mark", x1: start, x2: start, y1: this.top, y2: this.height - this.bottom }));
      if (room > 6.2 * name.length + 4) this.svg.append(draw("text", { x: start + 4, y: this.top + 7 }, name));
    });
    this.parts = begun.map(([, first, steps]) => xs.map((x, i) => (x > first && x <= first + steps ? i : -1)).filter((i) => i >= 0)); // a stage begins anew: no line leads into it
    table.slice(1).forEach((ys, k) => {
      for (const part of this.parts) {
        const [px, py] = [part.map((i) => xs[i]), part.map((i) => ys[i])], stroke = colours[k], line = { stroke, "clip-path": `url(#${clip})` };
        if (this.smooth) this.path(px, py, { ...line, "stroke-width": 1, opacity: 0.28 });
        this.path(px, this.smooth ? smoothed(py) : py, { ...line, "stroke-width": this.smooth ? 2.2 : 1.4 });
      }
    });
    this.hair = draw("line", { class: "stal-hair", y1: this.top, y2: this.height - this.bottom, visibility: "hidden" });
    this.svg.append(this.hair);
    this.point();
  }

  point() {
    const xs = this.table[0];
    let i = xs.length - 1;
    if (this.at !== null) {
      const x = this.unx(this.at);
      for (i = 0; i < xs.length - 1 && Math.abs(xs[i + 1] - x) <= Math.abs(xs[i] - x);) i++;
      this.hair.setAttribute("x1", this.x(xs[i]));
      this.hair.setAttribute("x2", this.x(xs[i]));
    }
    this.hair.setAttribute("visibility", this.at === null ? "hidden" : "visible");
    const found = this.names.map((name, k) => [name, this.table[k + 1][i], this.colours[k]]).filter(([, v]) => Number.isFinite(v));
    const shown = this.most ? found.sort((a, b) => b[1] - a[1]).slice(0, this.most) : found;
    this.read.replaceChildren(`step ${count(xs[i])}`, ...shown.flatMap(([name, v, colour]) => [make("i", { style: { background: colour } }), `${name} ${+v.toPrecision(3)}`]));
  }
}

class Miou extends Chart {
  show(view) {
    const { results, figures, lines, planned } = view, published = Object.entries(figures);
    this.title.textContent = `${view.measure} by acquired labels`;
    this.svg.setAttribute("aria-label", `${this.title.textContent}: ${results.map((r) => `${r.labelled} labels ${percent(r.miou)} %`).join(", ")}`);
    if (this.empty(results.length || published.length ? "" : "The first measurement comes with the end of the first stage.")) return (this.read.textContent = "");
    const known = results.filter((r) => Number.isFinite(r.miou)), points = published.flatMap(([, p]) => p);
    const xs = [0, ...known.map((r) => r.labelled), ...planned, ...points.map(([x]) => x)], ys = [...known.map((r) => r.miou), ...Object.values(lines), ...points.map(([, y]) => y)];
    const reach = Math.max(4, Math.max(...ys) - Math.min(...ys)), low = Math.max(0, Math.min(...ys) - 0.18 * reach), high = Math.min(100, Math.max(...ys) + 0.2 * reach);
    this.begin([-0.04 * Math.max(1, ...xs), 1.04 * Math.max(1, ...xs)], [low, high], { xName: "labelled target images", yName: "%", xTicks: [...new Set(xs)].sort((a, b) => a - b).filter((v, i, all) => !i || v - all[i - 1] > 0.05 * all.at(-1)) });
    for (const [name, value] of Object.entries(lines)) {
      this.svg.append(draw("line", { class: "stal-rule", x1: this.left, x2: this.width - this.right, y1: this.y(value), y2: this.y(value) }),
        draw("text", { x: this.left + 6, y: this.y(value) - 4 }, `${name} ${percent(value)}`));
    }
    published.forEach(([name, p], k) => {
      const stroke = ["#7a5195", "#bc5090"][k % 2];
      this.path(p.map(([x]) => x), p.map(([, y]) => y), { stroke, "stroke-width": 1.3, "stroke-dasharray": "4 3" });
      for (const [x, y] of p) {
        const mark = draw("path", { d: `M${this.x(x)} ${this.y(y) - 5}l5 5l-5 5l-5-5z`, fill: stroke, class: "stal-rim" });
        mark.append(draw("title", {}, `${name}: ${x} labels, ${percent(y)} %`));
        this.svg.append(mark);
      }
      const [x, y] = p.at(-1);
      this.svg.append(draw("text", { x: this.x(x), y: this.y(y) + (k ? 18 : -9), "text-anchor": "end" }, `${name} ${percent(y)}`));
    });
    this.path(known.map((r) => r.labelled), known.map((r) => r.miou), { stroke: "#c0392b", "stroke-width": 2.6 });
    for (const r of known) {
      const dot = draw("circle", { cx: this.x(r.labelled), cy: this.y(r.miou), r: 5.5, fill: "#c0392b", class: "stal-rim", "stroke-width": 1.5 });
      dot.append(draw("title", {}, `${r.name}: ${r.labelled} labels, ${percent(r.miou)} %${Number.isFinite(r.student) ? ` (student ${percent(r.student)} %)` : ""}`));
      const below = points.some(([x, y]) => Math.abs(this.x(x) - this.x(r.labelled)) < 40 && y > r.miou); // a published figure stands above
      this.svg.append(dot, draw("text", { class: "stal-ink", x: this.x(r.labelled), y: this.y(r.miou) + (below ? 20 : -10), "text-anchor": "middle" }, percent(r.miou)));
    }
    this.read.textContent = published.length ? "paper: DeepLab v3+, ResNet-101, all data" : "teacher, on the validation images";
  }
}

class Histogram extends Chart {
  constructor() {
    super("", 130);
    this.bottom = 32;
  }

  show({ round, strategy, asked, unit, pool, edges, left, chosen }) {
    this.title.textContent = `Round ${round} queried ${count(asked)}${pool ? ` of ${count(pool)}` : ""}`;
    this.svg.setAttribute("aria-label", `Mean entropy of the images of the pool and of the ${asked} that were queried`);
    if (this.empty(pool ? "" : "Scores are not there yet.")) return;
    const total = left.map((n, i) => n + chosen[i]);
    this.begin(edges, [0, Math.max(...total)], { xName: "mean entropy of an image", yName: "images" });
    const wide = (this.width - this.left - this.right) / total.length;
    total.forEach((n, i) => {
      const x = this.left + i * wide, base = this.height - this.bottom;
      const bar = (value, below, fill) => value && this.svg.append(draw("rect", { x: x + 0.5, width: Math.max(1, wide - 1), y: this.y(value + below), height: base - this.y(value), fill }));
      bar(left[i], 0, "#9aa5b1");
      bar(chosen[i], left[i], "#c0392b");
    });
    this.read.replaceChildren(`by '${strategy}'`, make("i", { style: { background: "#c0392b" } }), "queried", make("i", { style: { background: "#9aa5b1" } }), "not");
  }
}

// -- the whole ------------------------------------------------------------------------------------------------------------------------

class View {
  constructor(model, el) {
    this.model = model;
    this.name = `${Math.random()}`;
    this.pressed = 0;
    this.drawn = {}; // part -> what it was drawn from: a part whose facts are the same is left alone
    this.build();
    el.append(this.root);
    this.listeners = { view: () => this.update(), curves: () => this.update(), pictures: () => this.shots(), notice: () => this.say() };
    for (const [trait, listener] of Object.entries(this.listeners)) model.on(`change:${trait}`, listener);
    this.clock = setInterval(() => this.age(), 1000);
    this.resizer = new ResizeObserver(() => {
      if (this.root.clientWidth && this.root.clientWidth !== this.wide) {
        this.wide = this.root.clientWidth;
        this.drawn = {};
        this.update();
      }
    });
    this.resizer.observe(this.root);
    this.update();
    this.shots();
    model.send({ type: "hello", view: this.name });
  }

  dispose() {
    for (const [trait, listener] of Object.entries(this.listeners)) this.model.off(`change:${trait}`, listener);
    clearInterval(this.clock);
    this.resizer.disconnect();
    for (const url of this.urls ?? []) URL.revokeObjectURL(url);
    this.model.send({ type: "bye", view: this.name });
  }

  build() {
    const part = (className, aria) => make("div", { className, aria });
    this.pill = make("span", { className: "stal-pill", aria: { role: "status", live: "polite" } });
    this.title = make("b");
    this.folder = make("span");
    this.about = part("stal-about");
    this.go = make("button", { type: "button", className: "stal-main stal-go", onclick: () => this.press("start") });
    this.halt = make("button", { type: "button", className: "stal-halt", textContent: "Pause", title: "The step at work is finished and saved", onclick: () => this.press("pause") });
    this.rail = part("stal-rail");
    this.where = make("span", { className: "stal-where" });
    this.seen = make("span", { className: "stal-seen" });
    this.words = part("stal-say", { role: "status", live: "polite" });
    this.tiles = part("stal-tiles");
    this.miou = new Miou("mIoU by acquired labels");
    this.loss = new Series("Terms of the loss", { smooth: true, unit: "value" });
    this.lanes = new Series("How often each class is drawn", { most: 3, unit: "probability", height: 330 });
    this.classes = part("stal-classes");
    this.noClasses = make("div", { className: "stal-none", textContent: "Begins with the first logged step." });
    this.classRead = make("span", { className: "stal-read" });
    const classes = make("figure", {}, make("figcaption", {}, "Class by class", this.classRead), this.classes, this.noClasses);
    this.histogram = new Histogram();
    this.gallery = part("stal-shots");
    this.warned = make("ul", { className: "stal-warned", hidden: true });
    this.query = make("section", { hidden: true }, this.warned, make("div", { className: "stal-query" }, this.histogram.root, this.gallery));
    this.label = make("button", { type: "button", className: "stal-main", textContent: "Label these images", onclick: () => this.press("label") });
    this.ids = part("stal-ids");
    this.waitingFor = make("h4");
    this.awaiting = make("section", { hidden: true }, this.waitingFor, this.ids, this.label,
      make("span", { className: "stal-read", textContent: "  or in a cell of your own: Annotator.of_run(run)" }));
    this.pre = make("pre");
    this.console = make("section", { hidden: true }, make("h4", { textContent: "Last words of the process (console.log)" }), this.pre);
    this.root = make("div", { className: "stal-dash", aria: { role: "region", label: "Dashboard of a run" } },
      make("div", { className: "stal-top" }, this.pill, make("div", { className: "stal-title" }, this.title, this.folder, this.about), make("div", { className: "stal-press" }, this.go, this.halt)),
      this.rail, make("div", { className: "stal-line" }, this.where, this.seen), this.words, this.awaiting, this.console, this.tiles,
      make("div", { className: "stal-charts" }, this.miou.root, this.loss.root, classes, this.lanes.root), this.query);
  }

  press(type) {
    this.pressed = performance.now();
    this.model.send({ type });
    this.buttons();
    setTimeout(() => this.buttons(), SETTLE + 50);
  }

  // Run `paint` if these facts are others than last time.
  part(name, facts, paint) {
    const text = JSON.stringify(facts);
    if (this.drawn[name] === text) return;
    this.drawn[name] = text;
    paint();
  }

  update() {
    const view = this.model.get("view"), curves = this.model.get("curves");
    if (!view.state) return;
    this.root.dataset.state = view.state;
    this.part("head", [view.name, view.folder, view.about, view.state], () => {
      this.title.textContent = view.name;
      this.folder.textContent = view.folder;
      this.about.textContent = view.about;
      this.pill.textContent = view.state === "new" ? "not started" : view.state;
    });
    this.buttons();
    this.part("rail", view.stages.map((s) => [s.name, s.is]), () => this.stages(view));
    const now = this.rail.querySelector(".stal-now i");
    if (now) now.style.width = view.steps && ["running", "stopped", "silent", "starting"].includes(view.state) ? `${Math.min(100, (100 * view.step) / view.steps)}%` : "0";
    this.where.textContent = view.stage ? view.stage + (view.steps ? `: step ${count(view.step)} of ${count(view.steps)}` : "") : "";
    this.say();
    this.age();
    this.part("tiles", view.tiles, () => this.tiles.replaceChildren(...view.tiles.map(([name, value]) =>
      make("div", { className: "stal-tile" }, make("b", { textContent: value }), make("span", { textContent: name })))));
    this.part("miou", [view.results, view.figures, view.lines, view.planned, view.measure], () => this.miou.show(view));
    if (this.curves !== curves || this.drawn.curves === undefined) {
      this.curves = curves;
      this.drawn.curves = "";
      const { terms = [], classes = [], colours = [], stages = [] } = curves;
      this.loss.show(terms, terms.map((term, k) => (term === "loss" ? "var(--ink)" : colours[k])), columns(curves.loss, 1 + terms.length), stages);
      this.lanes.show(classes, view.colours, columns(curves.lanes, 1 + classes.length), stages);
    }
    this.part("classes", [view.classes, view.results, view.sampling, view.bank, view.capacity], () => this.table(view));
    this.query.hidden = view.query.round === undefined;
    if (!this.query.hidden) this.part("query", view.query, () => {
      this.histogram.show(view.query);
      const warnings = view.query.warnings ?? [];
      this.warned.hidden = !warnings.length;
      this.warned.replaceChildren(...warnings.map((textContent) => make("li", { textContent })));
    });
    this.awaiting.hidden = view.state !== "awaiting labels";
    this.part("awaiting", view.awaiting, () => {
      const { images, done, first } = view.awaiting;
      this.waitingFor.textContent = done < images ? `${count(images - done)} of ${count(images)} images wait for their label` : `All ${count(images)} images are labelled: press Resume`;
      this.ids.replaceChildren(...first.map(({ id, done }) => make("code", { textContent: id, className: done ? "stal-done" : "" })), images > first.length ? `and ${count(images - first.length)} more` : "");
    });
    this.console.hidden = !view.console.length;
    this.part("console", view.console, () => {
      this.pre.textContent = view.console.join("\n");
      this.pre.scrollTop = this.pre.scrollHeight;
    });
  }

  buttons() {
    const { can } = this.model.get("view"), waiting = this.pressed && performance.now() - this.pressed < SETTLE;
    if (!can) return;
    this.go.textContent = can.again ? "Resume" : "Start";
    this.go.disabled = !can.start || waiting;
    this.halt.disabled = !can.pause || waiting;
  }

  say() {
    const view = this.model.get("view"), notice = this.model.get("notice");
    this.words.textContent = [view.message, notice].filter(Boolean).join(" ");
    this.words.hidden = !this.words.textContent;
  }

  age() {
    const { updated, state, host } = this.model.get("view");
    const seconds = updated ? Math.max(0, Date.now() / 1000 - updated) : 0;
    const ago = seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
    this.seen.textContent = updated ? `${state === "running" ? "last word" : "last worked"} ${ago} ago${host ? ` on ${host}` : ""}` : "";
  }

  stages(view) {
    const groups = [];
    for (const stage of view.stages) {
      if (!stage.group || groups.at(-1)?.[0] !== stage.group) groups.push([stage.group, []]);
      groups.at(-1)[1].push(stage);
    }
    const words = { done: "done", now: "at work or next", later: "later" };
    this.rail.replaceChildren(...groups.map(([group, stages]) => make("div", { className: `stal-group${group ? "" : " stal-single"}` }, make("span", { textContent: group }),
      make("div", {}, ...stages.map((s) => make("div", { className: `stal-step stal-${s.is}`, title: `${s.name}: ${words[s.is]}`, data: { stage: s.name } },
        make("i"), make("span", { textContent: s.is === "done" ? `${s.text} ✓` : s.text })))))));
  }

  table({ classes, colours, results, sampling, bank, capacity }) {
    this.noClasses.hidden = classes.length > 0;
    this.classes.hidden = !classes.length;
    if (!classes.length) return;
    const before = results[0]?.iou ?? [], after = results.at(-1)?.iou ?? [], most = Math.max(1e-9, ...sampling.map((v) => v ?? 0));
    const bar = (share, colour, line) => {
      const node = make("div", { className: "stal-bar" }, make("i", { style: { width: `${100 * Math.max(0, Math.min(1, share || 0))}%`, background: colour } }));
      if (Number.isFinite(line)) node.append(make("u", { style: { left: `calc(${100 * line}% - 1px)` } }));
      return node;
    };
    const number = (text) => make("span", { className: "stal-number", textContent: text });
    const head = (text) => make("b", { textContent: text });
    this.classRead.textContent = results.length > 1 ? `IoU after ${results.at(-1).name}; line: source only` : results.length ? "IoU of the source model" : "";
    this.classes.replaceChildren(head("class"), head("IoU"), head("%"), head("sampled"), head("%"), head(`bank of ${count(Math.max(0, ...capacity))}`),
      ...classes.flatMap((name, k) => [
        make("span", { className: "stal-name" }, make("i", { style: { background: colours[k] } }), name),
        bar((after[k] ?? 0) / 100, colours[k], results.length > 1 && before[k] > 0.5 ? before[k] / 100 : NaN), number(percent(after[k])),
        bar((sampling[k] ?? 0) / most, colours[k]), number(sampling[k] === null || sampling[k] === undefined ? "–" : (100 * sampling[k]).toFixed(1)),
        make("div", { title: `${count(bank[k] ?? 0)} entries` }, bar((bank[k] ?? 0) / Math.max(1, capacity[k] ?? 1), colours[k])),
      ]));
  }

  shots() {
    const { items = [], problem = "" } = this.model.get("pictures");
    const old = this.urls ?? [];
    this.urls = [];
    const picture = (data, alt) => {
      const url = URL.createObjectURL(new Blob([data], { type: "image/jpeg" }));
      this.urls.push(url);
      return make("img", { src: url, alt });
    };
    this.gallery.replaceChildren(...items.map((item) => make("div", {}, picture(item.image, item.id), ...(item.map ? [picture(item.map, `uncertainty of ${item.id}`)] : []),
      make("span", { title: item.id, textContent: item.id }), make("span", { textContent: Number.isFinite(item.entropy) ? `mean entropy ${item.entropy.toFixed(2)}` : "" }))),
      ...(problem ? [make("span", { textContent: `No pictures: ${problem}` })] : []));
    for (const url of old) URL.revokeObjectURL(url);
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.dispose();
  },
};
