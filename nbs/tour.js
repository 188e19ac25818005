// The tour on the first page (tools/tour.py): one picture at a time, by buttons, dots, arrow keys and swipe. Without it, the pictures stand in a row.
(() => {
  "use strict";
  const tour = document.querySelector(".stal-tour");
  const steps = [...tour.children];
  let current = 0, from = null;
  const button = (text, name, go) => {
    const node = document.createElement("button");
    node.type = "button";
    node.textContent = text;
    node.setAttribute("aria-label", name);
    node.addEventListener("click", go);
    return node;
  };

  const bar = document.createElement("div");
  bar.className = "stal-tour-bar";
  const back = button("‹", "Previous picture", () => show(current - 1));
  const next = button("›", "Next picture", () => show(current + 1));
  const dots = document.createElement("span");
  dots.className = "stal-tour-dots";
  dots.append(...steps.map((_, k) => button("", `Picture ${k + 1} of ${steps.length}`, () => show(k))));
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  const whole = document.createElement("a");
  whole.textContent = "Full size";
  bar.append(back, dots, status, whole, next);

  function show(k) {
    current = Math.max(0, Math.min(steps.length - 1, k));
    steps.forEach((step, n) => step.classList.toggle("stal-current", n === current));
    [...dots.children].forEach((dot, n) => { if (n === current) dot.setAttribute("aria-current", "true"); else dot.removeAttribute("aria-current"); });
    status.textContent = `${current + 1} / ${steps.length}`;
    whole.href = steps[current].querySelector("img").getAttribute("src");
    back.setAttribute("aria-disabled", current === 0); // not `disabled`, which would take the focus and with it the keys
    next.setAttribute("aria-disabled", current === steps.length - 1);
    tour.dataset.shown = current;
  }

  tour.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: steps.length - 1 };
    if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
  tour.addEventListener("touchstart", (event) => { from = event.touches.length === 1 ? event.touches[0] : null; }, { passive: true });
  tour.addEventListener("touchend", (event) => {
    if (!from) return;
    const { clientX, clientY } = event.changedTouches[0], across = clientX - from.clientX;
    if (Math.abs(across) > 40 && Math.abs(across) > 2 * Math.abs(clientY - from.clientY)) show(current + (across < 0 ? 1 : -1));
    from = null;
  }, { passive: true });
  tour.classList.add("stal-stepwise");
  tour.append(bar);
  show(0);
})();
