"""All exercises of the course as slides: a page of the site, one slide an exercise, with its answer folded.

They are read from the sections "Try it" of the numbered notebooks. `write_page` writes them as a notebook beside the others, which is rendered like
these; `finish` turns the page into slides. nbs/slides.js moves through them; without it the page is a list.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from tools.quick_checks import course

NAME = "exercises"
DETAILS = re.compile(r"<details>\s*<summary>(Answers?)</summary>(.*?)</details>", re.S)
ITEM = re.compile(r"^(\d+)\. ", re.M)


class Exercise(NamedTuple):
    "A question of a notebook, in Markdown."

    notebook: str  # its stem
    title: str  # of the notebook
    number: int
    question: str
    answer: str


def numbered(text: str) -> dict[int, str]:
    "The items of a numbered list by number; a text without numbers is item 1."
    places = [*ITEM.finditer(text)]
    if not places:
        return {1: text.strip()} if text.strip() else {}
    ends = [place.start() for place in places[1:]] + [len(text)]
    return {int(place[1]): text[place.end():end].strip() for place, end in zip(places, ends, strict=True)}


def try_it(text: str) -> dict[int, tuple[str, str]]:
    "number -> (question, answer) of a section, in which an answer follows its question, or all of them stand at the end."
    questions, answers, place = {}, {}, 0
    for folded in DETAILS.finditer(text):
        asked = numbered(text[place:folded.start()])
        questions |= asked
        place = folded.end()
        answers |= numbered(folded[2]) if folded[1] == "Answers" else {max(questions): folded[2].strip()}
    return {number: (question, answers.get(number, "")) for number, question in questions.items()}


def read_exercises(notebook: Path) -> list[Exercise]:
    "The exercises of a notebook, in order."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    title = re.match(r"# (.*)", text)[1]
    section = re.search(r"^## Try it\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    return [Exercise(notebook.stem, title, n, *both) for n, both in sorted(try_it(section[1]).items())] if section else []


def write_page(folder: Path, target: Path) -> None:
    "Write the exercises of the notebooks of a folder as a notebook of text cells."
    exercises = [exercise for notebook in course(folder) for exercise in read_exercises(notebook)]
    words = f"{len(exercises)} exercises of the course, one a slide: arrow keys move, the answers are folded."
    cells = [("raw", f"---\ntitle: Exercises\ndescription: '{words}'\noutput-file: {NAME}.html\n---")]
    for one in exercises:
        number = one.notebook.split("_")[0]
        cells.append(("markdown", f"## {number} {one.title.split(':')[0]}, exercise {one.number}\n\n{one.question}\n\n"
                      f"<details><summary>Answer</summary>\n\n{one.answer}\n\n</details>\n\n[The notebook]({one.notebook}.ipynb)"))
    content = [{"cell_type": kind, "id": f"slide{k}", "metadata": {}, "source": source} for k, (kind, source) in enumerate(cells)]
    notebook = {"cells": content, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (target / f"{NAME}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


def finish(page: str) -> str:
    "The rendered page with its script. The class is set before anything is drawn, so that the list is not seen first."
    return page.replace("</head>", '<script>document.documentElement.classList.add("stal-deck")</script>'
                        '<script src="site_libs/stal_slides.js" defer></script></head>', 1)
