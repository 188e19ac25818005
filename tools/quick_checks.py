"""The quick checks of the course on one page, made from its notebooks.

A quick check stands in a text cell at the end of what it asks about:

    **Quick check.** The question?

    <details><summary>Answer</summary>

    Two lines.

    </details>

`nbs/self_test.ipynb` shows all of them. Its output is written by `make export`, and by the cell itself when it runs; the page of the site is made
anew with each build and gets nbs/self_test.js, which keeps the reader's score.
"""
from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

MARK = "**Quick check.**"
FORM = re.compile(
    r"^\*\*Quick check\.\*\* (?P<question>(?:(?!<details|\*\*Quick check).)+?)\n\n"
    r"<details><summary>Answer</summary>\n\n(?P<answer>(?:(?!<details).)+?)\n\n</details>$", re.S | re.M)
HEADING = re.compile(r"^(#{2,3}) (.+)$", re.M)
PAGE = "self_test.ipynb"


class CheckError(ValueError):
    "A quick check does not have the form that all have."


class Check(NamedTuple):
    "One question of the course."

    notebook: str  # its file
    title: str  # of the notebook
    section: str  # the heading above
    anchor: str  # of the heading, on the site
    question: str
    answer: str

    @property
    def id(self) -> str:
        "Follows the question: where it moves to, its score stays; a new wording is a new question."
        return "q-" + hashlib.sha1(self.question.encode()).hexdigest()[:10]


def course(folder: Path) -> list[Path]:
    "The notebooks of the course, in reading order: those whose names begin with a number."
    return sorted(f for f in folder.glob("*.ipynb") if re.match(r"\d\d", f.name))


def slug(heading: str) -> str:
    "The anchor of a heading on the site (Pandoc's rule)."
    kept = "".join(c.lower() for c in re.sub(r"[*`$\\{}]", "", heading) if c.isalnum() or c.isspace() or c in "_-.")
    return re.sub(r"^[^a-z]+", "", "-".join(kept.split())) or "section"


def checks(notebook: Path) -> list[Check]:
    "The quick checks of a notebook, in order. Raises `CheckError` for one of another form."
    texts = ["".join(c["source"]) for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
    title = texts[0].split("\n", 1)[0].removeprefix("# ").strip()
    section, anchor, seen, found = title, "", Counter(), []
    for text in texts:
        outside = re.sub(r"^```.*?^```", lambda m: re.sub(r"\S", " ", m[0]), text, flags=re.S | re.M)  # a comment of a shell is no heading
        asked = list(FORM.finditer(outside))
        if len(asked) != text.count(MARK):
            known = {text.count(MARK, 0, m.start()) for m in asked}
            first = next(k for k in range(text.count(MARK)) if k not in known)
            raise CheckError(f"{notebook.name}: found {MARK + text.split(MARK)[first + 1][:80]!r}, expected a question, "
                             "an empty line and a folded answer as tools/quick_checks.py has it")
        for part in sorted([*HEADING.finditer(outside), *asked], key=lambda m: m.start()):
            if part.re is HEADING:
                section, name = part[2].strip(), slug(part[2])
                anchor = name + (f"-{seen[name]}" if seen[name] else "")
                seen[name] += 1
            else:
                question, answer = (text[slice(*part.span(name))].strip() for name in ("question", "answer"))
                found.append(Check(notebook.name, title, section, anchor, question, answer))
    return found


def page(folder: Path) -> str:
    "All quick checks as Markdown: a heading for each notebook, each question in a block of its own with its answer folded."
    parts = []
    for notebook in course(folder):
        found, number = checks(notebook), notebook.name.split("_")[0]
        parts.append(f"## [{number} {found[0].title}]({notebook.name})" if found else "")
        for check in found:
            link = f"{notebook.name}#{check.anchor}"
            parts.append(f'<div class="quick-check" id="{check.id}">\n\n**[{check.section}]({link})**\n\n{check.question}\n\n'
                         f"<details><summary>Show the answer</summary>\n\n{check.answer}\n\n</details>\n\n<br>\n\n</div>")
    return "\n\n".join(filter(None, parts)) + "\n"


def fill(nb: dict, folder: Path) -> dict:
    "Put the page into the output of the last cell of the notebook `PAGE`, as the cell itself would."
    data = {"text/markdown": page(folder).splitlines(keepends=True), "text/plain": ["<IPython.core.display.Markdown object>"]}
    nb["cells"][-1]["outputs"] = [{"data": data, "execution_count": None, "metadata": {}, "output_type": "execute_result"}]
    return nb


def write(folder: Path, check: bool = False) -> list[str]:
    "Bring the stored output of the page up to date, or only name it where it is out of step."
    file = folder / PAGE
    before = file.read_text(encoding="utf-8")
    after = json.dumps(fill(json.loads(before), folder), indent=1, ensure_ascii=False) + "\n"
    if before != after and not check:
        file.write_text(after, encoding="utf-8")
    return [] if before == after else [f"{folder.name}/{PAGE}"]
