// The exercises one at a time: arrow keys, a bar with the number and the notebook, the address of each slide. All of them when printed.
(() => {
  "use strict";
  const root = document.documentElement;
  const slides = [...document.querySelectorAll("main.content section.level2")];
  if (!slides.length) { root.classList.remove("stal-deck"); return; }
  const name = (slide) => slide.querySelector("h2").textContent.trim();
  let current = 0;

  const bar = document.createElement("nav");
  bar.className = "stal-slide-bar";
  bar.setAttribute("aria-label", "Slides");
  bar.innerHTML = '<button type="button" data-move="-1" aria-label="Previous exercise">‹</button><select aria-label="Exercise"></select>' +
    '<span role="status"></span><button type="button" data-move="1" aria-label="Next exercise">›</button>' +
    '<button type="button" data-list>All</button>';
  const [choice, status, list] = [bar.querySelector("select"), bar.querySelector("span"), bar.querySelector("[data-list]")];
  slides.forEach((slide, k) => choice.add(new Option(name(slide), k)));

  const show = (k, remember = true) => {
    current = Math.max(0, Math.min(slides.length - 1, k));
    slides.forEach((slide, n) => slide.classList.toggle("stal-current", n === current));
    choice.value = current;
    status.textContent = `${current + 1} / ${slides.length}`;
    bar.querySelector("[data-move='-1']").disabled = current === 0;
    bar.querySelector("[data-move='1']").disabled = current === slides.length - 1;
    if (remember) history.replaceState(null, "", "#" + slides[current].id);
    if (root.classList.contains("stal-deck")) window.scrollTo(0, 0);
  };
  const fromAddress = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    return Math.max(0, slides.findIndex((slide) => place && (slide === place || slide.contains(place))));
  };
  const toggleList = () => {
    const deck = root.classList.toggle("stal-deck");
    list.textContent = deck ? "All" : "One";
    if (!deck) slides[current].scrollIntoView(); else window.scrollTo(0, 0);
  };

  bar.addEventListener("click", (event) => {
    const move = event.target.dataset.move;
    if (move) show(current + Number(move));
    if (event.target === list) toggleList();
  });
  choice.addEventListener("change", () => { show(Number(choice.value)); if (!root.classList.contains("stal-deck")) slides[current].scrollIntoView(); });
  window.addEventListener("hashchange", () => show(fromAddress(), false));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || !root.classList.contains("stal-deck")) return;
    const moves = { ArrowRight: current + 1, PageDown: current + 1, ArrowLeft: current - 1, PageUp: current - 1, Home: 0, End: slides.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
  document.body.append(bar);
  show(fromAddress(), Boolean(location.hash));
})();
