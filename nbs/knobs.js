// Knobs of the documentation site: the controls of a notebook over pictures that its cell drew in advance (nbs/figures/knobs.py).
// Without scripts a reader sees the first picture.
(() => {
  "use strict";

  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  // A slider or a list for one control; `changed` is called with the place of the value.
  function control({ label, words, start, kind }, changed) {
    const input = kind === "range" ? make("input", { type: "range", min: 0, max: words.length - 1, step: 1 })
      : make("select", {}, ...words.map((textContent, value) => make("option", { value, textContent })));
    const shown = make("output");
    const say = () => {
      if (kind !== "range") return;
      shown.textContent = words[input.value];
      input.setAttribute("aria-valuetext", words[input.value]);
    };
    input.value = start;
    input.setAttribute("aria-label", label);
    input.addEventListener("input", () => (say(), changed(+input.value)));
    say();
    return make("label", {}, make("span", { textContent: label }), input, ...(kind === "range" ? [shown] : []));
  }

  class Knob {
    constructor(root) {
      Object.assign(this, JSON.parse(root.querySelector("script").textContent), { root, wanted: 0 });
      this.still = root.querySelector("img");
      this.place = this.controls.map((c) => c.start);
      this.canvas = make("canvas", { width: this.width, height: this.height });
      this.canvas.setAttribute("role", "img");
      this.images = new Map(); // frame -> promise of its layer
      const bar = make("div", { className: "stal-bar" }, ...this.controls.map((c, k) => control(c, (value) => {
        this.place[k] = value;
        this.show();
      })));
      root.prepend(bar);
      this.still.replaceWith(this.canvas);
      this.show();
    }

    get frame() {
      return this.controls.reduce((sum, c, k) => sum * c.words.length + this.place[k], 0);
    }

    layer(frame) {
      if (!this.images.has(frame)) {
        const image = this.frames[frame] ? make("img", { src: `data:image/webp;base64,${this.frames[frame]}` }) : this.still;
        this.images.set(frame, image.decode().then(() => image));
      }
      return this.images.get(frame);
    }

    // From the picture shown first, which lies at the bottom, to the frame itself.
    stack(frame) {
      return this.frames[frame] ? [...this.stack(this.below[frame]), frame] : [frame];
    }

    async show() {
      const frame = (this.wanted = this.frame), layers = await Promise.all(this.stack(frame).map((k) => this.layer(k)));
      if (frame !== this.wanted) return; // a later one is on its way
      const context = this.canvas.getContext("2d");
      layers.forEach((image) => context.drawImage(image, 0, 0));
      this.canvas.setAttribute("aria-label", `${this.alt} ${this.says[frame]}`.trim());
      this.root.dataset.shown = frame;
    }
  }

  window.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".stal-knob").forEach((root) => new Knob(root)));
})();
