"""Which page answers which address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmtune.errors import RunNotFound
from llmtune.redaction.documents import dump_json
from llmtune.report.html.elements import el
from llmtune.report.html.page import Section, page
from llmtune.report.schema import Report
from llmtune.runs.store.store import Store
from llmtune.web import compare_page, list_page, run_page

Query = dict[str, list[str]]


@dataclass(frozen=True)
class Reply:
    """What goes back to the browser."""

    body: bytes
    type: str = "text/html; charset=utf-8"
    status: int = 200


class Pages:
    """The pages of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._results = list_page.Results(store)

    def answer(self, path: str, query: Query) -> Reply:
        """The answer to one address."""
        fixed: dict[str, Callable[[Query], Reply]] = {
            "/": lambda _: _page(list_page.render(self._store)),
            "/moving": lambda _: _json(list_page.moving(self._store)),
            "/results": lambda asked: _json(self._results.of(asked.get("run", ())[: list_page.RESULTS_AT_ONCE])),
            "/compare": lambda asked: _page(compare_page.render(self._store, asked.get("run", ()))),
            "/favicon.ico": lambda _: Reply(b"", "image/x-icon", 204),
        }
        if path in fixed:
            return fixed[path](query)
        parts = path.strip("/").split("/")
        try:
            if len(parts) == 2 and parts[0] == "runs":
                return _page(run_page.render(self._store, self._store.resolve(parts[1])))
            if len(parts) == 3 and parts[0] == "runs" and parts[2] == "live":
                return _json(
                    run_page.news(
                        self._store,
                        self._store.resolve(parts[1]),
                        _number(query, "after"),
                        _number(query, "events"),
                    )
                )
            if len(parts) == 3 and parts[0] == "runs" and parts[2] == "report.html":
                return _page(self._report(parts[1]).to_html())
        except RunNotFound as error:
            return self.trouble(404, error.message)
        return self.trouble(404, "There is no such page.")

    def _report(self, run_id: str) -> Report:
        """The report of a run, kept or as far as it is known."""
        return run_page.report_of(self._store, self._store.resolve(run_id))

    def trouble(self, status: int, sentence: str) -> Reply:
        """A page that says what is wrong."""
        said = Section("trouble", "That did not work", el("p", sentence))
        return Reply(page("llmtune", [said], home="/", connect=True).encode(), status=status)


def _page(text: str) -> Reply:
    return Reply(text.encode())


def _json(data: Any) -> Reply:
    return Reply(dump_json(data, indent=False).encode(), "application/json")


def _number(query: Query, name: str) -> int:
    text = (query.get(name) or ["0"])[-1]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
