"""Reports as web pages: one file each, with everything in it, that asks nobody for anything."""

from __future__ import annotations

from llmtune.report.html.page import Section, page
from llmtune.report.html.run import header, render, sections

__all__ = ["Section", "header", "page", "render", "sections"]
