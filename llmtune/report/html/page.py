"""One page in one file: it sends no request, and its content security policy allows only its own scripts.

A page is a title, a header and a list of sections; other modules make the sections, so that runs, comparisons
and the list of a store are all pages of the same kind.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from llmtune.report.html.elements import Child, el, join, json_script

#: The chart library in the pages: unmodified, see vendor/uplot/README.md.
UPLOT = "1.6.32"


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading. `id` is its anchor, `short` its name in the bar at the top."""

    id: str
    title: str
    body: Markup
    short: str = ""

    def __bool__(self) -> bool:
        return bool(self.body)


def page(
    title: str,
    sections: Iterable[Section],
    *,
    header: Child = None,
    data: dict[str, Any] | None = None,
    connect: bool = False,
    home: str | None = None,
) -> str:
    """Return a whole HTML document.

    Args:
        title: what the browser's tab says; plain text.
        sections: what the page shows, in order; empty ones are left out.
        header: the content above them.
        data: what the page's script works with: "charts" (see `charts.chart_data`), "live", ...
        connect: let the page ask the server it came from, and nobody else (the pages of `llmtune ui`).
        home: address of the page that lists everything, where there is one.
    """
    filled_sections = [section for section in sections if section]
    scripts = [_asset("vendor/uplot/uPlot.iife.min.js")] if (data or {}).get("charts") else []
    scripts.append(_asset("app.js"))
    style = _asset("vendor/uplot/uPlot.min.css") + "\n" + _asset("style.css")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy(tuple(scripts), style, connect=connect)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        _raw("style", style),
    )
    body = el(
        "body",
        el("a", "Skip to the content", href="#content", class_="skip"),
        _bar(filled_sections, home),
        el("main", header, [_section(section) for section in filled_sections], id="content", tabindex="-1"),
        el("footer", "Made by llmtune. Charts by uPlot ", UPLOT, " (MIT)."),
        json_script("page-data", data or {}),
        [_raw("script", script) for script in scripts],
    )
    licence = Markup(f"<!--\nuPlot {UPLOT}, https://github.com/leeoniya/uPlot\n{_asset('vendor/uplot/LICENSE')}-->\n")
    notice = licence if len(scripts) > 1 else Markup("")
    return str(Markup("<!doctype html>\n") + notice + el("html", head, body, lang="en") + Markup("\n"))


def policy(scripts: Sequence[str], style: str, *, connect: bool = False) -> str:
    """Return the content security policy: it allows only these scripts and this style, by their hashes."""
    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(_hash(script) for script in scripts),
        "style-src": _hash(style),
        "connect-src": "'self'" if connect else "'none'",
        "base-uri": "'none'",
        "form-action": "'self'" if connect else "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _bar(sections: Sequence[Section], home: str | None) -> Markup:
    links = [el("a", section.short or section.title, href=f"#{section.id}") for section in sections]
    toggle = el("button", "Theme", type="button", id="theme", title="Light, dark, or as the system has it")
    return el(
        "div",
        el("a", "llmtune", href=home, class_="brand") if home else el("span", "llmtune", class_="brand"),
        el("nav", links, aria_label="Sections"),
        toggle,
        class_="bar",
    )


def _section(section: Section) -> Markup:
    heading = el("h2", section.title, id=f"{section.id}-title")
    return el(
        "section",
        heading,
        section.body,
        id=section.id,
        aria_labelledby=f"{section.id}-title",
    )


def _raw(name: str, text: str) -> Markup:
    """Embed a script or style of ours unescaped: the policy allows exactly these characters, by their hash."""
    if "</" + name in text.lower() or "<!--" in text:
        raise ValueError(f"this {name} would end its own element")
    return Markup(f"<{name}>") + Markup(text) + Markup(f"</{name}>")


@cache
def _asset(name: str) -> str:
    return files("llmtune.report.html").joinpath(name).read_text(encoding="utf-8")


@cache
def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# --- pieces that sections share --------------------------------------------------------------------------------------
def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numbers: Sequence[int] = (),
    caption: str,
    titled: bool = True,
    sortable: bool = True,
) -> Markup:
    """Make a table that the script can sort by each column, and that scrolls by itself where it is too wide.

    A cell that is a `<td>` already is put in as it is; `numbers` are the columns aligned right. Without `titled` the
    caption is for screen readers only: the heading above says the same.
    """
    head = [
        el("th", text, scope="col", class_="n" if column in numbers else None) for column, text in enumerate(headings)
    ]
    body = [el("tr", [_cell(cell, column in numbers) for column, cell in enumerate(row)]) for row in rows]
    inner = el(
        "table",
        el("caption", caption, class_=None if titled else "unseen"),
        el("thead", el("tr", head)),
        el("tbody", body),
        data_sortable=sortable,
    )
    return el("div", inner, class_="scroll", tabindex="0", role="group", aria_label=caption)


def _cell(cell: Child, number: bool) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    return el("td", cell, class_="n" if number else None)


def sorted_by(value: float | str, *content: Child, class_: str | None = None) -> Markup:
    """Make a cell that is sorted by a value other than the text it shows."""
    return el("td", *content, data_v=value, class_=class_)


def facts_list(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """Make a list of names and values, one per line."""
    rows = [el("div", el("dt", name), el("dd", value)) for name, value in pairs]
    return el("dl", rows) if rows else Markup("")


def details(summary: Child, *body: Child, open_: bool = False) -> Markup:
    """Make a part that the reader can open."""
    return el("details", el("summary", summary), join(body), open=open_)


def code_block(text: str, name: str) -> Markup:
    """Make a block of code with a button that copies it."""
    button = el("button", "Copy", type="button", class_="copy", aria_label=f"Copy {name}")
    return el("div", button, el("pre", el("code", text), tabindex="0", aria_label=name), class_="code")
