"""Rendering of values as Markdown, web pages and text: a value names its renderers without importing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

from llmtune.redaction.secrets import scrub

#: Longest `repr`, in characters.
MAX_REPR = 400


class Rendered:
    """A value with renderers. A renderer is imported on first use, because it imports the value's class."""

    _renderers: ClassVar[Mapping[str, str]] = {}
    """`module:function` for each form ("markdown", "notebook", ...); the function takes the value first."""

    def _render(self, form: str, *arguments: Any, **options: Any) -> Any:
        return _load(self._renderers[form])(self, *arguments, **options)

    def __repr__(self) -> str:
        text = scrub(super().__repr__())
        return text if len(text) <= MAX_REPR else f"{text[: MAX_REPR - 4]}...)"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """Return the small table that a notebook shows."""
        return str(self._render("notebook"))


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    renderer: Callable[..., Any] = getattr(import_module(module), function)
    return renderer


#: The renderers of a document, by form.
_DOCUMENT_RENDERERS = {
    "markdown": "llmtune.report.markdown:render",
    "html": "llmtune.report.html.page:render",
    "text": "llmtune.report.terminal:to_text",
    "notebook": "llmtune.report.html.notebook:show_document",
}


class Renderable(Rendered):
    """A result that is rendered as Markdown, web page and text. Its renderer "document" gives what they show."""

    def to_markdown(self) -> str:
        """Return GitHub-flavoured Markdown, for a pull request or a wiki."""
        return str(self.render("markdown"))

    def to_html(self) -> str:
        """Return a web page: one file with everything in it, which asks nobody for anything."""
        return str(self.render("html"))

    def render(self, form: str, *arguments: Any, **options: Any) -> Any:
        """Render this result in one `form`; `arguments` and `options` are passed to the renderer."""
        if form in _DOCUMENT_RENDERERS:
            return _load(_DOCUMENT_RENDERERS[form])(self._render("document"), *arguments, **options)
        return self._render(form, *arguments, **options)

    def _repr_html_(self) -> str:
        """Return the small table that a notebook shows."""
        return str(self.render("notebook"))

    def _repr_markdown_(self) -> str:
        """Return the Markdown of a notebook that shows no HTML."""
        return self.to_markdown()
