// The page side of stal_nb.explore.annotation.Annotator. Everything a person paints stays in the browser until it is saved.
//
// Messages, page -> Python:  {type: "open", id}                                        answered by "image" or "error"
//                            {type: "save", id, request, seconds, done}, [labels]      answered by "saved" or "error"
// Messages, Python -> page:  {type: "image", id, height, width, begin}, [JPEG, labels, prediction if there is one]
//                            {type: "saved", id, request}
//                            {type: "error", id, request, message}
// Labels travel as one byte a pixel, row by row, deflated (zlib). 255 = unlabelled.

const IGNORE = 255;
const UNDO_STEPS = 200;
const PAUSE = 30_000; // ms: of a longer pause only this much counts as work
const TALLEST = 640; // px: canvas height on the page
const TOOLS = { Brush: "b", Eraser: "e", Rectangle: "r", Fill: "f" };

// -- bytes ------------------------------------------------------------------------------------------------------------------------

async function through(stream, data) {
  return new Uint8Array(await new Response(new Blob([data]).stream().pipeThrough(stream)).arrayBuffer());
}
const deflate = (data) => through(new CompressionStream("deflate"), data);
const inflate = (data) => through(new DecompressionStream("deflate"), data);

// -- one image being labelled -----------------------------------------------------------------------------------------------------

class Work {
  constructor({ id, height, width }, picture, labels, prediction, colours) {
    Object.assign(this, { id, height, width, picture, labels, prediction });
    this.seconds = 0; // of work since the last save
    this.undone = [];
    this.steps = []; // each: a box, its bytes before the step, the stamp before the step
    this.stamp = this.savedStamp = 0; // a number for each state of the labels; equal = nothing unsaved
    this.lastStamp = 0;
    this.overlay = Object.assign(document.createElement("canvas"), { width, height });
    this.pixels = new ImageData(width, height);
    this.paint32 = new Uint32Array(this.pixels.data.buffer);
    this.colour32 = new Uint32Array(256); // unlabelled and unknown stay transparent
    colours.forEach(([r, g, b], k) => (this.colour32[k] = (255 << 24) | (b << 16) | (g << 8) | r));
    this.recolour({ x0: 0, y0: 0, x1: width, y1: height });
  }

  get unsaved() {
    return this.stamp !== this.savedStamp;
  }

  recolour({ x0, y0, x1, y1 }) {
    if (x1 <= x0 || y1 <= y0) return;
    for (let y = y0; y < y1; y++)
      for (let k = y * this.width + x0, end = y * this.width + x1; k < end; k++) this.paint32[k] = this.colour32[this.labels[k]];
    this.overlay.getContext("2d").putImageData(this.pixels, 0, 0, x0, y0, x1 - x0, y1 - y0);
  }

  // A step is everything between begin and end: one stroke, one rectangle, one fill.
  beginStep() {
    this.before = this.labels.slice();
    this.box = null;
  }

  touch(x0, y0, x1, y1) {
    const b = (this.box ??= { x0, y0, x1, y1 });
    Object.assign(b, { x0: Math.min(b.x0, x0), y0: Math.min(b.y0, y0), x1: Math.max(b.x1, x1), y1: Math.max(b.y1, y1) });
    this.recolour({ x0, y0, x1, y1 });
  }

  endStep() {
    if (this.box && this.before) {
      this.steps.push({ box: this.box, bytes: this.cut(this.before, this.box), stamp: this.stamp });
      if (this.steps.length > UNDO_STEPS) this.steps.shift();
      this.undone = [];
      this.stamp = ++this.lastStamp;
    }
    this.before = this.box = null;
  }

  cancelStep() {
    if (this.before) {
      this.labels.set(this.before);
      if (this.box) this.recolour(this.box);
    }
    this.before = this.box = null;
  }

  cut(labels, { x0, y0, x1, y1 }) {
    const bytes = new Uint8Array((x1 - x0) * (y1 - y0));
    for (let y = y0; y < y1; y++) bytes.set(labels.subarray(y * this.width + x0, y * this.width + x1), (y - y0) * (x1 - x0));
    return bytes;
  }

  // Undo and redo swap a box with its other version.
  swap(from, to) {
    const step = from.pop();
    if (!step) return;
    const { box } = step;
    to.push({ box, bytes: this.cut(this.labels, box), stamp: this.stamp });
    for (let y = box.y0, n = box.x1 - box.x0; y < box.y1; y++)
      this.labels.set(step.bytes.subarray((y - box.y0) * n, (y - box.y0 + 1) * n), y * this.width + box.x0);
    this.stamp = step.stamp;
    this.recolour(box);
  }

  undo() {
    this.swap(this.steps, this.undone);
  }

  redo() {
    this.swap(this.undone, this.steps);
  }

  // Pixels whose centre is nearer than size / 2 to the line between two pixel centres.
  stroke(ax, ay, bx, by, size, label) {
    const r = size / 2;
    const x0 = Math.max(0, Math.floor(Math.min(ax, bx) - r)), x1 = Math.min(this.width, Math.ceil(Math.max(ax, bx) + r) + 1);
    const y0 = Math.max(0, Math.floor(Math.min(ay, by) - r)), y1 = Math.min(this.height, Math.ceil(Math.max(ay, by) + r) + 1);
    if (x1 <= x0 || y1 <= y0) return;
    const dx = bx - ax, dy = by - ay, length2 = dx * dx + dy * dy;
    for (let y = y0; y < y1; y++)
      for (let x = x0; x < x1; x++) {
        const t = length2 ? Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / length2)) : 0;
        const ex = x - ax - t * dx, ey = y - ay - t * dy;
        if (ex * ex + ey * ey < r * r) this.labels[y * this.width + x] = label;
      }
    this.touch(x0, y0, x1, y1);
  }

  // Both corners belong to the rectangle.
  rectangle(ax, ay, bx, by, label) {
    const x0 = Math.max(0, Math.min(ax, bx)), x1 = Math.min(this.width, Math.max(ax, bx) + 1);
    const y0 = Math.max(0, Math.min(ay, by)), y1 = Math.min(this.height, Math.max(ay, by) + 1);
    if (x1 <= x0 || y1 <= y0) return;
    for (let y = y0; y < y1; y++) this.labels.fill(label, y * this.width + x0, y * this.width + x1);
    this.touch(x0, y0, x1, y1);
  }

  // The piece of one class around a pixel: neighbours above, below, left and right.
  fill(x, y, label) {
    const { width, height, labels } = this, first = y * width + x, old = labels[first];
    if (old === label) return;
    const queue = new Int32Array(width * height);
    let end = 0, x0 = x, x1 = x, y0 = y, y1 = y;
    const visit = (k) => {
      if (labels[k] === old) (labels[k] = label), (queue[end++] = k);
    };
    visit(first);
    for (let start = 0; start < end; start++) {
      const k = queue[start], px = k % width, py = (k - px) / width;
      x0 = Math.min(x0, px), x1 = Math.max(x1, px), y0 = Math.min(y0, py), y1 = Math.max(y1, py);
      if (px > 0) visit(k - 1);
      if (px < width - 1) visit(k + 1);
      if (py > 0) visit(k - width);
      if (py < height - 1) visit(k + width);
    }
    this.touch(x0, y0, x1 + 1, y1 + 1);
  }

  // Counted once for each state of the labels.
  shareUnlabelled() {
    if (this.countedStamp !== this.stamp) {
      let count = 0;
      for (let k = 0; k < this.labels.length; k++) count += this.labels[k] === IGNORE;
      Object.assign(this, { countedStamp: this.stamp, share: count / this.labels.length });
    }
    return this.share;
  }

  acceptPrediction() {
    this.beginStep();
    this.labels.set(this.prediction);
    this.touch(0, 0, this.width, this.height);
    this.endStep();
  }
}

// -- what all views of one widget share --------------------------------------------------------------------------------------------

class Session {
  constructor(model) {
    this.model = model;
    this.works = new Map(); // id -> Work
    this.notes = new Map(); // id -> {text, bad}: the last message about an image
    this.waiting = new Map(); // request -> {stamp, seconds} of the labels that were sent
    this.asked = new Set(); // ids whose image is on its way
    this.failed = new Set(); // ids whose image cannot be had; asked for again when one comes back to it
    this.requests = 0;
    this.views = new Set();
    this.tool = "Brush";
    this.label = 0;
    this.size = 9;
    this.opacity = 0.55;
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
    for (const name of ["index", "status"]) model.on(`change:${name}`, () => this.changed());
  }

  get ids() {
    return this.model.get("ids");
  }
  get id() {
    return this.ids[this.model.get("index")];
  }
  get work() {
    return this.works.get(this.id);
  }

  changed() {
    for (const view of this.views) view.update();
  }

  note(id, text, bad = false) {
    this.notes.set(id, { text, bad });
    this.changed();
  }

  // Says so when the kernel takes long: it may be busy with a cell, or gone.
  send(content, buffers, answered) {
    const { id } = content;
    try {
      this.model.send(content, undefined, buffers);
    } catch (error) {
      return this.note(id, `No kernel: run the cell that made this widget. (${error.message ?? error})`, true);
    }
    setTimeout(() => {
      if (!answered()) this.note(id, `Still waiting for the kernel to ${content.type} this image: it may be busy with a cell, or stopped.`, true);
    }, 4000);
  }

  open(id) {
    if (this.works.has(id) || this.asked.has(id) || this.failed.has(id)) return;
    this.asked.add(id);
    this.notes.set(id, { text: "Loading …" });
    this.send({ type: "open", id }, [], () => !this.asked.has(id));
  }

  async save(done) {
    const work = this.work;
    if (!work) return;
    const request = ++this.requests;
    const { id, stamp, seconds } = work;
    this.waiting.set(request, { stamp, seconds });
    work.seconds = 0;
    this.note(id, "Saving …");
    const bytes = await deflate(work.labels.slice());
    this.send({ type: "save", id, request, done, seconds }, [bytes.buffer], () => !this.waiting.has(request));
  }

  async receive(message, buffers) {
    const { type, id, request } = message;
    if (type === "image") {
      try {
        const [picture, labels, prediction] = await Promise.all([
          createImageBitmap(new Blob([buffers[0]], { type: "image/jpeg" })), inflate(buffers[1]), buffers[2] && inflate(buffers[2])]);
        this.works.set(id, new Work(message, picture, labels, prediction, this.model.get("colours")));
        const begin = { saved: "Shows the labels saved earlier.", prediction: "Starts from the model's prediction.", empty: "Starts empty." };
        this.notes.set(id, { text: begin[message.begin] });
      } catch (error) {
        this.failed.add(id);
        this.notes.set(id, { text: `The image cannot be shown: ${error.message}`, bad: true });
      }
      this.asked.delete(id);
      if (id === this.id) this.active(); // looking counts from now on
    } else {
      const work = this.works.get(id), sent = this.waiting.get(request);
      this.waiting.delete(request);
      this.asked.delete(id);
      if (type === "saved") {
        if (work && sent) work.savedStamp = sent.stamp;
        this.notes.set(id, { text: message.done ? "Saved, done." : "Saved." });
      } else {
        if (work && sent) work.seconds += sent.seconds; // they are still to be recorded
        if (!work) this.failed.add(id);
        this.notes.set(id, { text: `${sent ? "Not saved: " : ""}${message.message}`, bad: true });
      }
    }
    this.changed();
  }

  // Time at work on an image: the gaps between what the person does, long pauses cut short.
  active() {
    const now = performance.now();
    if (this.work && this.lastId === this.id) this.work.seconds += Math.min(now - this.lastActive, PAUSE) / 1000;
    this.lastActive = now;
    this.lastId = this.work ? this.id : null;
  }

  go(index) {
    if (index < 0 || index >= this.ids.length || index === this.model.get("index")) return;
    this.failed.delete(this.ids[index]);
    this.model.set("index", index);
    this.model.save_changes();
    this.active();
    this.changed();
  }
}

// -- what is on the page -----------------------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const { data, aria, style, ...plain } = properties;
  const node = Object.assign(document.createElement(tag), plain);
  for (const [key, value] of Object.entries(aria ?? {})) node.setAttribute(key === "role" ? key : `aria-${key}`, value);
  Object.assign(node.dataset, data ?? {});
  Object.assign(node.style, style ?? {});
  node.append(...children);
  return node;
}

class View {
  constructor(session, el) {
    this.session = session;
    this.scale = 1; // page pixels an image pixel
    this.x = this.y = 0; // where the image's corner is, in page pixels of the canvas
    this.fitted = true;
    this.root = make("div", { className: "stal-annotator", tabIndex: 0, aria: { role: "application", label: "Annotator" } });
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab would take "b", "1", … for itself
    this.canvas = make("canvas", { data: { testid: "annotator-canvas" } });
    this.status = make("div", { className: "stal-status", aria: { role: "status", live: "polite" } });
    this.under = make("div", { className: "stal-under" });
    this.root.append(this.topBar(), make("div", { className: "stal-stage" }, this.canvas), this.under, this.palette(), this.status);
    el.append(this.root);
    this.listen();
    session.views.add(this);
    this.resizer = new ResizeObserver(() => this.layout());
    this.resizer.observe(this.root);
    this.update();
  }

  dispose() {
    this.session.views.delete(this);
    this.cancel();
    this.resizer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  // - controls -

  button(name, action, title = name) {
    const node = make("button", { type: "button", textContent: name, title });
    node.addEventListener("click", (event) => {
      this.session.active();
      action();
      if (event.detail) this.root.focus({ preventScroll: true }); // after a mouse click, keys go to the image again
      this.session.changed();
    });
    return node;
  }

  slider(name, min, max, step, value, change) {
    const input = make("input", { type: "range", min, max, step, value, aria: { label: name } });
    const shown = make("span", { className: "stal-value" });
    input.addEventListener("input", () => (change(+input.value), this.session.changed()));
    return [make("label", {}, `${name} `, input, shown), input, shown];
  }

  topBar() {
    const s = this.session;
    this.tools = Object.entries(TOOLS).map(([name, key]) => this.button(name, () => (s.tool = name), `${name} (${key.toUpperCase()})`));
    const [sizeLabel, sizeInput, sizeShown] = this.slider("Brush size", 1, 81, 2, s.size, (v) => (s.size = v));
    const [opacityLabel, opacityInput, opacityShown] = this.slider("Overlay opacity", 0, 100, 5, s.opacity * 100, (v) => (s.opacity = v / 100));
    Object.assign(this, { sizeInput, sizeShown, opacityInput, opacityShown });
    this.undoButton = this.button("Undo", () => s.work?.undo(), "Undo (Ctrl+Z)");
    this.redoButton = this.button("Redo", () => s.work?.redo(), "Redo (Ctrl+Shift+Z)");
    this.acceptButton = this.button("Accept prediction", () => s.work?.acceptPrediction(), "Give every pixel the model's class (A)");
    this.saveButton = this.button("Save", () => s.save(this.isDone()), "Save (Ctrl+S)");
    this.doneButton = this.button("Done", () => s.save(true), "Save, and mark the image as done (D)");
    this.previousButton = this.button("Previous image", () => s.go(s.model.get("index") - 1), "Previous image (P)");
    this.nextButton = this.button("Next image", () => s.go(s.model.get("index") + 1), "Next image (N)");
    this.queue = make("select", { title: "Images to label", aria: { label: "Image" } });
    this.queue.addEventListener("change", () => s.go(this.queue.selectedIndex));
    const group = (...nodes) => make("span", { className: "stal-group" }, ...nodes);
    return make("div", { className: "stal-bar" },
      group(...this.tools), group(sizeLabel), group(opacityLabel), group(this.undoButton, this.redoButton), group(this.acceptButton),
      group(this.button("Zoom out", () => this.zoom(1 / 1.5)), this.button("Fit", () => this.fit(), "Whole image (Home)"),
        this.button("Zoom in", () => this.zoom(1.5))),
      group(this.previousButton, this.queue, this.nextButton), group(this.saveButton, this.doneButton));
  }

  palette() {
    const { model } = this.session, colours = model.get("colours");
    this.classes = model.get("classes").map((name, k) => {
      const key = k < 10 ? `${(k + 1) % 10}` : k < 20 ? `⇧${(k + 1) % 10}` : "";
      const node = this.button(name, () => (this.session.label = k), key ? `${name} (${key.replace("⇧", "Shift+")})` : name);
      node.prepend(make("i", { style: { background: `rgb(${colours[k].join(",")})` }, aria: { hidden: "true" } }));
      if (key) node.append(make("kbd", { textContent: key, aria: { hidden: "true" } }));
      node.setAttribute("aria-label", name);
      return node;
    });
    return make("div", { className: "stal-palette", aria: { role: "group", label: "Classes" } }, ...this.classes);
  }

  isDone() {
    return this.session.model.get("status")[this.session.id] === "done";
  }

  // - keeping the page in step with the session -

  update() {
    const s = this.session, { model, work } = s, index = model.get("index"), status = model.get("status");
    if (this.shownId !== s.id) {
      this.shownId = s.id;
      this.fitted = true;
      this.drag = null;
    }
    s.open(s.id);
    this.tools.forEach((node) => node.setAttribute("aria-pressed", node.textContent === s.tool));
    this.classes.forEach((node, k) => node.setAttribute("aria-pressed", k === s.label));
    this.sizeInput.value = s.size;
    this.sizeShown.textContent = `${s.size} px`;
    this.opacityInput.value = Math.round(s.opacity * 100);
    this.opacityShown.textContent = `${Math.round(s.opacity * 100)} %`;
    this.undoButton.disabled = !work?.steps.length;
    this.redoButton.disabled = !work?.undone.length;
    this.acceptButton.disabled = !work?.prediction;
    this.saveButton.disabled = this.doneButton.disabled = !work;
    this.previousButton.disabled = index === 0;
    this.nextButton.disabled = index === s.ids.length - 1;
    const state = (id) => (!s.works.get(id)?.unsaved ? status[id] : status[id] === "done" ? "done, unsaved changes" : "unsaved changes");
    const entries = s.ids.map((id, k) => `${k + 1} of ${s.ids.length} · ${id} · ${state(id)}`);
    if (this.entries !== entries.join("\n")) {
      this.entries = entries.join("\n");
      this.queue.replaceChildren(...entries.map((text) => make("option", { textContent: text })));
    }
    this.queue.selectedIndex = index;
    const note = s.notes.get(s.id) ?? {};
    this.status.textContent = note.text ?? "";
    this.status.classList.toggle("stal-bad", Boolean(note.bad));
    this.canvas.setAttribute("aria-label", `Image ${s.id} with its labels`);
    this.root.dataset.state = state(s.id);
    this.layout();
    this.describe();
  }

  describe() {
    const { work, model } = this.session, at = this.at;
    if (!work) return (this.under.textContent = "");
    const inside = at && at.x >= 0 && at.y >= 0 && at.x < work.width && at.y < work.height;
    const label = inside ? work.labels[at.y * work.width + at.x] : null;
    const name = label === IGNORE ? "unlabelled" : model.get("classes")[label];
    const free = work.shareUnlabelled();
    this.under.textContent = `${(100 * free).toFixed(free > 0 && free < 0.1 ? 1 : 0)} % unlabelled${inside ? ` · x ${at.x}, y ${at.y}: ${name}` : ""}`;
  }

  layout() {
    const { work } = this.session;
    const room = this.canvas.parentElement.clientWidth;
    if (!work || room <= 0) return this.redraw();
    const width = Math.max(1, Math.min(room, Math.round((TALLEST * work.width) / work.height)));
    const height = Math.round((width * work.height) / work.width);
    const ratio = window.devicePixelRatio || 1;
    if (this.width !== width || this.height !== height || this.ratio !== ratio) {
      Object.assign(this, { width, height, ratio });
      Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
      this.clamp();
    }
    if (this.fitted) this.fit();
    this.redraw();
  }

  fit() {
    const { work } = this.session;
    if (!work) return;
    Object.assign(this, { fitted: true, scale: this.width / work.width, x: 0, y: 0 });
    this.redraw();
  }

  // Zoom so that the image pixel under (cx, cy) stays where it is.
  zoom(factor, cx = this.width / 2, cy = this.height / 2) {
    const { work } = this.session;
    if (!work) return;
    const least = this.width / work.width, scale = Math.min(Math.max(this.scale * factor, least), Math.max(40, least));
    this.x = cx - ((cx - this.x) * scale) / this.scale;
    this.y = cy - ((cy - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = scale <= least * 1.001;
    this.clamp();
    this.redraw();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.clamp();
    this.redraw();
  }

  clamp() {
    const { work } = this.session;
    if (!work) return;
    this.x = Math.min(0, Math.max(this.x, this.width - work.width * this.scale));
    this.y = Math.min(0, Math.max(this.y, this.height - work.height * this.scale));
  }

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const s = this.session, { work } = s, pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!work) return;
    const k = this.ratio;
    pen.setTransform(this.scale * k, 0, 0, this.scale * k, this.x * k, this.y * k);
    pen.imageSmoothingEnabled = this.scale < 4;
    pen.drawImage(work.picture, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = s.opacity;
    pen.drawImage(work.overlay, 0, 0);
    pen.globalAlpha = 1;
    const outline = (path) => {
      for (const [colour, width] of [["#000", 3], ["#fff", 1.2]]) Object.assign(pen, { strokeStyle: colour, lineWidth: width / this.scale }), pen.stroke(path);
    };
    if (this.drag?.kind === "Rectangle") {
      const { from, to } = this.drag, path = new Path2D();
      path.rect(Math.min(from.x, to.x), Math.min(from.y, to.y), Math.abs(to.x - from.x) + 1, Math.abs(to.y - from.y) + 1);
      outline(path);
    } else if (this.at && (s.tool === "Brush" || s.tool === "Eraser")) {
      const path = new Path2D();
      path.arc(this.at.x + 0.5, this.at.y + 0.5, s.size / 2, 0, 2 * Math.PI);
      outline(path);
    }
  }

  // - mouse, pen, touch and keys -

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const cx = event.clientX - box.left, cy = event.clientY - box.top;
    return { x: Math.floor((cx - this.x) / this.scale), y: Math.floor((cy - this.y) / this.scale), cx, cy };
  }

  listen() {
    const { canvas, root } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => ((this.at = null), this.describe(), this.redraw()));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("keyup", (event) => event.code === "Space" && (this.space = false));
    root.addEventListener("focusout", () => (this.space = false));
  }

  down(event) {
    const s = this.session, { work } = s;
    if (!work || this.drag) return;
    event.preventDefault();
    this.root.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    s.active();
    const at = (this.at = this.point(event));
    if (event.button === 1 || event.button === 2 || this.space) return void (this.drag = { kind: "Pan", from: at, work });
    if (event.button !== 0) return;
    this.drag = { kind: s.tool, from: at, to: at, work, label: s.tool === "Eraser" ? IGNORE : s.label };
    work.beginStep();
    if (s.tool === "Fill" && at.x >= 0 && at.y >= 0 && at.x < work.width && at.y < work.height) work.fill(at.x, at.y, s.label);
    this.follow(at);
  }

  // The brush follows every position the browser knows of, also those between two frames.
  move(event) {
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) this.follow(this.point(one));
    this.at = this.point(event);
    if (!this.drag) this.describe();
  }

  follow(at) {
    const { drag } = this;
    if (drag?.kind === "Pan") {
      this.pan(at.cx - drag.from.cx, at.cy - drag.from.cy);
      drag.from = at;
    } else if (drag?.kind === "Brush" || drag?.kind === "Eraser") {
      drag.work.stroke(drag.to.x, drag.to.y, at.x, at.y, this.session.size, drag.label);
    }
    if (drag) drag.to = at;
    this.redraw();
  }

  up(event) {
    const { drag } = this;
    if (!drag) return;
    if (drag.kind === "Rectangle") {
      const { x, y } = this.point(event);
      drag.work.rectangle(drag.from.x, drag.from.y, x, y, drag.label);
    }
    if (drag.kind !== "Pan") drag.work.endStep();
    this.drag = null;
    this.session.active();
    this.session.changed();
  }

  cancel() {
    if (this.drag && this.drag.kind !== "Pan") this.drag.work.cancelStep();
    this.drag = null;
    this.session.changed();
  }

  // Without focus the wheel scrolls the notebook, as everywhere else.
  wheel(event) {
    if (!this.session.work || !(this.root.contains(document.activeElement) || event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    event.stopPropagation();
    this.session.active();
    const { cx, cy } = this.point(event);
    this.zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.003), cx, cy);
  }

  key(event) {
    const s = this.session, { work } = s, command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
    const actions = command
      ? { z: () => (event.shiftKey ? work?.redo() : work?.undo()), y: () => work?.redo(), s: () => s.save(this.isDone()) }
      : {
          ...Object.fromEntries(Object.entries(TOOLS).map(([name, letter]) => [letter, () => (s.tool = name)])),
          a: () => work?.prediction && work.acceptPrediction(), d: () => s.save(true),
          n: () => s.go(s.model.get("index") + 1), p: () => s.go(s.model.get("index") - 1),
          "[": () => (s.size = Math.max(1, s.size - 2)), "]": () => (s.size = Math.min(81, s.size + 2)),
          "+": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), home: () => this.fit(), escape: () => this.cancel(),
          arrowleft: () => this.pan(60, 0), arrowright: () => this.pan(-60, 0), arrowup: () => this.pan(0, 60), arrowdown: () => this.pan(0, -60),
          " ": () => (this.space = true),
        };
    const control = event.target.closest("input, select, button");
    if (control && !command && (control.tagName !== "BUTTON" || [" ", "enter"].includes(key))) return; // the control's own keys
    let action = event.altKey ? null : actions[key];
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
    if (digit && !command && !event.altKey) action = () => this.choose(((+digit[1] + 9) % 10) + (event.shiftKey ? 10 : 0));
    if (!action || (this.drag && key !== "escape")) return;
    event.preventDefault();
    event.stopPropagation();
    s.active();
    action();
    s.changed();
  }

  choose(label) {
    if (label < this.classes.length) this.session.label = label;
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
