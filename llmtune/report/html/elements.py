"""HTML elements as values. Every string is escaped: only elements made by `el` are markup.

So a section cannot forget to escape: a dataset row, a label or a model's answer that is given as a
child or an attribute is escaped, and its control characters are written out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup, escape

from llmtune.redaction.documents import dump_json
from llmtune.report.format import escape_control_chars

#: What an element may hold; None and False are nothing, so that `condition and el(...)` reads well.
Child = Markup | str | int | float | None | Iterable["Child"]

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "col"})
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*\Z")
#: Where a link may lead: never to `javascript:` or `data:`.
_LINK = re.compile(r"(https?://|[#/?.])", re.I)


def el(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """Make an element. `class_` is `class`, `data_v` is `data-v`; an attribute that is None or False is left out.

    Raises:
        ValueError: an invalid name, or an attribute that the pages' policy forbids (`style`, `onclick`, ...).
    """
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is no element")
    opened = Markup(f"<{name}{_attributes(attributes)}>")
    return opened if name in _VOID else opened + join(children) + Markup(f"</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Join children, one after the other, without an element around them."""
    return Markup("").join(_text(child) for child in children)


def link(url: str, text: str) -> Markup:
    """Make a link, or only its text where a browser should not follow the address."""
    return el("a", text, href=url, rel="noopener noreferrer") if _LINK.match(url) else el("span", text)


def json_script(name: str, data: Any) -> Markup:
    """Embed data for the page's script in an element that nothing in the data can close."""
    text = dump_json(data, indent=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup('<script type="application/json" id="{}">').format(name) + Markup(text) + Markup("</script>")


def _text(child: Child) -> Markup:
    if child is None or child is False:
        return Markup("")
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return escape(escape_control_chars(child))
    if isinstance(child, int | float):
        return escape(str(child))
    return join(child)


def _attributes(attributes: dict[str, Any]) -> str:
    parts = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if not _NAME.match(name) or name == "style" or name.startswith("on"):
            raise ValueError(f"{name!r} is no attribute of a page of ours")
        if value is None or value is False:
            continue
        if name in ("href", "src", "action") and not _LINK.match(str(value)):
            raise ValueError(f"{value!r} is no address of a page of ours")
        parts.append(f" {name}" if value is True else f' {name}="{escape(escape_control_chars(str(value)))}"')
    return "".join(parts)
