"""Terms of the glossary, explained where a page of the course uses them first.

The table stands in nbs/symbols.ipynb. In a page, the first use of each term in running text becomes an element that can be pointed at, touched and
reached with the Tab key; its two lines stand at the end of the page, hidden, and `aria-describedby` leads a screen reader to them. nbs/site.js shows
them in a bubble. Code, headings, links, formulas, tables, outputs and folded answers stay as they are.
"""
from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import NamedTuple

COURSE = re.compile(r"(story|\d\d\w?_\w+)\.html")  # pages that explain their terms
ROW = re.compile(r"^\| \*\*(?P<name>[^*]+)\*\*(?: \((?P<forms>[^)]*)\))? \| (?P<meaning>.+?) \| \[(?P<where>[^\]]*)\]\((?P<link>[^)]*)\) \|$", re.M)
TOKEN = re.compile(r"<!--.*?-->|<(script|style|math|pre)\b.*?</\1>|<(?:\"[^\"]*\"|'[^']*'|[^'\">])*>", re.S)
VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
SKIPPED = {"a", "button", "code", "details", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "nav", "svg", "table"}
PROSE = {"p", "li"}  # the text of these, and of what stands in them


class Term(NamedTuple):
    "A row of the glossary."

    name: str
    forms: tuple[str, ...]  # other words for it
    meaning: str
    where: str  # title of the notebook that says more

    @property
    def key(self) -> str:
        "As part of an id."
        return re.sub(r"\W+", "-", self.name.lower())


def read_terms(notebook: Path) -> list[Term]:
    "The table under the heading Glossary of a notebook."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = next(text for cell in cells if (text := "".join(cell["source"])).startswith("## Glossary"))
    return [Term(row["name"], tuple(filter(None, (row["forms"] or "").split(", "))), row["meaning"], row["where"]) for row in ROW.finditer(text)]


def words_of(terms: list[Term]) -> tuple[re.Pattern, dict[str, Term]]:
    "What finds any word for a term, the longest first, and which term each word is for. Plurals in -s count."
    by_word = {word.lower(): term for term in terms for word in (term.name, *term.forms)}
    ordered = sorted(by_word, key=len, reverse=True)
    some = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in ordered)
    return re.compile(rf"(?<![\w-])({some})(s?)(?![\w-])", re.I), by_word


def mark_terms(page: str, terms: list[Term]) -> str:
    "A page in which the first use of each term in running text is explained."
    start, end = page.find("<main"), page.rfind("</main>")
    if start < 0 or end < 0:
        return page
    found: dict[str, Term] = {}
    pattern, by_word = words_of(terms)

    def explain(match: re.Match) -> str:
        term = by_word[re.sub(r"\s+", " ", match[1]).lower()]
        if term.key in found:
            return match[0]
        found[term.key] = term
        return f'<span class="stal-term" tabindex="0" aria-describedby="term-{term.key}">{match[0]}</span>'

    parts, place, opened = [], start, []  # `opened`: (tag, skipped) of the elements around a place
    for token in TOKEN.finditer(page, start, end):
        text = page[place:token.start()]
        prose = any(tag in PROSE for tag, _ in opened) and not any(skipped for _, skipped in opened)
        parts.append(pattern.sub(explain, text) if prose else text)
        parts.append(token[0])
        place = token.end()
        _follow(token, opened)
    parts.append(page[place:end])
    notes = "".join(f'<p id="term-{term.key}"><strong>{html.escape(term.name)}.</strong> {html.escape(term.meaning)} '
                    f'<em>More in {html.escape(term.where)}.</em></p>' for term in found.values())
    return page[:start] + "".join(parts) + (f'<div class="stal-terms" hidden>{notes}</div>' if notes else "") + page[end:]


def _follow(token: re.Match, opened: list[tuple[str, bool]]) -> None:
    "Open or close the element of a tag."
    tag = re.match(r"<(/?)([a-zA-Z][\w-]*)", token[0])
    if tag is None or token[1] or tag[2].lower() in VOID or token[0].endswith("/>"):
        return
    name = tag[2].lower()
    if not tag[1]:
        opened.append((name, name in SKIPPED or bool(re.search(r'class="[^"]*(cell-output|sourceCode|stal-live)', token[0]))))
    elif any(name == other for other, _ in opened):
        while opened.pop()[0] != name:
            pass
