"""Routes: which page answers which address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmtune.errors import RunNotFound
from llmtune.redaction.documents import dump_json
from llmtune.report.document import Document, Section, Text
from llmtune.report.html import page
from llmtune.report.schema import Report
from llmtune.runs.store.store import Store
from llmtune.web import compare_page, list_page, run_page

Query = dict[str, list[str]]


@dataclass(frozen=True)
class Reply:
    """A response to the browser."""

    body: bytes
    type: str = "text/html; charset=utf-8"
    status: int = 200


class Pages:
    """The pages of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._results = list_page.Results(store)

    def answer(self, path: str, query: Query) -> Reply:
        """Answer a request for one address."""
        fixed: dict[str, Callable[[Query], Reply]] = {
            "/": lambda _: _html_reply(list_page.render(self._store)),
            "/moving": lambda _: _json_reply(list_page.list_running(self._store)),
            "/results": lambda query: _json_reply(
                self._results.get(query.get("run", ())[: list_page.MAX_RESULTS_PER_REQUEST])
            ),
            "/compare": lambda query: _html_reply(compare_page.render(self._store, query.get("run", ()))),
            "/favicon.ico": lambda _: Reply(b"", "image/x-icon", 204),
        }
        if path in fixed:
            return fixed[path](query)
        parts = path.strip("/").split("/")
        try:
            if len(parts) == 2 and parts[0] == "runs":
                return _html_reply(run_page.render(self._store, self._store.resolve(parts[1])))
            if len(parts) == 3 and parts[0] == "runs" and parts[2] == "live":
                return _json_reply(
                    run_page.collect_updates(
                        self._store,
                        self._store.resolve(parts[1]),
                        _read_number(query, "after"),
                        _read_number(query, "events"),
                    )
                )
            if len(parts) == 3 and parts[0] == "runs" and parts[2] == "report.html":
                return _html_reply(self._load_report(parts[1]).to_html())
        except RunNotFound as error:
            return self.error_page(404, error.message)
        return self.error_page(404, "There is no such page.")

    def _load_report(self, run_id: str) -> Report:
        """Return the stored report of a run, or a draft while there is none."""
        return run_page.load_report(self._store, self._store.resolve(run_id))

    def error_page(self, status: int, sentence: str) -> Reply:
        """Return a page that says what is wrong."""
        section = Section("trouble", "That did not work", [Text(sentence)])
        document = Document(title="llmtune", sections=[section])
        return Reply(page.render(document, home="/", connect=True).encode(), status=status)


def _html_reply(text: str) -> Reply:
    return Reply(text.encode())


def _json_reply(data: Any) -> Reply:
    return Reply(dump_json(data, indent=False).encode(), "application/json")


def _read_number(query: Query, name: str) -> int:
    text = (query.get(name) or ["0"])[-1]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
