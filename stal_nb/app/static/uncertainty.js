// The page side of stal_nb.app.uncertainty_explorer.UncertaintyExplorer. Python computes maps; everything that follows the pointer happens here.
//
// Messages, page -> Python:  {type: "hello"}                                  answered by a "show" with everything
// Messages, Python -> page:  {type: "show", key, parts: [names of buffers], image: {...}, inference: {...}, map: {...}}, buffers
//                            {type: "error", message}
// Buffers, row by row:       picture   JPEG                 truth    bytes, class ids, 255 = unknown
//                            classes   bytes, 5 planes      shares   uint16, 5 planes, 65535 = 1
//                            values    float32, 0 to 1      order    uint32, place in the order of uncertainty, 0 = least sure; 2^32 - 1 = no part
// What the controls say travels as traits.

const UNKNOWN = 255, NO_PART = 0xffffffff;
const SHADE = [170, 170, 170], MISSED = [214, 39, 40], CAUGHT = [255, 160, 30];
const ASKS = ["image", "network", "inference", "measure", "passes", "rate", "radius", "of_class", "calibrated"]; // traits that need Python
const SHOWS = ["percent", "colours"]; // traits that need none
const PATIENCE = 8000; // ms without an answer, after which the person is told

function make(tag, { style, data, aria, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.style, style);
  Object.assign(node.dataset, data);
  for (const [key, value] of Object.entries(aria ?? {})) node.setAttribute(key === "role" ? key : `aria-${key}`, value);
  node.append(...children);
  return node;
}

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
const percentText = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);
const packed = ([r, g, b], alpha = 255) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;

// -- what is looked at, shared by all views of one widget ---------------------------------------------------------------------------

class Session {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.key = -1;
    this.message = "Waiting for the kernel …";
    this.palette = model.get("palette");
    this.ramp = model.get("ramp");
    let queue = Promise.resolve(); // one message after the other: a later one may build on an earlier one
    model.on("msg:custom", (content, buffers) => (queue = queue.then(() => this.receive(content, buffers))));
    for (const name of ASKS) model.on(`change:${name}`, () => this.ask());
    for (const name of SHOWS) model.on(`change:${name}`, () => (this.shade(), this.changed()));
    this.hello();
  }

  hello() {
    this.ask();
    this.model.send({ type: "hello" });
  }

  ask() {
    this.pending = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.message = this.key < 0 ? "No kernel answers. Run this cell again to bring the explorer to life." : "Still waiting for the kernel …";
      this.changed();
    }, PATIENCE);
    this.changed();
  }

  set(name, value) {
    if (this.model.get(name) === value) return;
    this.model.set(name, value);
    this.model.save_changes();
  }

  changed() {
    for (const view of this.views) view.update();
  }

  async receive(content, buffers) {
    if (content.type === "error") {
      this.message = content.message;
      this.pending = false;
      clearTimeout(this.timer);
      return this.changed();
    }
    if (content.type !== "show" || content.key <= this.key) return;
    const part = {};
    content.parts.forEach((name, k) => {
      const view = buffers[k], bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength); // own, and aligned
      part[name] = name === "values" ? new Float32Array(bytes) : name === "order" ? new Uint32Array(bytes)
        : name === "shares" ? new Uint16Array(bytes) : new Uint8Array(bytes);
    });
    if (part.picture) part.picture = await createImageBitmap(new Blob([part.picture], { type: "image/jpeg" }));
    Object.assign(this, part, { key: content.key, about: content, message: "", pending: false });
    clearTimeout(this.timer);
    this.prepare(content.parts);
    this.changed();
  }

  get size() {
    return this.about.image; // {height, width, ...}
  }

  // The still layers of the four pictures, at the size of the image.
  prepare(parts) {
    const { height, width } = this.size, n = height * width;
    if (parts.includes("picture")) {
      const context = canvasOf(width, height).getContext("2d", { willReadFrequently: true });
      context.drawImage(this.picture, 0, 0, width, height);
      const rgba = context.getImageData(0, 0, width, height).data;
      this.pale = new Uint32Array(n); // a washed-out grey photograph, to paint errors on
      for (let i = 0; i < n; i++) {
        const grey = 190 + 0.25 * (rgba[4 * i] + rgba[4 * i + 1] + rgba[4 * i + 2]) / 3;
        this.pale[i] = packed([grey, grey, grey]);
      }
    }
    if (parts.includes("classes")) {
      const colour = new Uint32Array(256).fill(packed([0, 0, 0]));
      this.palette.forEach((rgb, k) => (colour[k] = packed(rgb)));
      this.predicted = this.paint((i) => colour[this.classes[i]]);
    }
    if (parts.includes("truth") || parts.includes("classes")) {
      this.wrong = new Uint8Array(n);
      for (let i = 0; i < n; i++) this.wrong[i] = this.truth[i] !== UNKNOWN && this.truth[i] !== this.classes[i] ? 1 : 0;
    }
    this.found = null; // errors among the first k pixels in order
    if (this.about.image.known) {
      const byPlace = new Uint8Array(this.about.map.count);
      for (let i = 0; i < n; i++) if (this.order[i] !== NO_PART) byPlace[this.order[i]] = this.wrong[i];
      this.found = new Uint32Array(byPlace.length + 1);
      for (let k = 0; k < byPlace.length; k++) this.found[k + 1] = this.found[k] + byPlace[k];
    }
    this.shade();
  }

  paint(colourOf) {
    const { height, width } = this.size, layer = canvasOf(width, height), pixels = new ImageData(width, height);
    const out = new Uint32Array(pixels.data.buffer);
    for (let i = 0; i < out.length; i++) out[i] = colourOf(i);
    layer.getContext("2d").putImageData(pixels, 0, 0);
    return layer;
  }

  // What follows the threshold and the colours.
  shade() {
    if (this.key < 0) return;
    const count = (this.shaded = Math.round((this.model.get("percent") / 100) * this.about.map.count));
    const { order, wrong, pale, values } = this, [grey, missed, caught] = [SHADE, MISSED, CAUGHT].map((rgb) => packed(rgb));
    const { width } = this.size, stripes = [packed(SHADE, 240), packed(SHADE, 90)]; // hatched: what is below stays visible
    this.veil = this.paint((i) => (order[i] < count ? stripes[((i % width) + ((i / width) | 0)) % 6 < 2 ? 0 : 1] : 0));
    this.errors = this.paint((i) => (wrong[i] ? (order[i] < count ? caught : missed) : order[i] < count ? grey : pale[i]));
    const { ramp } = this, steps = this.ramp.length - 1, gain = steps / this.high;
    const colour = Uint32Array.from(ramp, (rgb) => packed(rgb));
    this.map = this.paint((i) => colour[Math.min(steps, Math.round(values[i] * gain))]);
  }

  // The value that gets the brightest colour.
  get high() {
    const colours = this.model.get("colours"), { map } = this.about;
    return colours === "stretched" || (colours === "auto" && map.low) ? Math.max(map.high, 1e-6) : 1;
  }

  likeliest(i) {
    const n = this.size.height * this.size.width;
    return [0, 1, 2, 3, 4].filter((k) => k * n < this.classes.length).map((k) => [this.classes[k * n + i], this.shares[k * n + i] / 65535]);
  }
}

// -- one view of it -----------------------------------------------------------------------------------------------------------------

class View {
  constructor(session, el) {
    Object.assign(this, { session, zoomed: 1, x: 0, y: 0, pixel: null, pinned: false, drag: null });
    this.root = make("div", { className: "stal-uncertainty", tabIndex: 0, aria: { role: "application", label: "Uncertainty explorer" } });
    this.root.setAttribute("data-lm-suppress-shortcuts", "true");
    this.status = make("div", { className: "stal-status", aria: { role: "status", live: "polite" } });
    this.root.append(this.controls(), make("div", { className: "stal-stage" }, this.pictures(), this.side()), this.threshold(), this.status);
    el.append(this.root);
    session.views.add(this);
    this.resizer = new ResizeObserver(() => (this.root.classList.toggle("stal-narrow", this.root.clientWidth < 680), this.redraw()));
    this.resizer.observe(this.root);
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.update();
  }

  dispose() {
    this.session.views.delete(this);
    this.resizer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  // - controls -

  choice(name, trait, options, title = "") {
    const select = make("select", { title, aria: { label: name } });
    for (const [value, text] of options) select.append(make("option", { value, textContent: text }));
    select.addEventListener("change", () => this.session.set(trait, typeof this.session.model.get(trait) === "number" ? +select.value : select.value));
    const label = make("label", {}, make("span", { textContent: name }), select);
    return { label, select, trait };
  }

  slider(name, trait, min, max, step, show = String) {
    const input = make("input", { type: "range", min, max, step, aria: { label: name } }), shown = make("output");
    input.addEventListener("input", () => this.session.set(trait, +input.value));
    const label = make("label", {}, make("span", { textContent: name }), input, shown);
    return { label, input, shown, trait, show };
  }

  controls() {
    const { model } = this.session, catalogue = model.get("catalogue");
    const several = { single: "single pass", dropout: "dropout passes", ensemble: "ensemble" };
    this.image = this.choice("Image", "image", model.get("ids").map((id, k) => [k, id]));
    this.network = this.choice("Network", "network", model.get("networks").map((name) => [name, name]), "Which round's network looks at the image");
    this.inference = this.choice("Inference", "inference", model.get("kinds").map((kind) => [kind, several[kind]]), "How often and by whom each pixel is judged");
    this.measure = this.choice("Measure", "measure", catalogue.map(({ name, label }) => [name, label]));
    this.passes = this.slider("Passes", "passes", 2, 32, 1);
    this.rate = this.slider("Drop", "rate", 0.05, 0.7, 0.05, (v) => percentText(v));
    this.radius = this.slider("Radius", "radius", 1, 48, 1, (v) => `${v} px`);
    this.ofClass = this.choice("Class", "of_class", model.get("classes").map((name, k) => [k, name]));
    this.colours = this.choice("Colours", "colours", [["auto", "auto"], ["0-1", "0 to 1"], ["stretched", "stretched"]], "What the brightest colour stands for");
    this.selects = [this.image, this.network, this.inference, this.measure, this.ofClass, this.colours];
    this.sliders = [this.passes, this.rate, this.radius];
    const step = (by, text, name) => {
      const button = make("button", { type: "button", textContent: text, title: name, aria: { label: name } });
      button.addEventListener("click", () => this.session.set("image", (model.get("image") + by + model.get("ids").length) % model.get("ids").length));
      return button;
    };
    const box = make("input", { type: "checkbox", aria: { label: "Calibrated" } });
    box.addEventListener("change", () => this.session.set("calibrated", box.checked));
    this.calibrated = { box, label: make("label", { title: "Divide the logits by a temperature, so that of the pixels said at 0.8 eight in ten are right" }, box, make("span", { textContent: "calibrated" })) };
    this.image.label.append(step(-1, "‹", "Previous image"), step(1, "›", "Next image"));
    return make("div", { className: "stal-bar" }, ...[this.image, this.network, this.inference, this.passes, this.rate, this.measure, this.radius, this.ofClass,
      this.colours, this.calibrated].map((c) => c.label));
  }

  pictures() {
    this.panels = {};
    const grid = make("div", { className: "stal-grid" });
    for (const [name, text] of Object.entries({ picture: "image", predicted: "prediction", map: "uncertainty", errors: "errors" })) {
      const canvas = make("canvas", { data: { panel: name }, aria: { role: "img", label: text } });
      const caption = make("figcaption", {}, make("span", { textContent: text }));
      grid.append(make("figure", {}, canvas, caption));
      this.panels[name] = { canvas, caption: caption.firstChild, figcaption: caption };
      this.listen(canvas);
    }
    const stops = this.session.ramp.filter((_, k) => k % 32 === 0 || k === 255).map((rgb) => `rgb(${rgb.join(",")})`);
    this.most = make("span");
    this.panels.map.figcaption.append(make("span", { className: "stal-scale" }, "sure 0 ",
      make("i", { style: { background: `linear-gradient(90deg, ${stops.join(",")})` } }), this.most));
    this.keys = make("span", { className: "stal-keys" }, ...[[MISSED, "outside"], [CAUGHT, "under the shade"], [SHADE, "shaded"]].flatMap(([rgb, text]) => [
      make("i", { style: { background: `rgb(${rgb.join(",")})` } }), text]));
    this.panels.errors.figcaption.append(this.keys);
    return grid;
  }

  side() {
    this.where = make("div", { className: "stal-where" });
    this.bars = make("div", { className: "stal-bars", data: { testid: "bars" } });
    this.verdict = make("div", { className: "stal-verdict" });
    this.honesty = make("div", { className: "stal-calibration", data: { testid: "calibration" } });
    this.curve = make("canvas", { className: "stal-curve", aria: { role: "img", label: "Share of the errors found by share of the pixels shaded" } });
    return make("div", { className: "stal-side" }, make("b", { textContent: "This pixel" }), this.where, this.bars, this.verdict,
      make("b", { textContent: "Errors found in this image" }), this.curve, this.honesty);
  }

  threshold() {
    this.percent = this.slider("Shade the most uncertain", "percent", 0, 100, 1, (v) => `${v} %`);
    this.sliders.push(this.percent);
    this.says = make("span", { className: "stal-says", data: { testid: "says" } });
    return make("div", { className: "stal-threshold" }, this.percent.label, this.says);
  }

  // - keeping the page in step -

  update() {
    const { session } = this, { model } = session, inference = model.get("inference"), measure = model.get("measure");
    const now = model.get("catalogue").find((m) => m.name === measure);
    for (const { select, trait } of this.selects) select.value = String(model.get(trait));
    for (const { input, shown, trait, show } of this.sliders) {
      input.value = model.get(trait);
      shown.textContent = show(model.get(trait));
    }
    for (const option of this.measure.select.options) option.disabled = inference === "single" && model.get("catalogue").find((m) => m.name === option.value).several;
    this.measure.select.title = now?.text ?? "";
    const visible = (control, yes) => (control.label.hidden = !yes);
    visible(this.passes, inference === "dropout");
    visible(this.rate, inference === "dropout");
    visible(this.radius, now?.parameter === "radius");
    visible(this.ofClass, now?.parameter === "class");
    const fittable = model.get("fittable") ?? [];
    visible(this.calibrated, fittable.length > 0);
    this.calibrated.box.checked = model.get("calibrated");
    this.calibrated.box.disabled = inference !== "ensemble" && !fittable.includes(model.get("network"));
    this.network.select.disabled = inference === "ensemble";
    this.root.classList.toggle("stal-pending", Boolean(session.pending));
    this.status.textContent = session.message;
    this.status.classList.toggle("stal-bad", Boolean(session.message) && !session.pending);
    if (session.key >= 0) this.describe(now);
    this.redraw();
  }

  describe(now) {
    const { session } = this, { model } = session, { image, map } = session.about, { shaded, found } = session, high = session.high;
    this.most.textContent = ` ${high === 1 ? "1" : high.toPrecision(2)} unsure`;
    this.panels.map.caption.textContent = `${now?.label ?? "map"}, mean ${map.mean.toFixed(map.mean < 0.1 ? 3 : 2)}`;
    this.panels.picture.caption.textContent = image.group ? `image, ${image.group}` : "image";
    this.panels.errors.caption.textContent = found ? `${percentText(map.error)} wrong` : "no labels here";
    this.keys.hidden = !found;
    const { fitted } = map, of = fitted?.stage === model.get("network") ? "it" : `the network of ${fitted?.stage}`;
    const sure = map.ece === null || map.ece === undefined ? "" : `Says ${percentText(map.confidence)} of itself, is right in ${percentText(1 - map.error)}: ECE ${map.ece.toFixed(2)}. `;
    const fit = fitted ? `T = ${fitted.value.toFixed(2)}, from ${fitted.images} labelled image${fitted.images === 1 ? "" : "s"} that ${of} had not been trained on.`
      : model.get("calibrated") && model.get("fittable")?.length && model.get("inference") !== "ensemble" ? "No labels yet that a network had not been trained on: nothing to fit a temperature to." : "";
    this.honesty.textContent = sure + fit;
    const share = map.count ? shaded / map.count : 0, total = found?.[map.count] ?? 0;
    if (!found) this.says.textContent = "The labels of this image are not known, so nobody can say what the shade holds.";
    else if (!total) this.says.textContent = "Nothing is wrong here.";
    else {
      const caught = found[shaded] / total, most = Math.min(1, shaded / total);
      this.says.replaceChildren("holds ", make("b", { textContent: `${percentText(caught)} of the errors` }),
        share > 0 && share < 1 ? ` — ${(caught / share).toFixed(1)} × chance; at most ${percentText(most)} is possible` : "");
      this.says.dataset.caught = caught;
    }
  }

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { session } = this;
    if (session.key < 0 || !this.root.isConnected) return;
    const { height, width } = session.size, ratio = window.devicePixelRatio || 1;
    const across = this.panels.picture.canvas.parentNode.clientWidth;
    if (!across) return;
    this.fit = Math.min(across / width, 420 / height); // page pixels an image pixel, when all is shown
    this.clamp();
    for (const [name, { canvas }] of Object.entries(this.panels)) {
      const [w, h] = [Math.round(width * this.fit), Math.round(height * this.fit)];
      Object.assign(canvas.style, { width: `${w}px`, height: `${h}px` });
      if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio))
        Object.assign(canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
      const context = canvas.getContext("2d"), scale = this.fit * this.zoomed * ratio;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.setTransform(scale, 0, 0, scale, -this.x * scale, -this.y * scale);
      context.imageSmoothingEnabled = scale < 1;
      context.drawImage(session[name], 0, 0, width, height);
      if (name === "picture") context.drawImage(session.veil, 0, 0, width, height);
      this.cross(context, scale, ratio, width, height);
    }
    this.showPixel();
    this.drawCurve(ratio);
    this.root.dataset.shown = session.key;
  }

  cross(context, scale, ratio, width, height) {
    if (!this.pixel) return;
    const [x, y] = this.pixel, line = ratio / scale, arm = 9 * line;
    context.lineWidth = line;
    for (const [colour, shift] of [["rgba(0,0,0,0.75)", line], ["#fff", 0]]) {
      context.strokeStyle = colour;
      context.beginPath();
      const [cx, cy] = [x + 0.5 + shift, y + 0.5 + shift];
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(cx + dx * 0.7 * arm, cy + dy * 0.7 * arm);
        context.lineTo(cx + dx * 2 * arm, cy + dy * 2 * arm);
      }
      context.rect(x + shift, y + shift, 1, 1);
      context.stroke();
    }
  }

  showPixel() {
    const { session } = this, names = session.model.get("classes"), { height, width } = session.size;
    if (!this.pixel) {
      this.where.textContent = "Point at any of the pictures.";
      this.verdict.textContent = "Click to pin; drag and wheel or + and − to zoom.";
    }
    const i = this.pixel ? this.pixel[1] * width + this.pixel[0] : null;
    const rows = i === null ? [] : session.likeliest(i), truth = i === null ? UNKNOWN : session.truth[i];
    while (this.bars.children.length < 5) {
      this.bars.append(make("div", { className: "stal-row" }, make("span"), make("div", {}, make("i")), make("span")));
    }
    [...this.bars.children].forEach((row, k) => {
      const [name, bar, number] = row.children, known = rows[k] !== undefined;
      name.textContent = known ? names[rows[k][0]] : "";
      name.classList.toggle("stal-true", known && rows[k][0] === truth);
      bar.firstChild.style.width = known ? `${100 * rows[k][1]}%` : "0";
      bar.firstChild.style.background = known ? `rgb(${session.palette[rows[k][0]].join(",")})` : "none";
      number.textContent = known ? (rows[k][1] < 0.01 ? "< 1" : Math.round(100 * rows[k][1])) : "";
    });
    this.verdict.classList.toggle("stal-wrong", i !== null && Boolean(session.wrong[i]));
    if (i === null) return;
    const { count } = session.about.map, place = session.order[i];
    this.where.textContent = `row ${this.pixel[1]}, column ${this.pixel[0]}${this.pinned ? " (pinned)" : ""}: ${session.values[i].toFixed(3)}`
      + (place === NO_PART ? "" : `, in the top ${Math.max(1, Math.ceil((100 * (place + 1)) / count))} %`);
    this.verdict.textContent = truth === UNKNOWN ? "No label here." : `Label: ${names[truth]}. The prediction is ${session.wrong[i] ? "wrong" : "right"}.`;
  }

  // Share of errors found (up) by share of pixels shaded (right); dashed: chance, dotted: an oracle.
  drawCurve(ratio) {
    const { session, curve } = this, [w, h, left, low, top] = [curve.clientWidth, curve.clientHeight, 34, 18, 8];
    if (!w) return;
    Object.assign(curve, { width: w * ratio, height: h * ratio });
    const context = curve.getContext("2d"), ink = getComputedStyle(this.root).color;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = "10.5px system-ui, sans-serif";
    context.fillStyle = context.strokeStyle = ink;
    const { found } = session, { count } = session.about.map, total = found?.[count];
    const px = (share) => left + share * (w - left - 12), py = (share) => h - low - share * (h - low - top);
    context.globalAlpha = 0.35;
    context.strokeRect(px(0), py(1), px(1) - px(0), py(0) - py(1));
    context.globalAlpha = 0.8;
    context.textAlign = "right";
    for (const share of [0, 0.5, 1]) context.fillText(`${100 * share}%`, left - 4, py(share) + 4);
    context.textAlign = "center";
    for (const share of [0.5, 1]) context.fillText(`${100 * share}%`, px(share) - (share === 1 ? 4 : 0), h - 4);
    context.textAlign = "left";
    context.fillText("shaded", px(0), h - 4);
    context.globalAlpha = 1;
    if (!total) return;
    const line = (points, colour, dash, wide) => {
      context.beginPath();
      points.forEach(([x, y]) => context.lineTo(px(x), py(y)));
      Object.assign(context, { strokeStyle: colour, lineWidth: wide });
      context.setLineDash(dash);
      context.stroke();
      context.setLineDash([]);
    };
    line([[0, 0], [1, 1]], "#999", [5, 4], 1);
    line([[0, 0], [total / count, 1], [1, 1]], ink, [1.5, 3], 1.2);
    line(Array.from({ length: 101 }, (_, k) => [k / 100, found[Math.round((k / 100) * count)] / total]), "#b5367a", [], 2);
    const [x, y] = [session.shaded / count, found[session.shaded] / total];
    line([[x, 0], [x, y], [0, y]], "#e08214", [2, 2], 1);
    context.fillStyle = "#e08214";
    context.beginPath();
    context.arc(px(x), py(y), 4, 0, 7);
    context.fill();
    context.fillStyle = ink;
    context.textAlign = "right";
    context.fillText(`AUROC ${session.about.map.auroc?.toFixed(2) ?? "–"}`, px(1) - 5, py(0) - 19);
    context.fillText(`AUSE ${session.about.map.ause?.toFixed(2) ?? "–"}`, px(1) - 5, py(0) - 6);
  }

  // - pointer and keys -

  clamp() {
    const { height, width } = this.session.size;
    this.zoomed = Math.min(40, Math.max(1, this.zoomed));
    this.x = Math.min(width - width / this.zoomed, Math.max(0, this.x));
    this.y = Math.min(height - height / this.zoomed, Math.max(0, this.y));
  }

  at(event, canvas) {
    const box = canvas.getBoundingClientRect(), scale = this.fit * this.zoomed;
    return [this.x + (event.clientX - box.left) / scale, this.y + (event.clientY - box.top) / scale];
  }

  point(x, y) {
    const { height, width } = this.session.size;
    this.pixel = [Math.min(width - 1, Math.max(0, Math.floor(x))), Math.min(height - 1, Math.max(0, Math.floor(y)))];
    this.redraw();
  }

  zoom(factor, x, y) {
    const { height, width } = this.session.size, before = this.zoomed;
    [x, y] = [x ?? this.x + width / before / 2, y ?? this.y + height / before / 2];
    this.zoomed = Math.min(40, Math.max(1, before * factor));
    this.x = x - ((x - this.x) * before) / this.zoomed;
    this.y = y - ((y - this.y) * before) / this.zoomed;
    this.redraw();
  }

  listen(canvas) {
    const ready = (action) => (event) => this.session.key >= 0 && this.fit && action(event);
    canvas.addEventListener("pointerdown", ready((event) => {
      this.root.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.drag = { from: [event.clientX, event.clientY], view: [this.x, this.y], moved: false };
    }));
    canvas.addEventListener("pointermove", ready((event) => {
      if (this.drag) {
        const [dx, dy] = [event.clientX - this.drag.from[0], event.clientY - this.drag.from[1]], scale = this.fit * this.zoomed;
        this.drag.moved ||= Math.hypot(dx, dy) > 4;
        if (this.drag.moved) [this.x, this.y] = [this.drag.view[0] - dx / scale, this.drag.view[1] - dy / scale];
        this.redraw();
      } else if (!this.pinned) this.point(...this.at(event, canvas));
    }));
    canvas.addEventListener("pointerup", ready((event) => {
      if (this.drag && !this.drag.moved) {
        const was = this.pinned;
        this.point(...this.at(event, canvas));
        this.pinned = !was;
      }
      this.drag = null;
    }));
    canvas.addEventListener("pointercancel", () => (this.drag = null));
    canvas.addEventListener("pointerleave", () => {
      if (!this.pinned && !this.drag) {
        this.pixel = null;
        this.redraw();
      }
    });
    canvas.addEventListener("dblclick", ready(() => this.zoom(1e-6)));
    canvas.addEventListener("wheel", ready((event) => { // without focus the wheel scrolls the notebook
      if (!(this.root.contains(document.activeElement) || event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      event.stopPropagation();
      this.zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.003), ...this.at(event, canvas));
    }), { passive: false });
  }

  key(event) {
    if (event.target !== this.root || this.session.key < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const { height, width } = this.session.size, [x, y] = this.pixel ?? [width >> 1, height >> 1];
    const move = (dx, dy) => () => ((this.pinned = true), this.point(x + dx, y + dy));
    const action = { "+": () => this.zoom(1.5, x, y), "=": () => this.zoom(1.5, x, y), "-": () => this.zoom(1 / 1.5, x, y), Home: () => this.zoom(1e-6),
      ArrowLeft: move(-1, 0), ArrowRight: move(1, 0), ArrowUp: move(0, -1), ArrowDown: move(0, 1),
      Escape: () => ((this.pinned = false), (this.pixel = null), this.redraw()) }[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }
}

export default () => {
  let session;
  return {
    initialize({ model }) {
      session = new Session(model);
    },
    render({ el }) {
      const view = new View(session, el);
      return () => view.dispose();
    },
  };
};
