// What the documentation site needs beside smalldocs' own script, so that it works from disk: dark mode of plain Bootstrap, search, plotly figures.
(() => {
  "use strict";
  const root = document.documentElement;
  const dark = () => root.classList.contains("quarto-dark");
  const layout = () => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": dark() ? "#dee2e6" : "#212529",
    "xaxis.gridcolor": dark() ? "#343a40" : "#e9ecef", "yaxis.gridcolor": dark() ? "#343a40" : "#e9ecef",
    "xaxis.zerolinecolor": dark() ? "#495057" : "#ced4da", "yaxis.zerolinecolor": dark() ? "#495057" : "#ced4da",
  });

  // The class that smalldocs sets decides; Bootstrap reads an attribute.
  // smalldocs tells dark from light by the background that it finds, so the attribute follows the chosen scheme, not the class.
  const follow = () => { root.dataset.bsTheme = root.dataset.scheme === "alternate" ? "dark" : "light"; };
  follow();
  new MutationObserver(follow).observe(root, { attributes: true, attributeFilter: ["data-scheme"] });
  new MutationObserver(() => document.querySelectorAll(".stal-plot.js-plotly-plot").forEach((plot) => window.Plotly.relayout(plot, layout())))
    .observe(root, { attributes: true, attributeFilter: ["class"] });

  // A page opened from disk may not read search.json; the same index as a script may be loaded.
  const fetchFile = window.fetch;
  window.fetch = (what, ...rest) => {
    if (location.protocol !== "file:" || !String(what).endsWith("search.json")) return fetchFile(what, ...rest);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = String(what).replace("search.json", "search-index.js");
      script.onload = () => resolve({ json: async () => window.stalNbSearch });
      script.onerror = reject;
      document.head.append(script);
    });
  };

  // Terms of the glossary: pointing, touching or the Tab key shows two lines in a bubble; Escape, a touch elsewhere or leaving both hides it.
  const bubble = document.createElement("div");
  bubble.className = "stal-bubble";
  bubble.hidden = true;
  let shownFor = null, leaving = 0;
  const hide = () => { clearTimeout(leaving); bubble.hidden = true; shownFor = null; };
  const show = (term) => {
    clearTimeout(leaving);
    const note = document.getElementById(term.getAttribute("aria-describedby"));
    if (!note || shownFor === term) return;
    bubble.innerHTML = note.innerHTML;
    bubble.hidden = false;
    shownFor = term;
    const place = term.getClientRects()[0], size = bubble.getBoundingClientRect(), wide = root.clientWidth;
    const below = place.bottom + 6 + size.height <= root.clientHeight || place.top < size.height + 6;
    bubble.style.left = `${Math.max(8, Math.min(place.left, wide - size.width - 8))}px`;
    bubble.style.top = `${below ? place.bottom + 6 : place.top - size.height - 6}px`;
  };
  const termAt = (event) => event.target instanceof Element ? event.target.closest(".stal-term") : null;
  const leave = () => { clearTimeout(leaving); leaving = setTimeout(hide, 250); };
  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector(".stal-term")) return;
    bubble.setAttribute("aria-hidden", "true"); // a screen reader follows aria-describedby
    document.body.append(bubble);
    document.addEventListener("mouseover", (event) => {
      const term = termAt(event);
      if (term) show(term);
      else if (bubble.contains(event.target)) clearTimeout(leaving);
      else if (shownFor && shownFor !== document.activeElement) leave();
    });
    document.addEventListener("focusin", (event) => { const term = termAt(event); if (term) show(term); else hide(); });
    document.addEventListener("click", (event) => { const term = termAt(event); if (term) show(term); else if (!bubble.contains(event.target)) hide(); });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    window.addEventListener("scroll", hide, { passive: true });
    window.addEventListener("resize", hide);
  });

  window.addEventListener("load", () => {
    if (!window.Plotly) return;
    document.querySelectorAll("script[data-plot]").forEach((script) => {
      const plot = document.getElementById(script.dataset.plot);
      const figure = JSON.parse(script.textContent);
      delete (figure.layout || {}).width;
      window.Plotly.newPlot(plot, figure.data || [], figure.layout || {}, { responsive: true, displaylogo: false })
        .then(() => figure.frames && window.Plotly.addFrames(plot, figure.frames))
        .then(() => window.Plotly.relayout(plot, layout()));
    });
  });
})();
