// The page side of stal_nb.app.annotator.Annotator. Painting happens here, without asking Python; Python sends images and keeps labels.
//
// Page -> Python, each with {type, id, session, request}:
//   open                                                              answered by "image", then "guides", or by "error"
//   segments {level}                                                  answered by "segments" or "error"
//   save {base, box, done, auto, seconds, tools}, [labels in the box] answered by "saved", "conflict", "resend" or "error"
//   skip {seconds}                                                    answered by "skipped" or "error"
//   at                                                                the image that is looked at; no answer
// Python -> page: the answers with the session and request they belong to, and {type: "go", id}. Every tab hears all of them.
// Labels travel as one byte a pixel, row by row, deflated: class ids, 254 = to be ignored (somebody decided so), 255 = not labelled yet.

const IGNORED = 254, MISSING = 255;
const UNDO_STEPS = 1000, UNDO_BYTES = 48e6; // of one image
const KEPT_IMAGES = 3; // whose work stays in the page when it is saved
const PAUSE = 30_000; // ms: of a longer pause only this much counts as work
const LEVELS = ["fine", "medium", "coarse"];
const TOOLS = {
  Brush: ["b", "M3 17c3 0 4-1 4-3l8-9c1-1 3 1 2 2l-9 8c-1 3-2 4-5 2z"], Eraser: ["e", "M4 13l7-8 6 5-7 8H7zM8 9l6 5M7 18h10"],
  Polygon: ["l", "M4 6l8-3 5 6-3 8-8-1z"], Rectangle: ["r", "M3 5h14v10H3z"], Fill: ["f", "M9 3l7 7-6 6-7-7zM6 9h9M17 13c2 3 0 4 0 4s-2-1 0-4z"],
  Superpixel: ["s", "M3 6l5-3 4 4 5-2v7l-4 4-5-2-5 2zM8 3v6l-5 3M8 9l4-2 1 9M8 9v5"], "Colour picker": ["i", "M4 16l1-3 6-6 2 2-6 6zM10 6l2-2c2-2 4 0 2 2l-2 2M9 5l6 6"],
};
const ICONS = {
  Undo: "M7 4L3 8l4 4M3 8h9a4 4 0 010 8H8", Redo: "M13 4l4 4-4 4M17 8H8a4 4 0 000 8h4", "Zoom in": "M9 4a5 5 0 110 10A5 5 0 019 4zM13 13l4 4M9 7v4M7 9h4",
  "Zoom out": "M9 4a5 5 0 110 10A5 5 0 019 4zM13 13l4 4M7 9h4", Fit: "M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4", Before: "M10 3v14M4 5h4v10H4zM12 5h4v10h-4",
  "Full screen": "M3 8V3h5M12 3h5v5M17 12v5h-5M8 17H3v-5M3 3l5 5M17 3l-5 5M17 17l-5-5M3 17l5-5", Help: "M7 7c0-4 6-4 6 0 0 2-3 2-3 5M10 15v1",
  "Previous image": "M12 4l-6 6 6 6", "Next image": "M8 4l6 6-6 6",
};
const HELP = [
  ["Tools", [["B", "brush"], ["E", "eraser: back to unlabelled"], ["L", "polygon: click points; Enter, double click or first point closes, Backspace removes"],
    ["R", "rectangle"], ["F", "fill a piece of one label"], ["S", "superpixel: click or drag"], ["G", "superpixels finer or coarser"], ["I", "pick the class under the pointer"],
    ["[ ]", "brush smaller, larger"], ["Esc", "not after all"]]],
  ["Classes", [["1 … 9, 0", "classes 1 to 10"], ["Shift + 1 … 0", "classes 11 to 20"], ["T", "type the name of a class (of more than 20)"], [", .", "class before, after"], ["X", "ignore: nobody can tell"]]],
  ["Model", [["A", "accept the prediction"], ["Shift + A", "accept where it is confident"], ["C", "accept the current class"], ["W", "accept fills only what is unlabelled"],
    ["Q", "uncertainty: off, overlay, contour"], ["U, Shift + U", "next, previous most uncertain region"]]],
  ["View", [["wheel, + −", "zoom (click the image first)"], ["right mouse, Space + drag", "move the image"], ["Home", "whole image"], ["V", "before / after"], ["H", "hide the labels"],
    ["Y", "colours safe for colour-blind eyes"], ["Shift + F", "full screen"]]],
  ["Work", [["Ctrl + Z, Ctrl + Y", "undo, redo"], ["Ctrl + S", "save (happens by itself, too)"], ["D", "done"], ["K", "skip"], ["N, P", "next, previous image"]]],
  ["Without a mouse", [["arrows", "move the cross (with Ctrl: one pixel)"], ["Space", "pen down, pen up; point of a polygon"], ["Shift + arrows", "move the image"], ["Tab", "controls"]]],
];

// -- bytes ------------------------------------------------------------------------------------------------------------------------

async function through(stream, data) {
  return new Uint8Array(await new Response(new Blob([data]).stream().pipeThrough(stream)).arrayBuffer());
}
const deflate = (data) => through(new CompressionStream("deflate"), data);
const inflate = (data) => through(new DecompressionStream("deflate"), data);

const union = (a, b) => (!a ? b && { ...b } : !b ? a : { x0: Math.min(a.x0, b.x0), y0: Math.min(a.y0, b.y0), x1: Math.max(a.x1, b.x1), y1: Math.max(a.y1, b.y1) });

function cut(labels, width, { x0, y0, x1, y1 }) {
  const bytes = new Uint8Array((x1 - x0) * (y1 - y0));
  for (let y = y0; y < y1; y++) bytes.set(labels.subarray(y * width + x0, y * width + x1), (y - y0) * (x1 - x0));
  return bytes;
}

function put(labels, width, { x0, y0, x1, y1 }, bytes) {
  for (let y = y0, n = x1 - x0; y < y1; y++) labels.set(bytes.subarray((y - y0) * n, (y - y0 + 1) * n), y * width + x0);
}

// Labels are long runs: a step of a whole image takes kilobytes, not megabytes.
function packRuns(bytes) {
  let runs = 0;
  for (let k = 0; k < bytes.length; k++) runs += k === 0 || bytes[k] !== bytes[k - 1];
  const values = new Uint8Array(runs), ends = new Uint32Array(runs);
  for (let k = 0, r = -1; k < bytes.length; k++) {
    if (k === 0 || bytes[k] !== bytes[k - 1]) values[++r] = bytes[k];
    ends[r] = k + 1;
  }
  return { values, ends };
}

function unpackRuns({ values, ends }) {
  const bytes = new Uint8Array(ends.length ? ends[ends.length - 1] : 0);
  for (let r = 0, from = 0; r < values.length; from = ends[r++]) bytes.fill(values[r], from, ends[r]);
  return bytes;
}

// Pixels of each segment: sorted by segment, with the place where each begins.
class Segments {
  constructor(ids, width) {
    this.ids = ids;
    this.width = width;
    let count = 0;
    for (let k = 0; k < ids.length; k++) if (ids[k] >= count) count = ids[k] + 1;
    this.starts = new Uint32Array(count + 1);
    for (let k = 0; k < ids.length; k++) this.starts[ids[k] + 1]++;
    for (let s = 0; s < count; s++) this.starts[s + 1] += this.starts[s];
    const next = this.starts.slice();
    this.pixels = new Uint32Array(ids.length);
    for (let k = 0; k < ids.length; k++) this.pixels[next[ids[k]]++] = k;
  }

  of(segment) {
    return this.pixels.subarray(this.starts[segment], this.starts[segment + 1]);
  }

  box(segment) {
    const box = { x0: Infinity, y0: Infinity, x1: 0, y1: 0 };
    for (const k of this.of(segment)) {
      const x = k % this.width, y = (k - x) / this.width;
      box.x0 = Math.min(box.x0, x), box.x1 = Math.max(box.x1, x + 1), box.y0 = Math.min(box.y0, y), box.y1 = Math.max(box.y1, y + 1);
    }
    return box;
  }
}

// -- one image being labelled -----------------------------------------------------------------------------------------------------

class Work {
  constructor({ id, height, width, version, begin }, { picture, labels, mask }) {
    Object.assign(this, { id, height, width, version, begin, picture, labels, mask });
    this.first = labels.slice(); // for "before"
    this.settled = labels.slice(); // the labels behind the last whole step
    this.acked = labels.slice(); // what Python has
    this.unsaved = null; // box in which labels may differ from `acked`
    this.seconds = 0; // of work since the last save
    this.tools = {}; // tool -> how often it was used since the last save
    this.steps = [];
    this.undone = [];
    this.bytes = 0; // held by both
    this.segments = [];
    this.listeners = new Set(); // views that have to redraw a box
    this.count();
  }

  count() {
    this.counts = new Uint32Array(256);
    this.asked = 0; // pixels that somebody wants labels of
    for (let k = 0; k < this.labels.length; k++) if (!this.mask || this.mask[k]) this.asked++, this.counts[this.labels[k]]++;
  }

  get whole() {
    return { x0: 0, y0: 0, x1: this.width, y1: this.height };
  }

  // A step is everything between two endStep: one stroke, one rectangle, one fill.
  touch(box) {
    this.box = union(this.box, box);
    this.unsaved = union(this.unsaved, box);
    for (const listener of this.listeners) listener(box);
  }

  endStep(tool) {
    const { box, width } = this;
    this.box = null;
    if (!box) return false;
    const before = cut(this.settled, width, box), after = cut(this.labels, width, box);
    if (!this.recount(before, after, box)) return false;
    this.put(this.settled, box, after);
    this.remember(this.steps, box, before);
    for (const step of this.undone) this.bytes -= step.bytes;
    this.undone = [];
    if (tool) this.tools[tool] = (this.tools[tool] ?? 0) + 1;
    return true;
  }

  put(labels, box, bytes) {
    put(labels, this.width, box, bytes);
  }

  remember(stack, box, bytes) {
    const runs = packRuns(bytes), size = 5 * runs.values.length + 100;
    stack.push({ box, runs, bytes: size });
    this.bytes += size;
    while (this.steps.length > UNDO_STEPS || (this.bytes > UNDO_BYTES && this.steps.length > 1)) this.bytes -= this.steps.shift().bytes;
  }

  recount(before, after, { x0, y0, x1 }) {
    let changed = 0;
    for (let k = 0, n = x1 - x0; k < before.length; k++)
      if (before[k] !== after[k]) {
        changed++;
        if (!this.mask || this.mask[(y0 + ((k / n) | 0)) * this.width + x0 + (k % n)]) this.counts[before[k]]--, this.counts[after[k]]++;
      }
    return changed;
  }

  cancelStep() {
    if (!this.box) return;
    this.put(this.labels, this.box, cut(this.settled, this.width, this.box));
    for (const listener of this.listeners) listener(this.box);
    this.box = null;
  }

  // Undo and redo swap a box with its other version.
  swap(from, to) {
    const step = from.pop();
    if (!step) return;
    this.bytes -= step.bytes;
    const { box } = step, now = cut(this.labels, this.width, box), then = unpackRuns(step.runs);
    this.put(this.labels, box, then);
    this.put(this.settled, box, then);
    this.recount(now, then, box);
    this.remember(to, box, now);
    this.touch(box);
    this.box = null;
  }

  undo() {
    this.cancelStep();
    this.swap(this.steps, this.undone);
  }

  redo() {
    this.cancelStep();
    this.swap(this.undone, this.steps);
  }

  inside(x0, y0, x1, y1) {
    const box = { x0: Math.max(0, x0), y0: Math.max(0, y0), x1: Math.min(this.width, x1), y1: Math.min(this.height, y1) };
    return box.x1 > box.x0 && box.y1 > box.y0 ? box : null;
  }

  // Pixels whose centre is nearer than size / 2 to the line between two pixel centres.
  stroke(ax, ay, bx, by, size, label) {
    const r = size / 2, r2 = r * r, { width, labels, mask } = this;
    const box = this.inside(Math.floor(Math.min(ax, bx) - r), Math.floor(Math.min(ay, by) - r), Math.ceil(Math.max(ax, bx) + r) + 1, Math.ceil(Math.max(ay, by) + r) + 1);
    if (!box) return;
    const dx = bx - ax, dy = by - ay, length2 = dx * dx + dy * dy;
    for (let y = box.y0; y < box.y1; y++) {
      // Only the part of the row that the line comes near to.
      const ta = dy ? (y - r - ay) / dy : 0, tb = dy ? (y + r - ay) / dy : 1, t0 = Math.max(0, Math.min(ta, tb)), t1 = Math.min(1, Math.max(ta, tb));
      const left = Math.max(box.x0, Math.floor(Math.min(ax + t0 * dx, ax + t1 * dx) - r)), right = Math.min(box.x1, Math.ceil(Math.max(ax + t0 * dx, ax + t1 * dx) + r) + 1);
      for (let x = left, k = y * width + x; x < right; x++, k++) {
        const t = length2 ? Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / length2)) : 0;
        const ex = x - ax - t * dx, ey = y - ay - t * dy;
        if (ex * ex + ey * ey < r2 && (!mask || mask[k])) labels[k] = label;
      }
    }
    this.touch(box);
  }

  // Both corners belong to the rectangle.
  rectangle(ax, ay, bx, by, label) {
    const box = this.inside(Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx) + 1, Math.max(ay, by) + 1);
    if (box) this.paint(box, () => label);
  }

  // Pixels whose centre is inside, by counting crossings (even = outside). Points are pixel centres.
  polygon(points, label) {
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const box = this.inside(Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1);
    if (!box) return;
    const { width, labels, mask } = this;
    for (let y = box.y0; y < box.y1; y++) {
      const crossings = [];
      for (let k = 0; k < points.length; k++) {
        const a = points[k], b = points[(k + 1) % points.length];
        if (a.y > y !== b.y > y) crossings.push(a.x + ((y - a.y) * (b.x - a.x)) / (b.y - a.y));
        if (a.y === y && a.x >= 0 && a.x < width && (!mask || mask[y * width + a.x])) labels[y * width + a.x] = label; // corners belong to it
      }
      crossings.sort((a, b) => a - b);
      for (let k = 0; k + 1 < crossings.length; k += 2)
        for (let x = Math.max(0, Math.ceil(crossings[k])); x <= Math.min(width - 1, Math.floor(crossings[k + 1])); x++)
          if (!mask || mask[y * width + x]) labels[y * width + x] = label;
    }
    this.touch(box);
  }

  // The piece of one label around a pixel: neighbours above, below, left and right.
  fill(x, y, label) {
    const { width, height, labels, mask } = this, first = y * width + x, old = labels[first];
    if (old === label || (mask && !mask[first])) return;
    const queue = new Int32Array(width * height);
    let end = 0, x0 = x, x1 = x, y0 = y, y1 = y;
    const visit = (k) => {
      if (labels[k] === old && (!mask || mask[k])) (labels[k] = label), (queue[end++] = k);
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
    this.touch({ x0, y0, x1: x1 + 1, y1: y1 + 1 });
  }

  segment(segments, s, label) {
    for (const k of segments.of(s)) if (!this.mask || this.mask[k]) this.labels[k] = label;
    this.touch(segments.box(s));
  }

  // Give pixels of a box the label that `choose(k)` names; undefined = leave it.
  paint({ x0, y0, x1, y1 }, choose) {
    for (let y = y0; y < y1; y++)
      for (let x = x0, k = y * this.width + x; x < x1; x++, k++)
        if (!this.mask || this.mask[k]) {
          const label = choose(k);
          if (label !== undefined) this.labels[k] = label;
        }
    this.touch({ x0, y0, x1, y1 });
  }

  // The prediction: everywhere, where it is confident, or for one class; over the person's, or only where nothing is labelled.
  accept({ least = 0, only = null, gently = false }) {
    const { prediction, confidence, labels } = this, byte = Math.ceil(least * 255);
    if (!prediction) return;
    this.paint(this.whole, (k) =>
      (confidence && confidence[k] < byte) || (only !== null && prediction[k] !== only) || (gently && labels[k] !== MISSING) ? undefined : prediction[k]);
    this.endStep("accept");
  }

  // What a save has to carry: the box that changed, and the labels in it.
  take() {
    const box = this.unsaved ?? { x0: 0, y0: 0, x1: 0, y1: 0 }, bytes = cut(this.labels, this.width, box);
    const { seconds, tools } = this;
    Object.assign(this, { unsaved: null, seconds: 0, tools: {} });
    return { box, bytes, seconds, tools, base: this.version };
  }

  giveBack({ box, seconds, tools }) {
    if (box.x1 > box.x0) this.unsaved = union(this.unsaved, box);
    this.seconds += seconds;
    for (const [tool, n] of Object.entries(tools)) this.tools[tool] = (this.tools[tool] ?? 0) + n;
  }

  // Labels of somebody else below the changes made here since the last save.
  rebase(theirs, version) {
    const mine = this.labels.slice();
    for (let k = 0; k < mine.length; k++) this.labels[k] = mine[k] !== this.acked[k] ? mine[k] : theirs[k];
    this.acked = theirs.slice();
    this.version = version;
    this.touch(this.whole);
    this.endStep();
  }

  replace(labels) {
    this.labels.set(labels);
    this.touch(this.whole);
    this.endStep();
  }

  // Blocks of the image, the most uncertain first. Blocks in which nothing is queried are left out.
  uncertainBlocks() {
    if (this.blocks || !this.uncertainty) return this.blocks ?? [];
    const size = Math.max(8, Math.round(Math.min(this.height, this.width) / 8)), blocks = [];
    for (let y0 = 0; y0 < this.height; y0 += size)
      for (let x0 = 0; x0 < this.width; x0 += size) {
        const x1 = Math.min(this.width, x0 + size), y1 = Math.min(this.height, y0 + size);
        let sum = 0, n = 0;
        for (let y = y0; y < y1; y++)
          for (let k = y * this.width + x0, end = y * this.width + x1; k < end; k++) if (!this.mask || this.mask[k]) sum += this.uncertainty[k], n++;
        if (n) blocks.push({ x0, y0, x1, y1, score: sum / n / 255 });
      }
    return (this.blocks = blocks.sort((a, b) => b.score - a.score));
  }
}

// -- what all views of one widget share: the conversation with Python ---------------------------------------------------------------

// Work of a widget whose kernel went away: the next widget on the same store takes it over.
const abandoned = (globalThis.stalAnnotatorWork ??= new Map());

class Session {
  constructor(model) {
    this.model = model;
    this.name = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
    this.works = new Map(); // id -> Work, the one looked at last comes last
    this.notes = new Map(); // id -> {text, bad}: the last message about an image
    this.asked = new Map(); // request -> {id, type, taken}
    this.failed = new Set(); // ids whose image cannot be had; asked for again when one comes back to it
    this.conflicts = new Map(); // id -> {version, annotator, when, labels}
    this.spent = { ...model.get("spent") }; // id -> seconds saved so far
    this.requests = 0;
    this.views = new Set();
    this.index = model.get("index");
    this.settings = { tool: "Brush", label: 0, size: 9, opacity: 0.55, hidden: false, level: 1, heat: "off", heatOpacity: 0.6, threshold: 0.5, least: 0.9,
      gently: false, before: false, safe: model.get("safe_colours") };
    this.predecessor = abandoned.get(model.get("key"));
    abandoned.set(model.get("key"), this);
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
    model.on("change:status", () => this.changed());
  }

  get ids() {
    return this.model.get("ids");
  }
  get id() {
    return this.ids[this.index];
  }
  get work() {
    return this.works.get(this.id);
  }
  status(id) {
    return this.model.get("status")[id];
  }
  saving(id) {
    return [...this.asked.values()].find((a) => a.id === id && a.type === "save");
  }
  // The labels, not only the box, decide: undoing everything leaves nothing to save.
  unsaved(id) {
    return Boolean(this.works.get(id)?.unsaved || this.saving(id));
  }

  changed() {
    for (const view of this.views) view.update();
  }

  note(id, text, bad = false) {
    this.notes.set(id, { text, bad });
    this.changed();
  }

  // Says so when the kernel takes long: it may be busy with a cell, or gone.
  send(content, buffers = [], taken = undefined) {
    const request = ++this.requests, { id, type } = content;
    if (type !== "at") this.asked.set(request, { id, type, taken });
    try {
      this.model.send({ ...content, session: this.name, request }, undefined, buffers);
    } catch (error) {
      this.asked.delete(request);
      if (taken) this.works.get(id)?.giveBack(taken);
      return this.note(id, `No kernel: run the cell that made this widget; what is unsaved will be taken over. (${error.message ?? error})`, true);
    }
    setTimeout(() => {
      if (this.asked.has(request))
        this.note(id, `Still waiting for the kernel to ${type} this image: it may be busy with a cell, or stopped. Unsaved work stays in this page.`, true);
    }, 4000);
  }

  open(id) {
    if (this.works.has(id) || this.failed.has(id) || [...this.asked.values()].some((a) => a.id === id && a.type === "open")) return;
    this.notes.set(id, { text: "Loading …" });
    this.send({ type: "open", id });
  }

  segments() {
    const { work, settings } = this;
    if (!work || work.segments[settings.level]) return work?.segments[settings.level];
    if (![...this.asked.values()].some((a) => a.id === work.id && a.type === "segments")) this.send({ type: "segments", id: work.id, level: settings.level });
    return undefined;
  }

  // Soon after the first change that is not saved, whatever happens meanwhile.
  autosave() {
    const pause = 1000 * this.model.get("autosave"), { id } = this;
    if (!pause || this.timers?.[id]) return;
    (this.timers ??= {})[id] = setTimeout(() => {
      delete this.timers[id];
      if (this.works.get(id)?.unsaved && !this.conflicts.has(id)) this.save(id, { auto: true });
    }, pause);
  }

  async save(id, { done = this.status(id) === "done", auto = false, whole = false } = {}) {
    const work = this.works.get(id);
    if (!work) return;
    if (this.saving(id)) return void (this.later = { ...this.later, [id]: { done, auto } }); // one at a time
    if (whole) work.unsaved = work.whole;
    const taken = work.take(), { box, bytes, base } = taken;
    taken.done = done;
    if (!auto) this.notes.set(id, { text: "Saving …" });
    const packing = Symbol("packing");
    this.asked.set(packing, { id, type: "save", taken }); // a second save waits also for this
    const packed = await deflate(bytes);
    this.asked.delete(packing);
    const shape = whole ? null : [box.x0, box.y0, box.x1, box.y1];
    this.send({ type: "save", id, base, done, auto, box: shape, seconds: taken.seconds, tools: taken.tools }, [packed.buffer], taken);
    this.changed();
  }

  skip() {
    const { work, id } = this;
    const seconds = work?.seconds ?? 0;
    if (work) work.seconds = 0;
    this.send({ type: "skip", id, seconds });
    this.go(this.index + 1);
  }

  // One after the other: unpacking takes its time, and the maps of an image must not overtake it.
  receive(message, buffers) {
    this.line = (this.line ?? Promise.resolve()).then(() => this.hear(message, buffers));
  }

  async hear(message, buffers) {
    const { type, id, session, request } = message;
    if (type === "go") return this.go(this.ids.indexOf(id));
    if (session !== this.name) return this.overhear(message);
    const asked = this.asked.get(request), work = this.works.get(id);
    try {
      if (type === "image") await this.receiveImage(message, buffers);
      else if (type === "guides") await this.receiveGuides(work, message, buffers);
      else if (type === "segments") await this.receiveSegments(work, message, buffers);
      else if (type === "conflict") this.conflicts.set(id, { ...message, labels: await inflate(buffers[0]) });
    } catch (error) {
      if (type === "image") this.failed.add(id);
      this.notes.set(id, { text: `The answer of Python cannot be shown: ${error.message}`, bad: true });
    }
    this.asked.delete(request);
    if (type === "saved") this.receiveSaved(work, message, asked);
    else if (["error", "conflict", "resend"].includes(type) && asked?.taken) work?.giveBack(asked.taken);
    if (type === "resend") this.save(id, { done: asked.taken.done, whole: true });
    if (type === "error") {
      if (asked?.type === "open") this.failed.add(id);
      this.notes.set(id, { text: `${asked?.type === "save" ? "Not saved: " : ""}${message.message}`, bad: true });
    }
    if (type === "conflict") this.notes.set(id, { text: "Not saved: somebody else has saved this image meanwhile.", bad: true });
    const next = this.later?.[id];
    if (next && !this.saving(id) && type === "saved") {
      delete this.later[id];
      if (work?.unsaved || next.done) this.save(id, next);
    }
    this.changed();
  }

  async receiveImage(message, buffers) {
    const { id, parts } = message, part = (name) => buffers[parts.indexOf(name)];
    const [picture, labels, mask] = await Promise.all([
      createImageBitmap(new Blob([part("picture")], { type: "image/jpeg" })), inflate(part("labels")), part("mask") && inflate(part("mask"))]);
    const work = new Work(message, { picture, labels, mask });
    this.works.set(id, work);
    this.spent[id] = message.spent;
    const begin = { saved: "Shows the labels saved earlier.", prediction: "Starts from the model's prediction.", empty: "Starts empty." };
    this.notes.set(id, { text: begin[message.begin] + (mask ? " Only the bright regions are queried." : "") });
    const old = this.predecessor?.works.get(id);
    if (old && !this.predecessor.views.size && old.labels.length === labels.length && this.takeOver(work, old))
      this.notes.set(id, { text: "Took over changes that an earlier widget could not save." });
    if (id === this.id) this.active(); // looking counts from now on
  }

  takeOver(work, old) {
    let found = false;
    for (let k = 0; k < old.labels.length; k++)
      if (old.labels[k] !== old.acked[k] && work.labels[k] !== old.labels[k]) (work.labels[k] = old.labels[k]), (found = true);
    this.predecessor.works.delete(work.id);
    if (found) {
      work.touch(work.whole);
      work.endStep();
      setTimeout(() => this.save(work.id, { auto: true }), 0);
    }
    return found;
  }

  async receiveGuides(work, { parts }, buffers) {
    const maps = await Promise.all(buffers.map(inflate));
    if (work) parts.forEach((name, k) => (work[name] = maps[k]));
    this.repaint();
  }

  repaint() {
    for (const view of this.views) view.damage();
  }

  async receiveSegments(work, { level }, buffers) {
    const bytes = await inflate(buffers[0]);
    if (work) work.segments[level] = new Segments(new Uint16Array(bytes.buffer), work.width);
    this.repaint();
  }

  receiveSaved(work, message, asked) {
    const { id, version, done, spent } = message, { box, bytes } = asked?.taken ?? {};
    this.spent[id] = spent;
    if (work) {
      work.version = version;
      if (box) put(work.acked, work.width, box, bytes);
    }
    this.notes.set(id, { text: done ? "Saved, done." : "Saved." });
    if (this.conflicts.get(id)?.version < version) this.conflicts.delete(id);
    this.forget();
  }

  // What another tab was told. A copy without changes of its own is simply read again.
  overhear({ type, id, version }) {
    const work = this.works.get(id);
    if (type !== "saved" || !work || version <= work.version) return;
    if (this.unsaved(id)) return this.note(id, "Another tab has saved this image. Saving here will ask what to do.", true);
    this.works.delete(id);
    this.changed();
    if (id === this.id) this.open(id);
  }

  resolve(id, choice) {
    const work = this.works.get(id), { labels, version } = this.conflicts.get(id);
    this.conflicts.delete(id);
    if (choice === "theirs") {
      work.replace(labels);
      Object.assign(work, { version, acked: labels.slice(), unsaved: null });
      this.notes.set(id, { text: "Took the other version; undo brings yours back." });
    } else {
      if (choice === "merge") work.rebase(labels, version);
      else Object.assign(work, { version, acked: labels.slice() });
      this.save(id, { whole: true });
    }
    this.changed();
  }

  // Saved images that were looked at long ago leave the page.
  forget() {
    const old = [...this.works.keys()].filter((id) => id !== this.id && !this.unsaved(id) && !this.conflicts.has(id));
    for (const id of old.slice(0, Math.max(0, this.works.size - KEPT_IMAGES))) {
      this.works.get(id).picture.close();
      this.works.delete(id);
    }
  }

  // Time at work on an image: the gaps between what the person does, long pauses cut short.
  active() {
    const now = performance.now();
    if (this.work && this.lastId === this.id) this.work.seconds += Math.min(now - this.lastActive, PAUSE) / 1000;
    this.lastActive = now;
    this.lastId = this.work ? this.id : null;
  }

  go(index) {
    if (!(index >= 0 && index < this.ids.length) || index === this.index) return;
    this.active();
    if (this.work?.unsaved && this.model.get("autosave") && !this.conflicts.has(this.id)) this.save(this.id, { auto: true });
    this.failed.delete(this.ids[index]);
    this.index = index;
    this.settings.before = false;
    const { work, id } = this;
    if (work) this.works.delete(id), this.works.set(id, work); // looked at last
    this.send({ type: "at", id });
    this.forget();
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

function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 20 20", "aria-hidden": "true" })) svg.setAttribute(key, value);
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

// Eight hues that differ in lightness and stay apart for colour-blind eyes (after Okabe and Ito); classes beyond eight also have a hatching.
const SAFE = [[230, 159, 0], [0, 114, 178], [240, 228, 66], [204, 121, 167], [86, 180, 233], [213, 94, 0], [0, 158, 115], [40, 40, 40]];
const HATCH = [() => false, (x, y) => (x + y) % 8 < 3, (x, y) => x % 6 < 3 && y % 6 < 3, (x, y) => y % 7 < 3, (x, y) => ((x >> 2) ^ (y >> 2)) & 1]; // in pixels of the screen
const KEYED = 20; // classes that have a key; more of them are found by name

// As people type: without accents and capitals.
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().trim();

class View {
  constructor(session, el) {
    this.session = session;
    this.scale = 1; // page pixels an image pixel
    this.x = this.y = 0; // where the image's corner is, in page pixels of the canvas
    this.fitted = true;
    this.pointers = new Map(); // fingers on the canvas
    this.listener = (box) => (this.damage(box), session.autosave());
    this.root = make("div", { className: "stal-annotator", tabIndex: 0, aria: { role: "application", label: "Annotator" } });
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab would take "b", "1", … for itself
    this.canvas = make("canvas", { data: { testid: "annotator-canvas" } });
    this.glass = make("canvas", { className: "stal-glass", aria: { hidden: "true" } }); // pointer, outlines: what moves without the labels changing
    this.photo = document.createElement("canvas"); // the image as large as it is shown
    this.stage = make("div", { className: "stal-stage" }, make("div", { className: "stal-sheet" }, this.canvas, this.glass));
    this.dialogs = make("div", { className: "stal-dialogs" });
    this.panel = make("div", { className: "stal-panel" }, this.palette());
    if (this.classes.length - 1 > KEYED) this.panel.prepend(this.finder());
    const options = this.options();
    this.root.append(this.header(), options, this.toolbar(), this.stage, this.panel, this.footer(), this.dialogs);
    el.append(this.root);
    this.listen();
    session.views.add(this);
    this.resizer = new ResizeObserver(() => this.layout());
    this.resizer.observe(this.root);
    this.ticker = setInterval(() => this.tick(), 1000);
    this.update();
  }

  dispose() {
    const { session } = this;
    this.cancel();
    session.views.delete(this);
    this.shown?.listeners.delete(this.listener);
    this.resizer.disconnect();
    clearInterval(this.ticker);
    cancelAnimationFrame(this.frame);
    document.removeEventListener("visibilitychange", this.hide);
    for (const id of session.works.keys()) if (session.works.get(id).unsaved && !session.conflicts.has(id)) session.save(id, { auto: true });
  }

  // - controls -

  button(name, action, { title = name, path, text = path ? "" : name, className = "" } = {}) {
    const node = make("button", { type: "button", title, className, aria: { label: name } }, ...(path ? [icon(path)] : []), text);
    node.addEventListener("click", (event) => {
      this.session.active();
      action();
      if (event.detail) this.root.focus({ preventScroll: true }); // after a mouse click, keys go to the image again
      this.session.changed();
    });
    return node;
  }

  slider(name, [min, max, step], get, set, show) {
    const input = make("input", { type: "range", min, max, step, value: get(), aria: { label: name } });
    const shown = make("output", { className: "stal-value" });
    input.addEventListener("input", () => (set(+input.value), this.damage(), this.session.changed()));
    (this.sliders ??= []).push(() => ((input.value = get()), (shown.textContent = show(get()))));
    return make("label", { className: "stal-slider" }, make("span", { textContent: name }), input, shown);
  }

  toggle(name, title, get, set) {
    const input = make("input", { type: "checkbox", aria: { label: name } });
    input.addEventListener("change", () => (set(input.checked), this.damage(), this.session.changed()));
    (this.sliders ??= []).push(() => (input.checked = get()));
    return make("label", { title, className: "stal-toggle" }, input, name);
  }

  choice(name, options, get, set) {
    const select = make("select", { title: name, aria: { label: name } }, ...options.map((text) => make("option", { textContent: text })));
    select.addEventListener("change", () => (set(select.selectedIndex), this.damage(), this.session.changed()));
    (this.sliders ??= []).push(() => (select.selectedIndex = get()));
    return make("label", { className: "stal-slider" }, make("span", { textContent: name }), select);
  }

  header() {
    const s = this.session, save = (options) => s.save(s.id, options);
    this.previousButton = this.button("Previous image", () => s.go(s.index - 1), { title: "Previous image (P)", path: ICONS["Previous image"] });
    this.nextButton = this.button("Next image", () => s.go(s.index + 1), { title: "Next image (N)", path: ICONS["Next image"] });
    this.queue = make("select", { className: "stal-queue", title: "Images to label", aria: { label: "Image" } });
    this.queue.addEventListener("change", () => s.go(this.queue.selectedIndex));
    this.progress = make("div", { className: "stal-progress", aria: { role: "img", label: "Progress" } });
    this.time = make("span", { className: "stal-time", title: "Time at work on this image" });
    this.skipButton = this.button("Skip", () => s.skip(), { title: "Leave this image out, and go on (K)" });
    this.saveButton = this.button("Save", () => save(), { title: "Save (Ctrl+S); it is also saved by itself" });
    this.doneButton = this.button("Done", () => save({ done: true }), { title: "Save, and mark the image as done (D)", className: "stal-main" });
    return make("div", { className: "stal-header" }, this.previousButton, this.queue, this.nextButton, this.progress, this.time, this.skipButton, this.saveButton, this.doneButton);
  }

  toolbar() {
    const s = this.session;
    this.tools = Object.entries(TOOLS).map(([name, [key, path]]) => this.button(name, () => this.take(name), { title: `${name} (${key.toUpperCase()})`, path }));
    const tool = (name, keys, action) => this.button(name, action, { title: `${name} (${keys})`, path: ICONS[name] });
    this.undoButton = tool("Undo", "Ctrl+Z", () => s.work?.undo());
    this.redoButton = tool("Redo", "Ctrl+Y", () => s.work?.redo());
    this.beforeButton = tool("Before", "V", () => this.compare());
    this.fullButton = tool("Full screen", "Shift+F", () => this.fullScreen());
    const line = () => make("hr");
    return make("div", { className: "stal-tools", aria: { role: "toolbar", label: "Tools", orientation: "vertical" } }, ...this.tools, line(), this.undoButton, this.redoButton, line(),
      tool("Zoom in", "+", () => this.zoom(1.5)), tool("Zoom out", "−", () => this.zoom(1 / 1.5)), tool("Fit", "Home", () => this.fit()), this.beforeButton, line(),
      this.fullButton, tool("Help", "?", () => this.help()));
  }

  options() {
    const s = this.session, { settings } = s, whole = (v) => `${Math.round(100 * v)} %`, kinds = ["off", "overlay", "contour"];
    const group = (name, ...nodes) => make("div", { className: "stal-group", aria: { role: "group", label: name } }, ...nodes);
    const set = (name) => (value) => (settings[name] = value);
    this.acceptButton = this.button("Accept prediction", () => this.accept({}), { title: "Give every pixel the model's class (A)" });
    this.confidentButton = this.button("Accept confident", () => this.accept({ least: settings.least }), { title: "Only where the model's probability is at least that high (Shift+A)" });
    this.classButton = this.button("Accept class", () => this.accept({ only: settings.label }), { title: "Only pixels that the model gives the current class (C)" });
    this.regionButton = this.button("Next uncertain region", () => this.nextRegion(1), { title: "Look at the most uncertain region, then at the next (U; back: Shift+U)" });
    this.sizeSlider = this.slider("Brush size", [1, 121, 2], () => settings.size, set("size"), (v) => `${v} px`);
    this.levelChoice = this.choice("Superpixels", LEVELS, () => settings.level, (k) => this.granularity(k));
    this.strengthSlider = this.slider("Strength", [0, 1, 0.05], () => settings.heatOpacity, set("heatOpacity"), whole);
    this.contourSlider = this.slider("Contour at", [0.05, 0.95, 0.05], () => settings.threshold, set("threshold"), whole);
    return make("div", { className: "stal-options" },
      group("View", this.sizeSlider, this.levelChoice, this.slider("Overlay opacity", [0, 1, 0.05], () => settings.opacity, set("opacity"), whole),
        this.toggle("Colour-blind safe", "Other colours, and hatchings (Y)", () => settings.safe, (v) => ((settings.safe = v), this.recolour()))),
      group("Guidance", this.choice("Uncertainty", kinds, () => kinds.indexOf(settings.heat), (k) => (settings.heat = kinds[k])), this.strengthSlider, this.contourSlider, this.regionButton),
      group("Model", this.acceptButton, this.classButton, this.confidentButton, this.slider("from", [0.5, 1, 0.01], () => settings.least, set("least"), whole),
        this.toggle("only unlabelled", "Accepting leaves alone what has a label (W)", () => settings.gently, set("gently"))));
  }

  palette() {
    const { model, settings } = this.session;
    this.classes = [...model.get("classes"), "ignore"].map((name, k, { length }) => {
      const last = k === length - 1, key = last ? "X" : k < 10 ? `${(k + 1) % 10}` : k < 20 ? `⇧${(k + 1) % 10}` : "";
      const label = last ? IGNORED : k, title = key ? `${name} (${key.replace("⇧", "Shift+")})` : name;
      const node = this.button(name, () => this.pick(label), { title: last ? `${title}: decided that nobody can tell` : title, text: "" });
      node.append(make("i", { aria: { hidden: "true" } }), make("span", { textContent: name }), make("b"), make("kbd", { textContent: key, aria: { hidden: "true" } }));
      Object.assign(node, { stalLabel: label });
      return node;
    });
    return make("div", { className: "stal-palette", aria: { role: "group", label: "Classes" } }, ...this.classes);
  }

  // Where there are more classes than keys: type a part of the name, then Enter.
  finder() {
    const input = make("input", { type: "search", className: "stal-find", placeholder: "Find a class (T)", autocomplete: "off", spellcheck: false, aria: { label: "Find a class" } });
    for (const event of ["input", "focus"]) input.addEventListener(event, () => this.find(input.value));
    input.addEventListener("keydown", (event) => {
      event.stopPropagation(); // a letter is a letter here
      const { key } = event, by = { ArrowDown: 1, ArrowUp: -1 }[key];
      if (event.isComposing || !(by || key === "Enter" || key === "Escape")) return;
      event.preventDefault();
      if (by) return this.mark(this.place + by);
      if (key === "Enter" && !this.found[this.place]) return;
      if (key === "Enter") this.session.active(), this.pick(this.found[this.place].stalLabel);
      else this.find((input.value = ""));
      this.root.focus({ preventScroll: true });
      this.session.changed();
    });
    this.findBox = input;
    return input;
  }

  // Names that begin with the text come first, then those with a word that does, then those that hold it.
  find(text) {
    const wanted = plain(text);
    const rank = (node) => {
      const name = plain(node.getAttribute("aria-label")), at = name.indexOf(wanted), words = name.split(/[^\p{L}\p{N}]+/u);
      return at < 0 ? 3 : at === 0 ? 0 : words.some((word) => word.startsWith(wanted)) ? 1 : 2;
    };
    const ranked = this.classes.map((node) => [rank(node), node]);
    this.found = ranked.filter(([r]) => r < 3).sort((a, b) => a[0] - b[0]).map(([, node]) => node);
    for (const [r, node] of ranked) node.hidden = r === 3;
    this.mark(wanted ? 0 : -1);
  }

  mark(place) {
    this.place = place < 0 ? place : Math.max(0, Math.min(place, this.found.length - 1));
    this.classes.forEach((node) => node.classList.toggle("stal-found", node === this.found[this.place]));
    if (this.found[this.place]) this.reveal(this.found[this.place]);
  }

  pick(label) {
    this.session.settings.label = label;
    if (this.findBox?.value) this.find((this.findBox.value = ""));
  }

  // Scrolls the list alone, not the notebook.
  reveal(node) {
    const { top, bottom } = node.getBoundingClientRect(), frame = this.panel.getBoundingClientRect(), head = this.findBox?.offsetHeight ?? 0;
    if (top < frame.top + head) this.panel.scrollTop -= frame.top + head - top;
    else if (bottom > frame.bottom) this.panel.scrollTop += bottom - frame.bottom;
  }

  footer() {
    this.bar = make("div", { className: "stal-coverage", aria: { role: "img", label: "Share of each class" } });
    this.under = make("span", { className: "stal-under" });
    this.statusLine = make("span", { className: "stal-status", aria: { role: "status", live: "polite" } });
    return make("div", { className: "stal-footer" }, this.bar, make("div", { className: "stal-lines" }, this.statusLine, this.under));
  }

  // - keeping the page in step with the session -

  update() {
    const s = this.session, { work, settings } = s;
    if (this.shown !== work) {
      this.shown?.listeners.delete(this.listener);
      work?.listeners.add(this.listener);
      if (this.shownId !== s.id) Object.assign(this, { fitted: true, drag: null, points: [], region: null, hover: -1, cross: null });
      Object.assign(this, { shown: work, shownId: s.id, drag: null });
      this.width = 0; // lay out anew
    }
    s.open(s.id);
    const state = (id) => (s.unsaved(id) ? `${s.status(id)}, unsaved changes` : s.status(id)), conflict = s.conflicts.get(s.id);
    this.tools.forEach((node) => node.setAttribute("aria-pressed", node.getAttribute("aria-label") === settings.tool));
    this.classes.forEach((node) => node.setAttribute("aria-pressed", node.stalLabel === settings.label));
    if (this.label !== settings.label) this.reveal(this.classes.find((node) => node.stalLabel === (this.label = settings.label)));
    this.beforeButton.setAttribute("aria-pressed", settings.before);
    this.sliders.forEach((refresh) => refresh());
    this.sizeSlider.hidden = !["Brush", "Eraser"].includes(settings.tool);
    this.levelChoice.hidden = settings.tool !== "Superpixel";
    this.strengthSlider.hidden = settings.heat !== "overlay";
    this.contourSlider.hidden = settings.heat !== "contour";
    this.undoButton.disabled = !work?.steps.length;
    this.redoButton.disabled = !work?.undone.length;
    this.acceptButton.disabled = this.classButton.disabled = !work?.prediction;
    this.confidentButton.disabled = !work?.confidence;
    this.regionButton.disabled = !work?.uncertainty;
    this.saveButton.disabled = this.doneButton.disabled = !work || Boolean(conflict);
    this.previousButton.disabled = s.index === 0;
    this.nextButton.disabled = s.index === s.ids.length - 1;
    this.listQueue(state);
    const note = s.notes.get(s.id) ?? {};
    if (this.statusLine.textContent !== (note.text ?? "")) this.statusLine.textContent = note.text ?? "";
    this.statusLine.classList.toggle("stal-bad", Boolean(note.bad));
    this.canvas.setAttribute("aria-label", `Image ${s.id} with its labels`);
    Object.assign(this.root.dataset, { state: state(s.id), tool: settings.tool, ready: work ? "yes" : "no" });
    if (settings.tool === "Superpixel" && work) s.segments();
    this.showConflict(conflict);
    this.cover();
    this.layout();
    this.describe();
    this.tick();
  }

  listQueue(state) {
    const s = this.session, entries = s.ids.map((id, k) => `${k + 1} of ${s.ids.length} · ${id} · ${state(id)}`);
    if (this.entries !== entries.join("\n")) {
      this.entries = entries.join("\n");
      this.queue.replaceChildren(...entries.map((text) => make("option", { textContent: text })));
      const kinds = s.ids.map((id) => s.status(id)), finished = kinds.filter((k) => k === "done" || k === "skipped").length;
      this.progress.replaceChildren(...kinds.map((kind) => make("i", { className: `stal-${kind}` })));
      this.progress.title = `${finished} of ${kinds.length} done or skipped`;
      this.progress.setAttribute("aria-label", `Progress: ${this.progress.title}`);
    }
    this.queue.selectedIndex = s.index;
    this.progress.querySelectorAll("i").forEach((node, k) => node.classList.toggle("stal-here", k === s.index));
  }

  tick() {
    const { work, spent, id } = this.session;
    this.time.textContent = clock((spent[id] ?? 0) + (work?.seconds ?? 0));
  }

  // How much of what is queried has each class; recounted by steps, not by looking at all pixels.
  cover() {
    const { work, model } = this.session;
    if (!work) return;
    const share = (k) => work.counts[k] / Math.max(1, work.asked), colours = this.colours();
    const parts = this.classes.map((node) => [node.stalLabel, share(node.stalLabel)]);
    for (const [k, node] of this.classes.entries()) node.querySelector("b").textContent = parts[k][1] ? percent(parts[k][1]) : "";
    this.classes.forEach((node, k) => node.style.setProperty("--share", `${100 * Math.sqrt(parts[k][1])}%`));
    const names = [...model.get("classes"), "ignore"], filled = parts.map(([, n], k) => [n, k]).filter(([n]) => n > 0);
    this.bar.replaceChildren(...filled.map(([n, k]) => make("i", { title: `${names[k]} ${percent(n)}`, style: { width: `${100 * n}%`, background: this.css(colours, parts[k][0]) } })));
    this.bar.setAttribute("aria-label", `Share of each class: ${filled.map(([n, k]) => `${names[k]} ${percent(n)}`).join(", ")}; missing ${percent(share(MISSING))}`);
  }

  describe() {
    const { work, model } = this.session, at = this.at;
    if (!work) return (this.under.textContent = "");
    const inside = at && at.x >= 0 && at.y >= 0 && at.x < work.width && at.y < work.height, k = inside ? at.y * work.width + at.x : 0;
    const label = inside ? work.labels[k] : null, missing = work.counts[MISSING];
    const name = label === MISSING ? "unlabelled" : label === IGNORED ? "ignore" : model.get("classes")[label];
    const sure = inside && work.uncertainty ? `, uncertainty ${percent(work.uncertainty[k] / 255)}` : "", out = inside && work.mask && !work.mask[k] ? ", not queried" : "";
    const zoom = Math.round(100 * this.scale);
    this.under.textContent = `${percent(missing / Math.max(1, work.asked))} unlabelled (${missing.toLocaleString("en")} pixels)${inside ? ` · x ${at.x}, y ${at.y}: ${name}${sure}${out}` : ""} · ${zoom} %`;
  }

  // - colours -

  colours() {
    if (!this.table) {
      const { model, settings } = this.session, classes = model.get("colours");
      this.table = new Uint8Array(256 * 3);
      classes.forEach((colour, k) => this.table.set(settings.safe ? SAFE[k % SAFE.length] : colour, 3 * k));
      this.table.set(settings.safe ? [255, 255, 255] : [0, 0, 0], 3 * IGNORED);
      this.hatch = new Uint8Array(256);
      if (settings.safe) classes.forEach((_, k) => (this.hatch[k] = Math.floor(k / SAFE.length) % HATCH.length));
      this.hatch[IGNORED] = 1;
      this.classes.forEach((node) => (node.querySelector("i").style.background = this.css(this.table, node.stalLabel)));
    }
    return this.table;
  }

  css(table, label) {
    const colour = `rgb(${table.slice(3 * label, 3 * label + 3).join(",")})`, kind = this.hatch[label];
    if (!kind) return colour;
    const other = label === IGNORED && !table[3 * label] ? "#fff" : "#000";
    return [`repeating-linear-gradient(135deg, ${other} 0 2px, ${colour} 2px 6px)`, `radial-gradient(${other} 35%, ${colour} 38%) 0 0 / 6px 6px`,
      `repeating-linear-gradient(0deg, ${other} 0 2px, ${colour} 2px 5px)`, `repeating-conic-gradient(${other} 0 25%, ${colour} 0 50%) 0 0 / 8px 8px`][kind - 1];
  }

  recolour() {
    this.table = null;
    this.damage();
    this.session.changed();
  }

  // - where the image is -

  layout() {
    const { work } = this.session, room = this.stage.clientWidth, full = document.fullscreenElement === this.root;
    if (!work || room <= 0) return this.redraw();
    const tallest = full ? this.stage.clientHeight : Math.max(360, Math.min(640, Math.round(window.innerHeight * 0.7)));
    const width = Math.max(1, Math.min(room, Math.round((tallest * work.width) / work.height)));
    const height = Math.round((width * work.height) / work.width), ratio = window.devicePixelRatio || 1;
    if (this.width !== width || this.height !== height || this.ratio !== ratio) {
      Object.assign(this, { width, height, ratio });
      for (const canvas of [this.canvas, this.glass, this.photo]) Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      for (const canvas of [this.canvas, this.glass]) Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
      this.clamp();
      this.moved();
    }
    if (this.fitted && this.scale !== width / work.width) this.fit();
    this.redraw();
  }

  fit() {
    const { work } = this.session;
    if (work) this.lookAt(this.width / work.width, 0, 0);
  }

  lookAt(scale, x, y) {
    const { work } = this.session, least = this.width / work.width;
    this.scale = Math.min(Math.max(scale, least), Math.max(40, least));
    Object.assign(this, { x, y, fitted: this.scale <= least * 1.001 });
    this.clamp();
    this.moved();
  }

  // Zoom so that the image pixel under (cx, cy) stays where it is.
  zoom(factor, cx = this.width / 2, cy = this.height / 2) {
    const { work } = this.session;
    if (!work) return;
    const least = this.width / work.width, scale = Math.min(Math.max(this.scale * factor, least), Math.max(40, least));
    this.lookAt(scale, cx - ((cx - this.x) * scale) / this.scale, cy - ((cy - this.y) * scale) / this.scale);
  }

  pan(dx, dy) {
    if (this.session.work) this.lookAt(this.scale, this.x + dx, this.y + dy);
  }

  clamp() {
    const { work } = this.session;
    if (!work) return;
    this.x = Math.min(0, Math.max(this.x, this.width - work.width * this.scale));
    this.y = Math.min(0, Math.max(this.y, this.height - work.height * this.scale));
  }

  moved() {
    this.stale = true; // the photograph has to be scaled anew
    this.damage();
  }

  // The most uncertain block that has not been looked at yet, large enough to work on.
  nextRegion(step) {
    const { work } = this.session, blocks = work?.uncertainBlocks() ?? [];
    if (!blocks.length) return;
    work.block = ((work.block ?? (step > 0 ? -1 : 0)) + step + blocks.length) % blocks.length;
    const region = (this.region = blocks[work.block]);
    const scale = Math.min(this.width / (region.x1 - region.x0), this.height / (region.y1 - region.y0)) / 2.5;
    const zoom = Math.max(scale, this.width / work.width);
    this.lookAt(zoom, this.width / 2 - ((region.x0 + region.x1) / 2) * zoom, this.height / 2 - ((region.y0 + region.y1) / 2) * zoom);
    this.session.note(work.id, `Uncertain region ${work.block + 1} of ${blocks.length}: ${percent(region.score)} on average.`);
  }

  // - drawing: each pixel of the screen looks up its label; only the boxes that changed are drawn again -

  damage(box) {
    if (!box || !this.width) this.dirty = "all";
    else if (this.dirty !== "all") this.dirty = union(this.dirty, box);
    this.redraw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => ((this.frame = null), this.draw()));
  }

  draw() {
    const { work } = this.session;
    if (!work || !this.width || !this.canvas.width) return;
    if (this.stale) this.scalePhoto(work);
    if (this.dirty) this.shade(work, this.dirty === "all" ? null : this.dirty);
    this.dirty = null;
    this.drawGlass(work);
  }

  scalePhoto(work) {
    const { photo, ratio: k } = this, pen = photo.getContext("2d", { willReadFrequently: true });
    pen.setTransform(this.scale * k, 0, 0, this.scale * k, this.x * k, this.y * k);
    Object.assign(pen, { imageSmoothingEnabled: this.scale < 4, imageSmoothingQuality: "medium" });
    pen.drawImage(work.picture, 0, 0);
    this.base = new Uint32Array(pen.getImageData(0, 0, photo.width, photo.height).data.buffer);
    this.screen = new ImageData(photo.width, photo.height);
    this.pixels = new Uint32Array(this.screen.data.buffer);
    const places = (n, size, start) => Int32Array.from({ length: n }, (_, p) => Math.min(size - 1, Math.max(0, Math.floor(((p + 0.5) / k - start) / this.scale))));
    this.columns = places(photo.width, work.width, this.x);
    this.rows = places(photo.height, work.height, this.y);
    this.stale = false;
  }

  shade(work, box) {
    const { settings } = this.session, { scale, ratio, columns, rows, base, pixels } = this, { width: W, height: H } = this.photo, { width, mask, uncertainty } = work;
    const near = (v, start) => Math.floor((v * scale + start) * ratio);
    const left = box ? Math.max(0, near(box.x0, this.x) - 2) : 0, right = box ? Math.min(W, near(box.x1, this.x) + 2) : W;
    const top = box ? Math.max(0, near(box.y0, this.y) - 2) : 0, bottom = box ? Math.min(H, near(box.y1, this.y) + 2) : H;
    if (right <= left || bottom <= top) return;
    const labels = settings.before ? work.first : work.labels, table = this.colours(), { hatch } = this, heat = this.session.model.get("heat");
    const opacity = settings.hidden ? 0 : Math.round(settings.opacity * 256), edge = opacity && Math.min(256, opacity + 90);
    const hot = uncertainty && settings.heat === "overlay" ? settings.heatOpacity : 0, line = uncertainty && settings.heat === "contour" ? Math.round(settings.threshold * 255) : 256;
    const segments = settings.tool === "Superpixel" ? work.segments[settings.level]?.ids : null, hover = this.hover ?? -1;
    for (let y = top; y < bottom; y++) {
      const row = rows[y] * width, below = rows[Math.min(H - 1, y + 1)] * width;
      for (let x = left, p = y * W + left; x < right; x++, p++) {
        const column = columns[x], k = row + column, next = row + columns[x + 1 < W ? x + 1 : x], under = below + column, label = labels[k], photo = base[p];
        let r = photo & 255, g = (photo >> 8) & 255, b = (photo >> 16) & 255;
        if (label !== MISSING && opacity) {
          const a = label !== labels[next] || label !== labels[under] ? edge : opacity, kind = hatch[label], dark = kind && HATCH[kind](x, y), c = 3 * label;
          const shade = dark ? (label === IGNORED && !table[c] ? 255 : 0) : -1;
          r += (((shade < 0 ? table[c] : shade) - r) * a) >> 8;
          g += (((shade < 0 ? table[c + 1] : shade) - g) * a) >> 8;
          b += (((shade < 0 ? table[c + 2] : shade) - b) * a) >> 8;
        }
        if (hot) {
          const u = uncertainty[k], a = Math.round(256 * hot * Math.min(1, u / 128)), colour = heat[u];
          r += ((colour[0] - r) * a) >> 8, g += ((colour[1] - g) * a) >> 8, b += ((colour[2] - b) * a) >> 8;
        } else if (line < 256 && uncertainty[k] >= line !== (uncertainty[next] >= line && uncertainty[under] >= line)) (r = 255), (g = 235), (b = 0);
        if (segments) {
          if (segments[k] === hover) (r += (255 - r) >> 1), (g += (255 - g) >> 1), (b += (255 - b) >> 1);
          else if (segments[k] !== segments[next] || segments[k] !== segments[under]) (r += (255 - r) >> 2), (g += (255 - g) >> 2), (b += (255 - b) >> 2);
        }
        if (mask && !mask[k]) (r >>= 2), (g >>= 2), (b >>= 2);
        else if (mask && (!mask[next] || !mask[under])) r = g = b = 255;
        pixels[p] = (255 << 24) | (b << 16) | (g << 8) | r;
      }
    }
    this.canvas.getContext("2d", { willReadFrequently: true }).putImageData(this.screen, 0, 0, left, top, right - left, bottom - top);
  }

  drawGlass(work) {
    const { settings } = this.session, pen = this.glass.getContext("2d"), k = this.ratio, at = this.cross ?? this.at;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.glass.width, this.glass.height);
    pen.setTransform(this.scale * k, 0, 0, this.scale * k, this.x * k, this.y * k);
    const outline = (path, colour = "#fff", dash = []) => {
      pen.setLineDash(dash.map((d) => d / this.scale));
      for (const [ink, width] of [["#000", 3], [colour, 1.4]]) Object.assign(pen, { strokeStyle: ink, lineWidth: width / this.scale }), pen.stroke(path);
    };
    const path = new Path2D();
    if (this.region) {
      const { x0, y0, x1, y1 } = this.region, frame = new Path2D();
      frame.rect(x0, y0, x1 - x0, y1 - y0);
      outline(frame, "#ffd400", [6, 4]);
    }
    if (this.drag?.kind === "Rectangle") {
      const { from, to } = this.drag;
      path.rect(Math.min(from.x, to.x), Math.min(from.y, to.y), Math.abs(to.x - from.x) + 1, Math.abs(to.y - from.y) + 1);
    } else if (settings.tool === "Polygon" && this.points.length) {
      for (const p of this.points) path.lineTo(p.x + 0.5, p.y + 0.5);
      if (at) path.lineTo(at.x + 0.5, at.y + 0.5);
      for (const p of this.points) path.moveTo(p.x + 0.5 + 3 / this.scale, p.y + 0.5), path.arc(p.x + 0.5, p.y + 0.5, 3 / this.scale, 0, 7);
    } else if (at && ["Brush", "Eraser"].includes(settings.tool)) path.arc(at.x + 0.5, at.y + 0.5, settings.size / 2, 0, 2 * Math.PI);
    outline(path);
    if (this.cross) {
      const cross = new Path2D(), r = 9 / this.scale;
      cross.moveTo(at.x + 0.5 - r, at.y + 0.5), cross.lineTo(at.x + 0.5 + r, at.y + 0.5), cross.moveTo(at.x + 0.5, at.y + 0.5 - r), cross.lineTo(at.x + 0.5, at.y + 0.5 + r);
      outline(cross, "#ffd400");
    }
  }

  // - what a person does -

  take(tool) {
    this.cancel();
    this.session.settings.tool = tool;
    this.setHover(-1);
    this.damage();
  }

  accept(options) {
    const { work, settings } = this.session;
    settings.before = false;
    work?.accept({ ...options, gently: settings.gently });
  }

  compare() {
    const { settings } = this.session;
    this.cancel();
    settings.before = !settings.before;
    this.damage();
  }

  granularity(level) {
    this.session.settings.level = level;
    this.setHover(-1);
    this.damage();
  }

  setHover(segment) {
    const segments = this.session.work?.segments[this.session.settings.level];
    if (this.hover === segment) return;
    for (const s of [this.hover, segment]) if (segments && s >= 0 && s + 1 < segments.starts.length) this.damage(segments.box(s));
    this.hover = segment;
  }

  fullScreen() {
    if (document.fullscreenElement === this.root) document.exitFullscreen();
    else this.root.requestFullscreen?.().catch((error) => this.session.note(this.session.id, `No full screen here: ${error.message}`, true));
  }

  help() {
    if (this.helpBox) return this.closeHelp();
    const table = HELP.map(([title, keys]) => make("div", {}, make("h4", { textContent: title }),
      make("dl", {}, ...keys.flatMap(([key, what]) => [make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: what })]))));
    const close = this.button("Close", () => this.closeHelp(), { title: "Close (Esc)" });
    this.helpBox = make("div", { className: "stal-help", aria: { role: "dialog", label: "Keys" } }, make("div", { className: "stal-columns" }, ...table), close);
    this.dialogs.append(this.helpBox);
    close.focus({ preventScroll: true });
  }

  closeHelp() {
    this.helpBox?.remove();
    this.helpBox = null;
    this.root.focus({ preventScroll: true });
  }

  showConflict(conflict) {
    if (this.conflict === conflict) return;
    this.conflict = conflict;
    this.conflictBox?.remove();
    if (!conflict) return;
    const { id, annotator, when, version } = conflict, s = this.session;
    const choice = (name, key, title) => this.button(name, () => s.resolve(id, key), { title });
    const who = `${annotator || "Somebody"} has saved version ${version} of this image${when ? ` at ${new Date(when).toLocaleTimeString()}` : ""} since you opened it. Nothing is lost: both versions are kept in the store.`;
    const buttons = [choice("Merge", "merge", "Your changes on top of theirs"), choice("Keep mine", "mine", "Your labels everywhere"), choice("Take theirs", "theirs", "Their labels everywhere; undo brings yours back")];
    this.conflictBox = make("div", { className: "stal-conflict", aria: { role: "alertdialog", label: "Two versions" } }, make("p", { textContent: who }), make("div", { className: "stal-row" }, ...buttons));
    this.dialogs.append(this.conflictBox);
    buttons[0].focus({ preventScroll: true });
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect(), cx = event.clientX - box.left, cy = event.clientY - box.top;
    return { x: Math.floor((cx - this.x) / this.scale), y: Math.floor((cy - this.y) / this.scale), cx, cy };
  }

  listen() {
    const { canvas, root } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => (this.pointers.delete(event.pointerId), this.cancel()));
    canvas.addEventListener("pointerleave", () => ((this.at = null), this.setHover(-1), this.describe(), this.redraw()));
    canvas.addEventListener("dblclick", () => this.closePolygon());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("keyup", (event) => event.code === "Space" && (this.space = false));
    root.addEventListener("focusout", () => (this.space = false));
    root.addEventListener("fullscreenchange", () => ((this.width = 0), this.layout()));
    this.hide = () => document.hidden && this.session.work?.unsaved && this.session.save(this.session.id, { auto: true });
    document.addEventListener("visibilitychange", this.hide);
  }

  // One finger paints, two move and zoom. Where there is a pen, fingers only move: a hand rests on the screen.
  down(event) {
    const s = this.session, { work } = s;
    if (!work) return;
    event.preventDefault();
    this.root.focus({ preventScroll: true });
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {} // a pointer that is gone already
    if (event.pointerType === "pen") this.penSeen = true;
    this.pointers.set(event.pointerId, event);
    s.active();
    const at = (this.at = this.point(event));
    this.cross = null;
    if (this.pointers.size === 2) return this.cancel(), void (this.drag = { kind: "Pinch", work, ...this.pinch() });
    if (this.drag) return;
    if (event.button === 1 || event.button === 2 || this.space || (event.pointerType === "touch" && this.penSeen)) return void (this.drag = { kind: "Pan", from: at, work });
    if (event.button === 0) this.press(at, event.shiftKey);
  }

  // The tool goes down at a pixel.
  press(at) {
    const s = this.session, { work, settings } = s, { tool } = settings, inside = at.x >= 0 && at.y >= 0 && at.x < work.width && at.y < work.height;
    if (settings.before) this.compare();
    if (tool === "Colour picker") {
      const label = inside ? work.labels[at.y * work.width + at.x] : MISSING;
      if (label !== MISSING) settings.label = label;
      return s.changed();
    }
    if (tool === "Polygon") return this.addPoint(at);
    this.drag = { kind: tool, from: at, to: at, work, label: tool === "Eraser" ? MISSING : settings.label };
    if (tool === "Fill" && inside) work.fill(at.x, at.y, settings.label);
    this.follow(at);
  }

  addPoint(at) {
    const [first] = this.points, near = first && Math.hypot(first.x - at.x, first.y - at.y) * this.scale < 8;
    if (near && this.points.length > 2) return this.closePolygon();
    const last = this.points[this.points.length - 1];
    if (!last || last.x !== at.x || last.y !== at.y) this.points.push({ x: at.x, y: at.y });
    this.redraw();
  }

  closePolygon() {
    const { work, settings } = this.session;
    if (settings.tool !== "Polygon" || this.points.length < 3) return;
    work.polygon(this.points, settings.label);
    work.endStep("Polygon");
    this.points = [];
    this.session.changed();
  }

  pinch() {
    const [a, b] = [...this.pointers.values()].map((e) => this.point(e));
    return { cx: (a.cx + b.cx) / 2, cy: (a.cy + b.cy) / 2, far: Math.hypot(a.cx - b.cx, a.cy - b.cy) };
  }

  // The brush follows every position the browser knows of, also those between two frames.
  move(event) {
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, event);
    if (this.drag?.kind === "Pinch") {
      if (this.pointers.size < 2) return;
      const now = this.pinch();
      this.zoom(now.far / Math.max(1, this.drag.far), now.cx, now.cy);
      this.pan(now.cx - this.drag.cx, now.cy - this.drag.cy);
      return void Object.assign(this.drag, now);
    }
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) this.follow(this.point(one));
    this.at = this.point(event);
    if (!this.drag) this.cross = null;
    this.light(this.at);
    if (!this.drag) this.describe();
    this.redraw();
  }

  light(at) {
    const { work, settings } = this.session, segments = settings.tool === "Superpixel" && work?.segments[settings.level];
    const inside = segments && at.x >= 0 && at.y >= 0 && at.x < work.width && at.y < work.height;
    this.setHover(inside ? segments.ids[at.y * work.width + at.x] : -1);
  }

  follow(at) {
    const { drag } = this, { settings } = this.session;
    if (drag?.kind === "Pan") {
      this.pan(at.cx - drag.from.cx, at.cy - drag.from.cy);
      drag.from = at;
    } else if (drag?.kind === "Brush" || drag?.kind === "Eraser") {
      drag.work.stroke(drag.to.x, drag.to.y, at.x, at.y, settings.size, drag.label);
    } else if (drag?.kind === "Superpixel") this.sweep(drag, at);
    if (drag) drag.to = at;
    this.redraw();
  }

  // All segments on the way from the last position.
  sweep({ work, to, label }, at) {
    const segments = work.segments[this.session.settings.level];
    if (!segments) return this.session.note(work.id, "The superpixels are on their way.");
    const steps = Math.max(1, Math.abs(at.x - to.x), Math.abs(at.y - to.y));
    for (let t = 0, last = -1; t <= steps; t++) {
      const x = Math.round(to.x + ((at.x - to.x) * t) / steps), y = Math.round(to.y + ((at.y - to.y) * t) / steps);
      if (x < 0 || y < 0 || x >= work.width || y >= work.height) continue;
      const segment = segments.ids[y * work.width + x];
      if (segment !== last) work.segment(segments, segment, label);
      last = segment;
    }
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.drag?.kind === "Pinch") return void (this.pointers.size || (this.drag = null));
    this.release(this.point(event));
  }

  release({ x, y }) {
    const { drag } = this;
    if (!drag) return;
    if (drag.kind === "Rectangle") drag.work.rectangle(drag.from.x, drag.from.y, x, y, drag.label);
    this.drag = null;
    this.session.active();
    if (drag.kind !== "Pan") drag.work.endStep(drag.kind);
    this.session.changed();
  }

  cancel() {
    this.points = [];
    if (this.drag && !["Pan", "Pinch"].includes(this.drag.kind)) this.drag.work.cancelStep();
    this.drag = null;
    this.redraw();
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

  // The cross: a pointer for those who have no mouse.
  step(dx, dy, fine) {
    const { work, settings } = this.session;
    if (!work) return;
    const far = fine ? 1 : Math.max(1, Math.round(settings.size / 3)), start = this.cross ?? this.at ?? { x: work.width >> 1, y: work.height >> 1 };
    const x = Math.max(0, Math.min(work.width - 1, start.x + dx * far)), y = Math.max(0, Math.min(work.height - 1, start.y + dy * far));
    const cx = (x + 0.5) * this.scale + this.x, cy = (y + 0.5) * this.scale + this.y;
    this.cross = this.at = { x, y, cx, cy };
    this.pan(Math.max(0, 20 - cx) + Math.min(0, this.width - 20 - cx), Math.max(0, 20 - cy) + Math.min(0, this.height - 20 - cy));
    if (this.drag) this.follow(this.at);
    this.light(this.at);
    this.describe();
    this.redraw();
  }

  pen() {
    if (!this.cross) this.space = true;
    else if (this.drag) this.release(this.cross);
    else {
      this.press(this.cross);
      if (this.drag?.kind === "Fill") this.release(this.cross);
    }
  }

  key(event) {
    const s = this.session, { work, settings } = s, command = event.ctrlKey || event.metaKey, shift = event.shiftKey, key = event.key.toLowerCase();
    const control = event.target.closest("input, select, button");
    if (control && !command && (control.tagName !== "BUTTON" || [" ", "enter"].includes(key)) && !(key === "escape")) return; // the control's own keys
    const arrows = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[key];
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
    let action = event.altKey ? null : command ? this.commands(shift)[key] : this.keys(shift)[key];
    if (arrows && !event.altKey) action = () => (shift ? this.pan(-60 * arrows[0], -60 * arrows[1]) : this.step(...arrows, command));
    else if (digit && !command && !event.altKey) action = () => this.choose(((+digit[1] + 9) % 10) + (shift ? 10 : 0));
    if (!action || (this.drag && !arrows && ![" ", "escape"].includes(key))) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat && key === " ") return;
    s.active();
    action();
    s.changed();
  }

  commands(shift) {
    const { work, id } = this.session, s = this.session;
    return { z: () => (shift ? work?.redo() : work?.undo()), y: () => work?.redo(), s: () => s.save(id) };
  }

  keys(shift) {
    const s = this.session, { settings } = s, cycle = (name, list) => (settings[name] = list[(list.indexOf(settings[name]) + 1) % list.length]);
    const near = (by) => this.choose((Math.min(settings.label, this.classes.length - 1) + by + this.classes.length - 1) % (this.classes.length - 1));
    return {
      ...Object.fromEntries(Object.entries(TOOLS).map(([name, [letter]]) => [letter, () => this.take(name)])),
      f: () => (shift ? this.fullScreen() : this.take("Fill")), a: () => this.accept(shift ? { least: settings.least } : {}), c: () => this.accept({ only: settings.label }),
      w: () => (settings.gently = !settings.gently), q: () => (cycle("heat", ["off", "overlay", "contour"]), this.damage()), u: () => this.nextRegion(shift ? -1 : 1),
      g: () => this.granularity((settings.level + 1) % LEVELS.length), v: () => this.compare(), h: () => ((settings.hidden = !settings.hidden), this.damage()),
      y: () => ((settings.safe = !settings.safe), this.recolour()), d: () => s.work && !this.conflict && s.save(s.id, { done: true }), k: () => s.skip(),
      t: () => this.findBox?.focus({ preventScroll: true }), n: () => s.go(s.index + 1), p: () => s.go(s.index - 1), x: () => (settings.label = IGNORED), ",": () => near(-1), ".": () => near(1),
      "[": () => (settings.size = Math.max(1, settings.size - 2)), "]": () => (settings.size = Math.min(121, settings.size + 2)),
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), home: () => this.fit(), "?": () => this.help(),
      escape: () => (this.helpBox ? this.closeHelp() : this.cancel()), enter: () => this.closePolygon(), backspace: () => (this.points.pop(), this.redraw()), " ": () => this.pen(),
    };
  }

  choose(label) {
    if (label < this.classes.length - 1) this.pick(label);
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
