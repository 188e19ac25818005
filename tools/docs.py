"""The documentation site and README.md, made from the notebooks with packages from PyPI alone.

    python -m tools.docs site [--out _docs]     a site that opens from disk and asks no network for anything
    python -m tools.docs print [NOTEBOOK ...]   a PDF of the first reading path, _docs/first_path.pdf (tools/paper.py)
    python -m tools.docs export                 the library from all notebooks, README.md, and the page of quick checks
    python -m tools.docs readme [--check]       README.md and its pictures from nbs/index.ipynb, and the page of quick checks (tools/quick_checks.py)
    python -m tools.docs execute NOTEBOOK ...   run notebooks from top to bottom and store them with small pictures, clean
    python -m tools.docs clean                  remove generated files (not .venv, not runs) and noise in notebooks

nbdev turns each notebook into a page with signatures, smalldocs renders the pages. What smalldocs would fetch from a content network, this
module puts into the site: formulas become MathML with a font of their own, plotly figures use the plotly.js of the installed package, search
works without a server, links to the source code lead to copies beside the pages.
"""
from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import html
import inspect
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tools import glossary, quick_checks, slides, tour
from tools.live import EXPLORER, FRAMES, explorer_html, knob_html

ROOT = Path(__file__).resolve().parent.parent  # of the project
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
OPENING = ("index.ipynb", "story.ipynb", "paths.ipynb", "symbols.ipynb")  # read before the numbered ones
COPIED = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".css", ".js", ".woff2", ".txt", ".yml")  # files of nbs/ that pages use
SCRIPTS = {"site.js": "stal_nb.js", "self_test.js": "self_test.js", "slides.js": "stal_slides.js", "knobs.js": "knobs.js", "tour.js": "tour.js"}


class DocsError(Exception):
    "The site or the README cannot be built; the message says where and why."


# -- notebooks to pages --------------------------------------------------------------------------------------------------------


def notebooks(folder: Path) -> list[Path]:
    "All notebooks below a folder, in reading order, without checkpoints and drafts."
    found = (f for f in folder.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in f.relative_to(folder).parts))
    first = {name: place for place, name in enumerate(OPENING)}
    return sorted(found, key=lambda f: (len(f.relative_to(folder).parts), first.get(f.name, len(OPENING)), f.name))


def web_output(output: dict, number: str, alt: str = "") -> dict | None:
    "An output as a page without a kernel can show it: plotly data becomes a figure; controls move stored pictures, or leave a note."
    from stal_nb.app.pages import script_json

    data = output.get("data") or {}
    if PLOTLY in data:
        figure = {k: data[PLOTLY].get(k) for k in ("data", "layout", "frames") if data[PLOTLY].get(k)}
        height = (figure.get("layout") or {}).get("height") or 450
        source = script_json(figure)
        text = (f'<div class="stal-plot" id="plot-{number}" style="min-height:{height}px"></div>'
                f'<script type="application/json" data-plot="plot-{number}">{source}</script>')
        return {"output_type": "display_data", "metadata": {}, "data": {"text/html": text}}
    if FRAMES in data:
        return {"output_type": "display_data", "metadata": {}, "data": {"text/html": knob_html(data, alt)}}
    if EXPLORER in data:
        return {"output_type": "display_data", "metadata": {}, "data": {"text/html": explorer_html(data, number)}}
    if WIDGET in data:
        text = '<p class="stal-live">Here stand live controls when the notebook runs: open it in JupyterLab (<code>make lab</code>).</p>'
        return {"output_type": "display_data", "metadata": {}, "data": {"text/html": text}}
    return output


def show_code(cell) -> None:
    "A page shows the code of exported cells beside their signatures: it is what the notebook explains. Cells of imports stay hidden."
    tree = ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M)).body
    if not all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree):
        cell.source = re.sub(r"^#\|\s*export\s*$", "#| exports", cell.source, count=1, flags=re.M)


def callouts(text: str) -> str:
    "GitHub's alerts (`> [!NOTE]`), which JupyterLab and code hosts show, as callouts of the site."
    def one(match: re.Match) -> str:
        body = re.sub(r"^> ?", "", match[2], flags=re.M).strip()
        return f"::: {{.callout-{match[1].lower()}}}\n{body}\n:::\n"

    return re.sub(r"^> \[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\][ ]*\n((?:>.*(?:\n|\Z))+)", one, text, flags=re.M)


def library_imports(nb) -> list[str]:
    "The lines of a notebook that import names from this package."
    trees = [ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M)) for cell in nb.cells if cell.cell_type == "code"]
    return [ast.unparse(node) for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stal_nb")]


def readable_signature(obj, *, eval_str: bool = False, **options) -> inspect.Signature:
    """`inspect.signature`, but annotations that cannot be evaluated stay as they are written.

    A base class of another package may annotate with names that exist for type checkers only. Raises ValueError and TypeError for what has no signature."""
    try:
        return inspect.signature(obj, eval_str=eval_str, **options)
    except Exception:  # evaluating an annotation runs anybody's code
        if not eval_str:
            raise
        return inspect.signature(obj, **options)


@contextlib.contextmanager
def showing_signatures():
    "While nbdev shows signatures: ours instead of the one that insists on evaluating; and the shell that runs `show_doc` leaves `__main__` as it was."
    from fastcore import docments

    before, main = docments.signature, sys.modules["__main__"]
    docments.signature = readable_signature
    try:
        yield
    finally:
        docments.signature, sys.modules["__main__"] = before, main


def process_notebook(source: Path, target: Path) -> None:
    "Write the page version of a notebook: nbdev's signatures, the code, and outputs for the web. Runs no cell of the notebook."
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.process import NBProcessor
    from nbdev.processors import FilterDefaults, _show_docs, exec_show_docs

    nb = read_nb(source)
    if source.name == quick_checks.PAGE:
        quick_checks.fill(nb, source.parent)
    alts = {cell.id: directives(cell.source)[1].get("fig-alt", "") for cell in nb.cells if cell.cell_type == "code"}
    module = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(c.source for c in nb.cells if c.cell_type == "code"), flags=re.M)
    for cell in nb.cells:
        if cell.cell_type == "code":
            show_code(cell)
        elif cell.cell_type == "markdown":
            cell.source = callouts(cell.source)

    class RunSignatures(exec_show_docs):
        "Runs `show_doc` alone, with the names of the notebook's module. nbdev's own would run every cell that imports something."

        def begin(self):
            self.k = CaptureShell()
            lines = ["from nbdev.showdoc import show_doc", *library_imports(nb)]
            if module:
                lines.append(f"import importlib; globals().update(vars(importlib.import_module('stal_nb.{module[1]}')))")
            self.k.run_cell("\n".join(lines))
            if self.k.exc:
                raise DocsError(f"{source.name}: the library cannot be imported: {self.k.exc}") from self.k.exc

        def __call__(self, cell):
            if cell.cell_type == "code" and _show_docs(cell.parsed_() or []):
                self.k.cell(cell)
                if self.k.exc:
                    raise DocsError(f"{source.name}: {cell.source!r} failed: {self.k.exc}") from self.k.exc

        def end(self):
            self.k.user_ns.clear()  # its `reset` would look through everything that is in memory, for half a second

    with showing_signatures():
        NBProcessor(nb=nb, procs=[RunSignatures if p is exec_show_docs else p for p in FilterDefaults().procs()]).process()
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "code":
            outputs = [web_output(o, f"{i}-{k}", alts.get(cell.id, "")) for k, o in enumerate(cell.get("outputs") or [])]
            cell.outputs = [o for o in outputs if o]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nb(nb, target)


@contextlib.contextmanager
def project_folder():
    "nbdev looks for settings.ini from the current folder upwards; `IN_TEST` keeps cells from exporting."
    before, flag = os.getcwd(), os.environ.get("IN_TEST")
    os.chdir(ROOT)
    os.environ["IN_TEST"] = "1"
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("IN_TEST") if flag is None else os.environ.__setitem__("IN_TEST", flag)


def process_all(source: Path, target: Path, names: tuple[str, ...] | None = None) -> None:
    "Page versions of all notebooks of a folder, or of those with these stems, with the files that they use."
    for file in source.rglob("*"):
        if file.is_file() and file.suffix in COPIED and not any(p.startswith(".") for p in file.relative_to(source).parts):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    with project_folder():
        chosen = notebooks(source) if names is None else [source / f"{name}.ipynb" for name in names]
        for notebook in chosen:
            print(f"  {notebook.relative_to(source)}", flush=True)
            process_notebook(notebook, target / notebook.relative_to(source))


# -- pages to a site that needs no network -----------------------------------------------------------------------------------------

MATHS = re.compile(r'<span class="math (inline|display)">\\([(\[])(.*?)\\[)\]]</span>', re.S)


def formulas(page: str, where: str = "page") -> str:
    "Replace the LaTeX that smalldocs leaves to a script by MathML. Raises `DocsError` with the formula that cannot be read."
    from math_core import LatexError, LatexToMathML

    convert = LatexToMathML(annotation=True, fancy_error=False, macros={"argmax": r"\operatorname*{arg\,max}", "argmin": r"\operatorname*{arg\,min}"})

    def one(match: re.Match) -> str:
        kind, _, source = match.groups()
        latex = html.unescape(source).strip()
        try:
            return f'<span class="math {kind}">{convert.convert_with_local_state(latex, displaystyle=kind == "display")}</span>'
        except LatexError as error:
            raise DocsError(f"{where}: found a formula that cannot be read, {latex!r}: {error}") from error

    return MATHS.sub(one, page)


def local_links(page: str, depth: int, base: str, repository: str) -> str:
    "Turn links to the published site and to source files of the repository into links between the files of this site."
    up = "../" * depth
    page = re.sub(rf'href="{re.escape(base)}/([^"]*)"', lambda m: f'href="{up}{m[1]}"', page)
    outside = "../" * (depth + 1)  # files beside nbs/, such as the licence, are in the repository only
    page = re.sub(rf'href="{re.escape(outside)}([A-Z][\w.-]*)"', lambda m: f'href="{repository}/blob/main/{m[1]}"', page)
    source = rf'href="{re.escape(repository)}/blob/\w+/(stal_nb/[\w/]+)\.py(?:#L(\d+))?"'
    page = re.sub(source, lambda m: f'href="{up}source/{m[1]}.html{"#L-" + m[2] if m[2] else ""}"', page)
    return re.sub(r'href="((?:\.\.?/)+)"', r'href="\1index.html"', page)  # a folder opened from disk is a list of files


def fold_long_code(match: re.Match, longest: int = 60) -> str:
    "Code stands open below its signature, unless it is longer than a screen."
    opened = "" if match[1].count("\n") > longest else " open"
    return f'<details{opened} class="code-fold"><summary>Code</summary>{match[1]}</details>'


def picture_sizes(page: str) -> str:
    "Stored pictures say their size, so that nothing moves while a page loads; those too wide for a phone are marked."
    def one(match: re.Match) -> str:
        width, height = struct.unpack(">II", base64.b64decode(match[1])[16:24])
        size = "" if re.search(r'\swidth="', match[0]) else f' width="{width}" height="{height}"'
        return f'<img{size}{" data-wide" if width >= 700 and width > 1.5 * height else ""}{match[0].removeprefix("<img")}'

    return re.sub(r'<img\s[^>]*?src="data:image/png;base64,([A-Za-z0-9+/]{32})[^>]*>', one, page)


def finish_page(page: str, depth: int, settings: dict, where: str) -> str:
    "Everything that a rendered page still needs to stand alone."
    up = "../" * depth
    page = re.sub(r'<(?:link|script)\b[^>]*(?:href|src)="https://cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?', "", page)
    page = formulas(page, where)
    page = local_links(page, depth, settings["doc_host"] + settings["doc_baseurl"], settings["git_url"])
    page = re.sub(r'<details open="" class="code-fold">\s*<summary>Exported source</summary>(.*?)</details>', fold_long_code, page, flags=re.S)
    page = re.sub(r'<img (?![^>]*\balt=)', '<img alt="Output of the code above" ', page)
    page = picture_sizes(page)
    scripts = f'<script src="{up}site_libs/stal_nb.js"></script>'
    if 'class="quick-check"' in page:
        scripts += f'<script src="{up}site_libs/self_test.js" defer></script>'
    if 'class="stal-knob"' in page:
        scripts += f'<script src="{up}site_libs/knobs.js"></script>'
    if 'class="stal-plot"' in page:
        scripts += f'<script src="{up}site_libs/plotly.min.js" defer></script>'
    return page.replace("</head>", scripts + "</head>", 1)


def source_pages(package: Path, target: Path) -> None:
    "A page for each module of the package, with an anchor at each line."
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    for module in sorted(package.rglob("*.py")):
        name = module.relative_to(package.parent)
        page = target / name.with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        style = HtmlFormatter(style="default").get_style_defs(".highlight")
        body = highlight(module.read_text(encoding="utf-8"), PythonLexer(), HtmlFormatter(linenos="inline", anchorlinenos=True, lineanchors="L"))
        home = "../" * len(name.parts) + "index.html"
        page.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
            f'<link rel="icon" href="data:,"><style>{style} body{{font:15px/1.45 system-ui,sans-serif;margin:1rem auto;max-width:1100px;padding:0 1rem;'
            f'background:#fff;color:#222}} .highlight{{overflow-x:auto;background:#fff}} pre{{line-height:1.4}} .linenos{{user-select:none}}'
            f'@media (prefers-color-scheme: dark){{html{{filter:invert(.9) hue-rotate(180deg);background:#fff}}}}</style>'
            f'<p><a href="{home}">stal_nb</a> / {name}</p>{body}</html>', encoding="utf-8")


def smalldocs(folder: Path, warnings: bool = True) -> None:
    """Render the site of a folder; its output goes to the folder `_docs` inside. Raises `DocsError` with what smalldocs said.

    `warnings=False` is for a part of the site, whose links to the rest lead nowhere yet."""
    if sys.version_info < (3, 11):
        raise DocsError(f"Python: found {sys.version.split()[0]}, expected 3.11 or newer, which smalldocs, the renderer of the site, needs")
    done = subprocess.run([sys.executable, "-c", "from smalldocs.cli import main; main()", "render", str(folder), "--quiet"],
                          capture_output=True, encoding="utf-8", errors="replace")
    for line in (done.stdout + done.stderr).splitlines() if warnings or done.returncode else []:
        print(f"  smalldocs: {line}", flush=True)
    if done.returncode:
        raise DocsError(f"smalldocs render {folder}: exit status {done.returncode}, expected 0; see its words above")


def copy_scripts(site: Path) -> None:
    "Our own scripts, to where pages look for them."
    for script, name in SCRIPTS.items():
        shutil.copyfile(ROOT / "nbs" / script, site / "site_libs" / name)


def copy_plotly(site: Path) -> None:
    "The plotly.js of the installed package."
    import plotly.offline

    (site / "site_libs" / "plotly.min.js").write_text(plotly.offline.get_plotlyjs(), encoding="utf-8")


def read_settings() -> dict:
    "The values of settings.ini."
    import configparser

    parser = configparser.ConfigParser(delimiters=["="])
    if not parser.read(ROOT / "settings.ini", encoding="utf-8"):
        raise DocsError(f"{ROOT / 'settings.ini'}: not found; the site is built from a checkout of the project")
    return dict(parser["DEFAULT"])


def build_site(out: Path, work: Path | None = None) -> Path:
    "Build the whole site into `out`, which is replaced in the end; returns its first page."
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(work or temporary) / "pages"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        print("Notebooks:", flush=True)
        process_all(ROOT / "nbs", work)
        slides.write_page(ROOT / "nbs", work)
        print("Rendering", flush=True)
        smalldocs(work)
        site, settings, terms = work / "_docs", read_settings(), glossary.read_terms(ROOT / "nbs" / "symbols.ipynb")
        for page in site.rglob("*.html"):
            where = page.relative_to(site)
            text = finish_page(page.read_text(encoding="utf-8"), len(where.parts) - 1, settings, str(where))
            if glossary.COURSE.fullmatch(str(where)):
                text = glossary.mark_terms(text, terms)
            finish = {f"{slides.NAME}.html": slides.finish, "index.html": tour.slideshow}.get(str(where), str)
            page.write_text(finish(text), encoding="utf-8")
        for style in (site / "site_libs").rglob("*.css"):
            text = style.read_text(encoding="utf-8")
            style.write_text(re.sub(r"@import url\(https?:[^)]*\);?", "", text), encoding="utf-8")
        copy_scripts(site)
        if any('class="stal-plot"' in page.read_text(encoding="utf-8") for page in site.rglob("*.html")):
            copy_plotly(site)
        if (site / "search.json").exists():
            (site / "search-index.js").write_text("window.stalNbSearch=" + (site / "search.json").read_text(encoding="utf-8"), encoding="utf-8")
        source_pages(ROOT / "stal_nb", site / "source")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(str(site), str(out))
    return out / "index.html"


# -- checks ------------------------------------------------------------------------------------------------------------------------


def broken_links(site: Path) -> list[str]:
    "Links and files of pages that lead nowhere inside the site, and files that a page would fetch from a network."
    site = site.resolve()
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for page, text in pages.items()}
    problems = set()
    for page, text in pages.items():
        text = re.sub(r"<script\b[^>]*>.*?</script>", lambda m: m[0].split(">", 1)[0] + ">", text, flags=re.S)
        links = set(re.findall(r'<(\w+)\b([^>]*?)\b(href|src)="([^"]*)"', re.sub(r'"data:[^"]*"', '"data:"', text)))
        for tag, before, attribute, target in links:
            parts = urlsplit(html.unescape(target))
            if parts.scheme in ("http", "https") or target.startswith("//"):
                if tag != "a" and 'rel="canonical"' not in before:
                    problems.add(f"{page.relative_to(site)}: <{tag} {attribute}> fetches {target}")
            elif not parts.scheme:
                file = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
                file = file / "index.html" if file.is_dir() else file
                if not file.exists():
                    problems.add(f"{page.relative_to(site)}: no file for {target}")
                elif parts.fragment not in ("", "top") and unquote(parts.fragment) not in anchors.get(file, {unquote(parts.fragment)}):
                    problems.add(f"{page.relative_to(site)}: no anchor for {target}")
    return sorted(problems)


# -- README ----------------------------------------------------------------------------------------------------------------------------


def directives(source: str) -> tuple[set[str], dict[str, str], str]:
    "The `#|` lines of a cell as flags and values, and the code without them."
    flags, values, lines = set(), {}, source.split("\n")
    while lines and lines[0].startswith("#|"):
        key, colon, value = lines.pop(0)[2:].strip().partition(":")
        flags.add(key.strip()) if not colon else values.__setitem__(key.strip(), value.strip().strip("\"'"))
    return flags, values, "\n".join(lines)


def readme(notebook: Path) -> tuple[str, dict[str, bytes]]:
    "The README's text and its pictures {path in the project: bytes}, from the stored cells and outputs of the index notebook."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts, pictures = [f"<!-- Generated from nbs/{notebook.name} by `make export`: edit the notebook. -->"], {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_readme_links(source.strip()))
            continue
        flags, values, code = directives(source)
        if cell["cell_type"] != "code" or "hide" in flags or values.get("include") == "false" or "default_exp" in source:
            continue
        if values.get("echo") != "false" and code.strip():
            parts.append(f"```python\n{code.strip()}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data") or {}
            if "image/png" in data:
                name = f"nbs/images/{values.get('label', 'figure-' + str(len(pictures)))}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{values.get('fig-alt', 'Output of the code above')}]({name})")
            elif output["output_type"] == "stream" or "text/plain" in data:
                text = "".join(output.get("text") or data["text/plain"]).rstrip()
                parts.append("\n".join("    " + line for line in text.splitlines()))
    return "\n\n".join(parts) + "\n", pictures


def _readme_links(text: str) -> str:
    "Links relative to nbs/ as links relative to the project."
    def one(match: re.Match) -> str:
        target = match[2]
        if re.match(r"\w+:|#|/", target):
            return match[0]
        path = target[3:] if target.startswith("../") else f"nbs/{target}"
        return f"{match[1]}({quote(path, safe='/#%:._-')})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", one, text)


def write_readme(check: bool = False) -> list[str]:
    "Write README.md and its pictures, or only name the files that are out of step."
    text, pictures = readme(ROOT / "nbs" / "index.ipynb")
    files = {"README.md": text.encode(), **pictures}
    stale = [name for name, data in files.items() if not (ROOT / name).exists() or (ROOT / name).read_bytes() != data]
    for name in [] if check else stale:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(files[name])
    return stale


def write_generated(check: bool = False) -> list[str]:
    "README.md, and the page of all quick checks."
    return write_readme(check) + quick_checks.write(ROOT / "nbs", check)


# -- the other commands ----------------------------------------------------------------------------------------------------------------


def export() -> None:
    "Write the library from the notebooks, then what else is made from them."
    from nbdev.doclinks import nbdev_export

    nbdev_export()
    print("\n".join(f"Written: {name}" for name in write_generated()) or "README.md and the quick checks are in step with the notebooks.")


def clean(root: Path) -> None:
    "Remove generated files (not environments, not runs) and noise in notebooks."
    from nbdev.clean import nbdev_clean

    for pattern in ("_proc", "_docs", "build", "dist", "*.egg-info", ".pytest_cache", ".ruff_cache", "**/__pycache__", "nbs/**/.ipynb_checkpoints"):
        for folder in root.glob(pattern):
            if folder.is_dir() and not any(part.startswith(".venv") for part in folder.relative_to(root).parts):
                shutil.rmtree(folder, ignore_errors=True)
    nbdev_clean()


def main(arguments: list[str] | None = None) -> int:
    "Command line. Exit status 1 with a reason if something cannot be built or is out of step."
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description="Documentation site and README from the notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("site", help="build the site").add_argument("--out", default=str(ROOT / "_docs"), help="folder of the site")
    printed = commands.add_parser("print", help="write a PDF of the first reading path")
    printed.add_argument("--out", type=Path, default=ROOT / "_docs" / "first_path.pdf", help="file of the PDF")
    printed.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="names of other notebooks, such as 10_selection")
    commands.add_parser("export", help="write the library and README.md")
    commands.add_parser("clean", help="remove generated files and noise in notebooks")
    step = commands.add_parser("readme", help="write README.md and the page of quick checks")
    step.add_argument("--check", action="store_true", help="only say whether they are in step")
    commands.add_parser("execute", help="run notebooks and store their outputs").add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    try:
        if options.command in ("export", "clean"):
            export() if options.command == "export" else clean(ROOT)
            return 0
        if options.command == "print":
            from tools import paper

            pages = paper.write_pdf(options.out.resolve(), tuple(options.notebooks) or paper.FIRST_PATH)
            print(f"PDF: {options.out} ({pages} pages, {options.out.stat().st_size / 1e6:.1f} MB)")
            return 0
        if options.command == "execute":
            from tools.execute import execute

            for notebook in options.notebooks:
                if not notebook.is_file():
                    raise DocsError(f"{notebook}: not found, expected a notebook")
                execute(notebook.resolve())
                print(f"{notebook}: {notebook.stat().st_size / 1e6:.2f} MB", flush=True)
            return 0
        if options.command == "readme":
            stale = write_generated(options.check)
            print("\n".join(f"{'Out of step' if options.check else 'Written'}: {name}" for name in stale)
                  or "README.md and the quick checks are in step with the notebooks.")
            return int(bool(stale and options.check))
        first = build_site(Path(options.out).resolve())
        problems = broken_links(first.parent)
        print("\n".join(problems + [f"Site: {first}"]))
        return int(bool(problems))
    except (DocsError, quick_checks.CheckError) as error:
        print(f"tools.docs: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
