// What UncertaintyExplorer would say, from what its notebook stored (nbs/figures/explorers.py). Goes with stal_nb/app/static/stored.js.

// The bytes of a grey picture.
async function storedPlanes(text) {
  const image = Object.assign(new Image(), { src: `data:image/webp;base64,${text}` });
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height).data.filter((_, k) => k % 4 === 0);
}

// Places in the order of uncertainty, 0 = least sure; pixels that do not count have none.
function storedOrder(levels, truth, known) {
  const counts = Array.from(levels.keys()).filter((i) => !known || truth[i] !== 255).sort((a, b) => levels[b] - levels[a] || a - b);
  const order = new Uint32Array(levels.length).fill(0xffffffff);
  counts.forEach((i, place) => (order[i] = place));
  return order;
}

function storedUncertainty(facts) {
  const { maps, radii, image } = facts, size = image.height * image.width;
  const planes = storedPlanes(facts.planes);
  const view = (array) => new DataView(array.buffer, array.byteOffset, array.byteLength);
  let key = 0;

  async function show(tell, model, whole) {
    const now = ++key, own = maps[model.get("measure")], { levels, map, step } = own[""] ?? own[model.get("radius")];
    const [still, steps] = await Promise.all([planes, storedPlanes(levels)]);
    if (now !== key) return; // a later one is on its way
    const truth = still.slice(0, size), values = Float32Array.from(steps, (level) => level * step);
    const parts = { values: view(values), order: view(storedOrder(steps, truth, image.known)) };
    if (whole) {
      const places = (still.length / size - 1) / 2, classes = still.slice(size, size * (1 + places));
      Object.assign(parts, { picture: storedBytes(facts.picture), truth: view(truth), classes: view(classes) });
      parts.shares = view(Uint16Array.from(still.slice(size * (1 + places)), (share) => share * 655.35));
      shown = true;
    }
    tell({ type: "show", key: now, parts: Object.keys(parts), image, map }, Object.values(parts));
  }

  let shown = false;
  const model = storedModel(facts.state, (message, tell, source) => {
    if (message.type === "hello" || ["measure", "radius"].includes(message.name)) show(tell, source, !shown);
  });
  const set = model.set;
  model.set = (name, value) => { // a slider moves on to the next radius that was stored
    const next = value > facts.state.radius ? radii.find((r) => r >= value) : radii.findLast((r) => r <= value);
    set(name, name === "radius" ? next ?? facts.state.radius : value);
  };
  return model;
}
