"""What holds the course together: one table of symbols, one glossary, paths that lead through all notebooks, exercises as slides."""
import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from stal_nb.config import Config
from tools import glossary, slides
from tools.docs import OPENING, notebooks
from tools.quick_checks import course

NBS = Path(__file__).resolve().parent.parent / "nbs"
COURSE = course(NBS)


@cache
def text_of(notebook, kind="markdown"):
    return "\n\n".join("".join(c["source"]) for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == kind)


def symbols():
    "The rows of the table: symbol, meaning, shape or range, setting, notebook, value in the paper."
    section = text_of(NBS / "symbols.ipynb").split("## Symbols\n")[1].split("**One letter")[0]
    rows = [[cell.strip() for cell in line.strip("|\n").split(" |")] for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    assert all(len(row) == 6 for row in rows)
    return rows[1:]


WITH_SETTING = [row for row in symbols() if row[3]]


@pytest.mark.parametrize("row", WITH_SETTING, ids=lambda row: row[3].strip("`"))
def test_a_setting_of_the_table_exists_and_has_the_papers_value(row):
    "A value of the last column is that of the presets of the paper; where the column is empty, the paper has nothing of the kind."
    setting, stated = row[3].strip("`"), row[5].removesuffix(" (code)")
    assert setting in {field.name for field in fields(Config)}
    for preset in ("gta5_to_cityscapes", "synthia_to_cityscapes"):
        found = getattr(Config.preset(preset), setting)
        if isinstance(found, (bool, str)):
            assert stated == str(found).lower()
        elif stated:
            numbers = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", stated)}
            assert numbers == {float(value) for value in (found if isinstance(found, tuple) else (found,))}
        else:
            assert setting in ("mc_passes", "fourier_beta")


def test_the_table_has_each_weight_of_the_method_and_each_number_of_the_contrast():
    named = {row[3].strip("`") for row in WITH_SETTING}
    assert {"lambda_s", "lambda_u", "lambda_c", "drop_percent", "gamma", "num_anchors", "num_negatives", "temperature", "anchor_threshold", "low_rank",
            "high_rank", "reliable_percentile", "unreliable_percentile", "bank_capacity", "confidence_momentum", "ohem_threshold", "ohem_kept"} <= named


@pytest.mark.parametrize("row", symbols(), ids=lambda row: row[1][:40])
def test_a_symbol_stands_in_the_notebook_that_defines_it(row):
    "As a formula, or by the name of its setting or parameter; the link leads to a notebook."
    notebook = NBS / re.fullmatch(r"\[[^\]]+\]\(([^)]+)\)", row[4])[1]
    text = text_of(notebook) + text_of(notebook, "code")
    names = set(re.findall(r"\\?[A-Za-z]+", row[0].split(" (")[0])) - {"\\hat", "\\mathcal", "\\mathrm"}  # letters, and Greek ones by name
    assert row[3] and row[3].strip("`") in text or any(re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])", text) for name in names)


def test_every_notebook_of_the_course_leads_to_the_table():
    "In its opening lines, in the same words."
    line = "Symbols and terms of the whole course: [one table](symbols.ipynb)."
    for notebook in COURSE:
        opening = text_of(notebook).split("\n\n## ")[0]
        assert opening.count(line) == 1 and text_of(notebook).count(line) == 1, notebook.name


def test_the_opening_pages_are_read_first():
    names = [notebook.name for notebook in notebooks(NBS) if notebook.parent == NBS]
    assert names == [*OPENING, *(notebook.name for notebook in COURSE), "self_test.ipynb"]


def test_each_term_has_two_lines_and_a_notebook_that_uses_it():
    terms = glossary.read_terms(NBS / "symbols.ipynb")
    rows = text_of(NBS / "symbols.ipynb").split("## Glossary")[1].count("\n| **")
    assert len(terms) == rows >= 40
    assert [term.name.lower() for term in terms] == sorted(term.name.lower() for term in terms)
    words = [word.lower() for term in terms for word in (term.name, *term.forms)]
    assert len(set(words)) == len(words), "one word for two terms"
    for term in terms:
        assert 25 < len(term.meaning) <= 180 and term.meaning.endswith("."), term.name
        assert not re.search(r"[$`*<]", term.meaning), f"{term.name}: a bubble shows plain words"
    links = dict(re.findall(r"^\| \*\*([^*]+)\*\*.*\]\(([^)]+)\) \|$", text_of(NBS / "symbols.ipynb"), flags=re.M))
    for term in terms:
        used = text_of(NBS / links[term.name]).lower()
        assert any(word.lower() in used for word in (term.name, *term.forms)), f"{term.name} is not in {links[term.name]}"


PAGE = """<html><body><nav><p>entropy</p></nav><main class="content"><h2>Entropy and teacher</h2>
<p>The <code>entropy</code> of a <a href="x.html">teacher</a>, <span class="math inline"><math><mi>entropy</mi></math></span> and <em>entropy</em>; more
entropy, two Teachers, a mean
teacher, <img alt="a teacher > entropy"> non-pool.</p><pre><code>teacher</code></pre><table><tr><td>pool</td></tr></table>
<details><summary>Answer</summary><p>pool</p></details><div class="cell-output"><div><p>pool</p></div></div><ul><li>the pool</li></ul></main></body></html>"""


def test_the_first_use_of_a_term_in_running_text_is_explained():
    "Not in code, headings, links, formulas, tables, outputs, folded answers, and not within another term or word."
    terms = [glossary.Term("entropy", (), "Spread & more.", "Losses"), glossary.Term("teacher", (), "An average.", "Models"),
             glossary.Term("mean teacher", (), "A method.", "Models"), glossary.Term("pool", ("unlabelled pool",), "Images.", "Selection"),
             glossary.Term("oracle", (), "Truth.", "Annotation")]
    marked = glossary.mark_terms(PAGE, terms)
    found = re.findall(r'<span class="stal-term" tabindex="0" aria-describedby="term-([\w-]+)">([^<]+)</span>', marked)
    assert found == [("entropy", "entropy"), ("teacher", "Teachers"), ("mean-teacher", "mean\nteacher"), ("pool", "pool")]
    assert "<em><span" in marked and "<li>the <span" in marked
    notes = re.search(r'<div class="stal-terms" hidden>(.*?)</div></main>', marked, flags=re.S)[1]
    assert re.findall(r'<p id="term-([\w-]+)">', notes) == ["entropy", "teacher", "mean-teacher", "pool"] and "Spread &amp; more." in notes
    bare = re.sub(r'<span class="stal-term"[^>]*>([^<]*)</span>', r"\1", marked).replace(f'<div class="stal-terms" hidden>{notes}</div>', "")
    assert bare == PAGE, "nothing else changes"
    assert glossary.mark_terms("<p>entropy</p>", terms) == "<p>entropy</p>"


def test_exercises_find_their_answers():
    "Answers that follow each question, answers in one list at the end, and a question without a number."
    each = ("1. First?\n\n   ```python\n   x\n   ```\n\n<details><summary>Answer</summary>\n\none\n</details>\n\n"
            "2. Second?\n\n<details><summary>Answer</summary>\n\n1. a\n2. b\n</details>\n")
    assert slides.try_it(each) == {1: ("First?\n\n   ```python\n   x\n   ```", "one"), 2: ("Second?", "1. a\n2. b")}
    together = "1. First?\n2. Second?\n\n<details><summary>Answers</summary>\n\n1. one\n2. two\n\n</details>\n"
    assert slides.try_it(together) == {1: ("First?", "one"), 2: ("Second?", "two")}
    assert slides.try_it("What?\n\n<details><summary>Answer</summary>\n\nthat\n</details>") == {1: ("What?", "that")}


@pytest.mark.parametrize("notebook", COURSE, ids=lambda file: file.stem)
def test_every_exercise_of_a_notebook_is_a_slide_with_an_answer(notebook):
    found = slides.read_exercises(notebook)
    assert found and [one.number for one in found] == list(range(1, len(found) + 1))
    assert all(len(one.question) > 20 and len(one.answer) > 20 for one in found)
    assert not any("<details" in one.question + one.answer for one in found)


def test_the_paths_name_notebooks_and_the_longest_has_all():
    text = text_of(NBS / "paths.ipynb")
    term = text.split("## A term")[1]
    assert {notebook.name for notebook in COURSE} | {"story.ipynb"} == set(re.findall(r"\]\((\w+\.ipynb)\)", term))
    assert len(re.findall(r"^\| \d+ \|", term, flags=re.M)) == 12
    code = text_of(NBS / "paths.ipynb", "code")
    named = {name: re.findall(r'"(\w+)"', body) for name, body in re.findall(r'"(two hours|a day)": \[(.*?)\]', code, flags=re.S)}
    for name, title in (("two hours", "## Two hours"), ("a day", "## A day")):
        part = text.split(title)[1].split("**Afterwards")[0]
        assert re.findall(r"\]\((\w+)\.ipynb\)", part) == named[name], f"{name}: the list and the count differ"
