"""One page in one file: it sends no request, and its content security policy allows only its own scripts.

The templates escape every text, mask its secrets and write out its control characters; only what a template has written
is markup.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llmtune.redaction.documents import dump_json
from llmtune.report.document import Document, Span, spans
from llmtune.report.format import count, escape_control_chars, measured, number

if TYPE_CHECKING:
    from jinja2 import Environment

#: The chart library in the pages: unmodified, see vendor/uplot/README.md.
UPLOT = "1.6.32"

#: Where a link may lead: never to `javascript:` or `data:`.
_LINK = re.compile(r"(https?://|[#/?.])", re.I)


@cache
def get_environment() -> Environment:
    """Return the environment of the templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("llmtune.report.html"),
        autoescape=True,
        finalize=_escape_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "figure": lambda metric: number(metric.value, metric.unit),
        "is_link": lambda address: bool(_LINK.match(address)),
        "kind": lambda block: type(block).__name__,
        "measured": measured,
        "percent": lambda share: min(100.0, max(0.0, 100 * share)),
        "sort_value": lambda parts: next((part.value for part in parts if part.value is not None), None),
        "spans": spans,
        "state": lambda state: Span(state, "state", live="state"),
    }
    return environment


def _escape_controls(value: object) -> object:
    return escape_control_chars(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(
    document: Document,
    *,
    data: dict[str, Any] | None = None,
    connect: bool = False,
    home: str | None = None,
    template: str = '{% extends "page.html" %}',
    **variables: Any,
) -> str:
    """Return a document as a whole web page.

    Args:
        document: what the page shows.
        data: what the page's script works with beside the charts: "live", "list".
        connect: let the page ask the server it came from, and nobody else (the pages of `llmtune ui`).
        home: address of the page that lists everything, where there is one.
        template: a template that extends page.html, for what only one page has.
        variables: the names that this template uses.
    """
    charts = list(document.charts)
    scripts = [_asset("vendor/uplot/uPlot.iife.min.js")] if charts else []
    scripts.append(_asset("app.js"))
    style = _asset("vendor/uplot/uPlot.min.css") + "\n" + _asset("style.css")
    licence = f"<!--\nuPlot {UPLOT}, https://github.com/leeoniya/uPlot\n{_asset('vendor/uplot/LICENSE')}-->\n"
    return (
        get_environment()
        .from_string(template)
        .render(
            document=document,
            sections=[section for section in document.sections if section],
            notice=Markup(licence if charts else ""),
            policy=policy(tuple(scripts), style, connect=connect),
            style=_embed("style", style),
            scripts=[_embed("script", script) for script in scripts],
            data=json_script("page-data", {"charts": charts} | (data or {})),
            home=home,
            uplot=UPLOT,
            **variables,
        )
    )


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


def json_script(name: str, data: Any) -> Markup:
    """Embed data for the page's script in an element that nothing in the data can close."""
    text = dump_json(data, indent=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup('<script type="application/json" id="{}">').format(name) + Markup(text) + Markup("</script>")


def _embed(name: str, text: str) -> Markup:
    """Embed a script or style of ours unescaped: the policy allows exactly these characters, by their hash."""
    if "</" + name in text.lower() or "<!--" in text:
        raise ValueError(f"this {name} would end its own element")
    return Markup(text)


@cache
def _asset(name: str) -> str:
    return files("llmtune.report.html").joinpath(name).read_text(encoding="utf-8")


@cache
def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
