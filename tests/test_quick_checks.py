"""After each section of the course stands a question with a folded answer, and one page holds all of them."""
import json
import re
from math import log

import pytest

from tools import quick_checks
from tools.docs import ROOT

COURSE = quick_checks.course(ROOT / "nbs")
EVERY = {notebook.name: quick_checks.checks(notebook) for notebook in COURSE}
NOT_ASKED = ("Try it", "Three sentences to keep", "Pictures used above")  # exercises, the end, and what only draws


def sections(notebook):
    "(heading, text) of each part of a notebook that begins with `## `."
    cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
    text = re.sub(r"^```.*?^```", "", "\n\n".join("".join(c["source"]) for c in cells), flags=re.S | re.M)
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("notebook", COURSE, ids=lambda file: file.stem)
def test_each_section_of_the_course_asks_something(notebook):
    assert not [heading for heading, text in sections(notebook) if quick_checks.MARK not in text and heading not in NOT_ASKED]
    assert len(EVERY[notebook.name]) >= 3


def test_questions_are_questions_and_answers_are_short():
    every = [check for found in EVERY.values() for check in found]
    assert len(COURSE) >= 21 and len(every) >= 60
    assert len({re.sub(r"\W+", " ", check.question.lower()) for check in every}) == len({check.id for check in every}) == len(every)
    for check in every:
        assert "?" in check.question or check.question.endswith("."), check
        assert 3 <= len(check.answer.split()) <= 60, f"{check.notebook}: {check.question}"
        assert not re.search(r"\]\(#", check.question + check.answer), "a link within its own notebook leads nowhere on the page"


def test_the_page_holds_all_of_them_and_is_in_step():
    assert quick_checks.write(ROOT / "nbs", check=True) == [], "run `make export`"
    (output,) = json.loads((ROOT / "nbs" / quick_checks.PAGE).read_text(encoding="utf-8"))["cells"][-1]["outputs"]
    text = "".join(output["data"]["text/markdown"])
    assert text == quick_checks.page(ROOT / "nbs") and text.count("<details>") == sum(map(len, EVERY.values()))
    assert all(check.question in text and check.answer in text for found in EVERY.values() for check in found)


NUMBERS = {  # part of a question: what its answer says, computed here
    "`min_kept=100_000`": [f"{2 * 128 * 256:,}", f"{round(0.085 * 65_536, -1):,.0f}"],
    "0 for the rest": [f"{log(2) / log(19):.2f}"],
    "each of $N = 3$ negatives": [f"{log(1 + 3):.2f}"],
    "0.2 for pole": [f"{100 * (1 - conf) / (1 - 0.2):.4g}\\,\\%" for conf in (0.9, 0.6, 0.2)],
    "predicts it at 150 pixels": [f"{100 * 90 / (100 + 150 - 90):.0f}\\,\\%"],
    "6 pixels wide": [f"{100 * (6 - 2) / (6 + 2):.0f}\\,\\%", f"{100 * 58 / 62:.0f}\\,\\%"],
    "entry number 29": [f"= {29 % 12}$", f"entry {29 - 12}"],
    "constant batch confidence 0.8": [f"{0.8 * (1 - 0.97**23):.2f}$"],
    "twelve views": [f"{2 * sum(size**2 for size in (0.5, 0.75, 1, 1.25, 1.5, 1.75)):.1f}"],
    "spread over four classes": [f"{-(0.4 * log(0.4) + 0.6 * log(0.2)) / log(4):.2f}"],
    "with a sum of shares of 4": [f"{4.5**0.5 - 2:.2f}", f"{0.5**0.5:.2f}"],
    "After 250 steps": [f"{100 * 0.99**150:.0f}$ %"],
    "How many regions of radius 16": [f"{16 * 128 * 256:,}".replace(",", "{,}"), f"{16 * 128 * 256 // 33**2} regions"],
    "further from undecided": [f"{log(257):.1f}$", f"{log(51):.1f}$", f"{log(257) - 4.1:.1f} below", f"B {log(51) - 2.6:.1f}"],
    "5 are fire": [f"{96 * 144:,}", f"{5 / (96 * 144):.5f}"],
}


@pytest.mark.parametrize("part", NUMBERS)
def test_numbers_of_answers_are_right(part):
    (check,) = [c for found in EVERY.values() for c in found if part in c.question + c.answer]
    assert all(number in check.answer for number in NUMBERS[part]), (NUMBERS[part], check.answer)


def notebook_of(*texts):
    return json.dumps({"cells": [{"cell_type": "markdown", "source": text} for text in texts]})


ASKED = "**Quick check.** {}?\n\n<details><summary>Answer</summary>\n\n{}\n\n</details>"


def test_a_question_knows_its_section_and_keeps_its_id_when_it_moves(tmp_path):
    file = tmp_path / "00_a.ipynb"
    file.write_text(notebook_of("# A title\n\n> Words.", "## One\n\n```bash\n## no heading\n```\n\n" + ASKED.format("Why", "So"),
                                "### $L_s$: a `name`", ASKED.format("And", "Yes"), "## One\n\n" + ASKED.format("Again", "No")))
    first, second, third = quick_checks.checks(file)
    assert first[1:] == ("A title", "One", "one", "Why?", "So")
    assert (second.section, second.anchor, second.answer) == ("$L_s$: a `name`", "l_s-a-name", "Yes") and third.anchor == "one-1"
    file.write_text(notebook_of("# A title", "## Two", ASKED.format("Why", "So, and more")))
    assert quick_checks.checks(file)[0].id == first.id != second.id


@pytest.mark.parametrize("broken", ["**Quick check.** Why?", "**Quick check.** Why?\n\n<details><summary>Solution</summary>\n\nSo\n\n</details>",
                                    "**Quick check.** Why?\n<details><summary>Answer</summary>\n\nSo\n\n</details>"])
def test_another_form_is_named(tmp_path, broken):
    (tmp_path / "00_a.ipynb").write_text(notebook_of("# A title", ASKED.format("First", "So"), "## Two\n\n" + broken))
    with pytest.raises(quick_checks.CheckError, match=r"00_a.ipynb: found '\*\*Quick check.\*\* Why\?.*expected a question"):
        quick_checks.checks(tmp_path / "00_a.ipynb")
    (tmp_path / "00_a.ipynb").write_text(notebook_of("# A title", broken + "\n\n" + ASKED.format("Second", "So")))
    with pytest.raises(quick_checks.CheckError, match=r"Why\?"):
        quick_checks.checks(tmp_path / "00_a.ipynb")
