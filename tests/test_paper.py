"""The first reading path on paper: what becomes of a page, and a PDF of a short notebook."""
import json
import re
import subprocess
import sys

import pytest

from tools import docs, paper

needs_smalldocs = pytest.mark.skipif(sys.version_info < (3, 11), reason="smalldocs, which renders the pages, needs Python 3.11")


def test_the_path_is_the_one_that_the_first_page_names(project):
    cells = json.loads((project / "nbs" / "index.ipynb").read_text())["cells"]
    text = next(t for t in ("".join(c["source"]) for c in cells) if "**You study.**" in t)
    told = re.search(r"\*\*You study\.\*\*(.*?)Then go through", text, flags=re.S)[1]
    assert tuple(re.findall(r"\]\((\w+)\.ipynb\)", told)) == paper.FIRST_PATH


def test_answers_stand_behind_the_text_with_their_number():
    body = paper.move_answers("<p>Why?</p><details><summary>Answer</summary><p>Because.</p></details><p>And how?</p>"
                              "<details>\n<summary>Answers</summary>So.</details><details class=\"more\"><summary>More</summary>kept</details>"
                              '<details class="code-fold"><summary>Code</summary><pre>x</pre></details>')
    text, answers = body.split("<h2>Answers</h2>")
    assert "Because." not in text and answers.index("Because.") < answers.index("So.")
    assert [*re.findall(r'href="#answer-(\d)"', text)] == re.findall(r'id="answer-(\d)"', answers) == ["1", "2"]
    assert '<details open class="more"><summary>More</summary>kept' in text and text.endswith('<pre>x</pre><section id="answers">')
    assert paper.move_answers("<p>no question</p>") == "<p>no question</p>"


def test_links_hold_on_paper():
    "Within the paper, to the published site, and not changed."
    names, base = ("story", "06_losses"), "https://course.org/x"
    for written, expected in (("06_losses.html", "#06_losses"), ("./story.html#one-pixel", "#story--one-pixel"), ("paths.ipynb", f"{base}/paths.html"),
                              ("runtime/store.html#x", f"{base}/runtime/store.html#x"), ("https://else.org/a.html", "https://else.org/a.html")):
        assert paper.paper_links(f'<a href="{written}">', names, base) == f'<a href="{expected}">'
    two = '<h2 id="proofs">Proofs</h2><a href="#proofs">up</a>'
    assert paper.own_names(two, "story") == '<h2 id="story--proofs">Proofs</h2><a href="#story--proofs">up</a>'


@pytest.mark.slow
@pytest.mark.browser
@needs_smalldocs
def test_a_notebook_is_printed(tmp_path):
    "In a process of its own, since a test session has its browser. The PDF has as many pages as it says, and the headings of the notebook."
    done = subprocess.run([sys.executable, "-m", "tools.docs", "print", "--out", str(tmp_path / "story.pdf"), "story"], cwd=docs.ROOT, capture_output=True,
                          text=True, encoding="utf-8", errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr
    pdf = (tmp_path / "story.pdf").read_bytes()
    pages = int(re.search(r"\((\d+) pages", done.stdout)[1])
    assert pdf.startswith(b"%PDF-") and 6 <= pages <= 20
    assert int(re.search(rb"/Type\s*/Pages\s*/Count (\d+)", pdf)[1]) <= pages == len(re.findall(rb"/Type /Page\n", pdf))
    titles = [t.decode() for t in re.findall(rb"/Title \(([^)]*)\)", pdf)]
    assert {"stal_nb: notebooks of the course", "The method on one page", "Four boxes", "One pixel", "Answers"} <= set(titles)
    assert pdf.count(b"/Subtype /Image") >= 4


def test_what_cannot_be_printed_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    assert docs.main(["print", "--out", str(tmp_path / "x.pdf"), "99_none"]) == 1
    assert capsys.readouterr().err == "tools.docs: 99_none: found no nbs/99_none.ipynb, expected the name of a notebook, such as story\n"
    monkeypatch.setattr("tools.browser.find_browser", lambda: None)
    assert docs.main(["print", "--out", str(tmp_path / "x.pdf"), "story"]) == 1
    error = capsys.readouterr().err
    assert "found no Chromium" in error and error.count("\n") == 1 and not (tmp_path / "x.pdf").exists()
