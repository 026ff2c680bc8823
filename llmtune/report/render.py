"""How results become Markdown, web pages and text: a result names its renderers, and knows none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar


class Renderable:
    """A result that can be shown. A renderer is imported when it is first asked for, and imports the result's class."""

    _renderers: ClassVar[Mapping[str, str]] = {}
    """`module:function` for each form ("markdown", "html", ...); the function takes the result first."""

    def to_markdown(self) -> str:
        """Return GitHub-flavoured Markdown, for a pull request or a wiki."""
        return str(self.render("markdown"))

    def to_html(self) -> str:
        """Return a web page: one file with everything in it, which asks nobody for anything."""
        return str(self.render("html"))

    def render(self, form: str, *arguments: Any, **options: Any) -> Any:
        """Return what the renderer of that `form` makes of this result; `arguments` and `options` are its own."""
        module, _, name = self._renderers[form].partition(":")
        renderer: Callable[..., Any] = getattr(import_module(module), name)
        return renderer(self, *arguments, **options)
