// A widget's page without a kernel: a model whose values stay in the page and whose answers were stored.
//
// `answer(message, tell, model)` stands for Python. Beside what the page sends it is told {type: "moved", name} after each change of a value;
// `tell(content, buffers)` is what Python would have sent. Used by `SelectionExplorer.save_html` and by the documentation site.

const storedBytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function storedModel(state, answer) {
  const handlers = [];
  const call = (event, ...facts) => handlers.filter(([name]) => name === event).forEach(([, handler]) => handler(...facts));
  const tell = (content, buffers) => call("msg:custom", content, buffers);
  const model = {
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      call(`change:${name}`);
      answer({ type: "moved", name }, tell, model);
    },
    save_changes() {},
    on: (name, handler) => handlers.push([name, handler]),
    off: (name, handler) => handlers.splice(0, handlers.length, ...handlers.filter((pair) => pair[0] !== name || pair[1] !== handler)),
    send: (message) => answer(message, tell, model),
  };
  return model;
}

// What SelectionExplorer says: the pool with its two sheets of pictures, and why an image is in a query.
function storedSelection(facts) {
  return storedModel(facts.state, (message, tell) => {
    if (message.type === "open") tell(facts.content, facts.sheets.map(storedBytes));
    if (message.type !== "why") return;
    const text = facts.reasons[message.strategy][`${message.budget} ${message.id}`] ?? "Not queried at this budget.";
    tell({ ...message, type: "reason", text }, []);
  });
}
