"""What a page without a kernel shows where a notebook has live controls: what the cell drew or computed in advance."""
from __future__ import annotations

import base64
import gzip
import html
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRAMES = "application/vnd.stal-nb.frames+json"  # written by nbs/figures/knobs.py
EXPLORER = "application/vnd.stal-nb.explorer+json"  # written by nbs/figures/explorers.py


def knob_html(data: dict, alt: str) -> str:
    "Stored frames as the page shows them: the picture shown first, and what `nbs/knobs.js` needs to react to controls."
    from stal_nb.app.pages import script_json

    frames, first = data[FRAMES], 0
    for control in frames["controls"]:
        first = first * len(control["words"]) + control["start"]
    text = html.escape(f"{alt} {frames['says'][first]}".strip(), quote=True)
    png = "".join(data["image/png"]).replace("\n", "")
    return (f'<div class="stal-knob"><div class="stal-picture" tabindex="0" role="group" aria-label="Picture of the controls above"><img alt="{text}" '
            f'src="data:image/png;base64,{png}"></div><script type="application/json">{script_json({**frames, "alt": alt})}</script></div>')


def explorer_html(data: dict, number: str) -> str:
    "A stored explorer: the widget's own script and style, over a model that answers from what the notebook stored."
    from stal_nb.app.pages import script_json

    name = data[EXPLORER]["name"]
    facts = json.loads(gzip.decompress(base64.b64decode(data[EXPLORER]["facts"])))
    static = ROOT / "stal_nb" / "app" / "static"
    files = (static / "stored.js", ROOT / "nbs" / "explorers.js", static / f"{name}.js")
    script = "\n".join(file.read_text(encoding="utf-8") for file in files).replace("export default", "const stored =")
    start = f"""
const el = document.getElementById("explorer-{number}");
const model = stored{name.title()}(JSON.parse(document.querySelector("[data-explorer=explorer-{number}]").textContent));
const widget = typeof stored === "function" ? stored() : stored;
await widget.initialize?.({{ model }});
widget.render({{ model, el }});
"""
    return (f'<div class="stal-explorer" id="explorer-{number}"></div><style>{(static / f"{name}.css").read_text(encoding="utf-8")}</style>'
            f'<script type="application/json" data-explorer="explorer-{number}">{script_json(facts)}</script>'
            f'<script type="module">{script}{start}</script><noscript><p class="stal-live">The explorer needs scripts.</p></noscript>')
