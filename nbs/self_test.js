// The page "Test yourself": the reader says of each question whether they knew the answer; the score stays in this browser.
(() => {
  "use strict";
  const STORE = "stal_nb.self_test";
  const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

  function load() { // id -> true (knew it) or false (did not)
    try { return JSON.parse(localStorage.getItem(STORE)) || {}; } catch { return {}; }
  }

  function shuffled(list) {
    const mixed = [...list];
    for (let i = mixed.length - 1; i > 0; i--) {
      const k = Math.floor(Math.random() * (i + 1));
      [mixed[i], mixed[k]] = [mixed[k], mixed[i]];
    }
    return mixed;
  }

  function start() {
    const blocks = [...document.querySelectorAll(".quick-check")];
    if (!blocks.length) return;
    const home = blocks[0].parentNode;
    let score = load(), order = blocks;

    // Each notebook: its heading, or the section that the site puts around it, and the questions below.
    const chapters = new Map();
    for (const heading of document.querySelectorAll("h2")) {
      const tally = make("span", "self-test-tally");
      chapters.set(heading, { heading, tally, blocks: [] });
    }
    for (const block of blocks) {
      const above = [...chapters.keys()].filter((h) => h.compareDocumentPosition(block) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
      const chapter = chapters.get(above);
      chapter.blocks.push(block);
      block.from = chapter;
      block.place = document.createComment("its place in the course");
      block.before(block.place);
    }
    for (const [heading, chapter] of chapters) if (chapter.blocks.length) heading.append(" ", chapter.tally); else chapters.delete(heading);

    const bar = make("div", "self-test-bar");
    const total = make("p", "self-test-total");
    const meter = make("div", "self-test-meter");
    const buttons = make("div", "self-test-buttons");
    const filter = make("button", "", "Only those I did not know");
    const mix = make("button", "", "Shuffle");
    const reset = make("button", "", "Reset the score");
    const mixed = make("div", "self-test-mixed");
    const none = make("p", "self-test-none", "None: there is no question of which you said that you did not know it.");
    total.setAttribute("role", "status");
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", "Your score, and which questions are shown");
    meter.setAttribute("aria-hidden", "true");
    meter.append(make("i", "knew"), make("i", "missed"));
    for (const button of [filter, mix, reset]) { button.type = "button"; buttons.append(button); }
    for (const button of [filter, mix]) button.setAttribute("aria-pressed", "false");
    bar.append(total, meter, buttons);
    const first = chapters.keys().next().value;
    first.before(bar, none, mixed);

    const on = (button) => button.getAttribute("aria-pressed") === "true";
    const count = (list, value) => list.filter((block) => score[block.id] === value).length;

    function save() {
      try { localStorage.setItem(STORE, JSON.stringify(score)); } catch { /* a browser that keeps nothing: the score lasts as long as the page */ }
    }

    function show() {
      const knew = count(blocks, true), missed = count(blocks, false);
      total.textContent = `Knew ${knew}, did not know ${missed}, ${blocks.length - knew - missed} of ${blocks.length} left`;
      meter.children[0].style.width = `${100 * knew / blocks.length}%`;
      meter.children[1].style.width = `${100 * missed / blocks.length}%`;
      for (const block of blocks) {
        const said = score[block.id];
        block.dataset.said = said === undefined ? "" : said ? "knew" : "missed";
        block.said.textContent = said === undefined ? "" : said ? "✓ knew it" : "✗ did not know it";
        for (const [button, value] of block.answers) button.setAttribute("aria-pressed", String(said === value));
        block.hidden = on(filter) && said !== false;
      }
      for (const chapter of chapters.values()) {
        chapter.tally.textContent = `${count(chapter.blocks, true)} of ${chapter.blocks.length} known`;
        chapter.heading.hidden = on(mix) || chapter.blocks.every((block) => block.hidden);
      }
      none.hidden = !blocks.every((block) => block.hidden);
    }

    function next(block) { // the question after it that is shown
      return order.slice(order.indexOf(block) + 1).find((other) => !other.hidden);
    }

    function say(block, value) {
      score[block.id] = value;
      save();
      const after = next(block);
      block.querySelector("details").open = false;
      show();
      if (after) after.querySelector("summary").focus();
    }

    for (const block of blocks) {
      const row = make("div", "self-test-say");
      const words = block.from.heading.firstChild.textContent.trim();
      block.said = make("span", "self-test-said");
      block.answers = [["I knew it", true], ["I did not", false]].map(([text, value]) => {
        const button = make("button", "", text);
        button.type = "button";
        button.addEventListener("click", () => say(block, value));
        row.append(button);
        return [button, value];
      });
      block.querySelector("details").append(row);
      block.querySelector("p").append(make("span", "self-test-from", ` ${words}`), block.said);
    }

    function arrange() {
      order = on(mix) ? shuffled(blocks) : blocks;
      for (const block of order) if (on(mix)) mixed.append(block); else block.place.after(block);
      home.classList.toggle("self-test-shuffled", on(mix));
    }

    const toggle = (button) => button.setAttribute("aria-pressed", String(!on(button)));
    filter.addEventListener("click", () => { toggle(filter); show(); });
    mix.addEventListener("click", () => { toggle(mix); arrange(); show(); });
    reset.addEventListener("click", () => {
      if (!window.confirm("Forget the score of all questions?")) return;
      score = {};
      save();
      show();
    });
    window.addEventListener("storage", (event) => { if (event.key === STORE) { score = load(); show(); } }); // another tab
    show();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
