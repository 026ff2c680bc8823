"""Panels by name: the one that llmtune ships, files of your own, and tasks of lm-evaluation-harness.

A panel is a file of JSON lines. Each line is a chat row whose last turn is the reference answer, with an `id`, a
`skill` that the report groups by, the `rules` that an answer must keep, and its `source` and `licence`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from llmtune.data.findings import Finding
from llmtune.errors import InvalidData, UnknownName
from llmtune.evaluation.panel.panel import Panel, PanelQuestion
from llmtune.evaluation.panel.rules import read_rule
from llmtune.job.spec import HARNESS, is_panel_path

#: The panel that `evaluation.panel: true` names.
GENERAL = "general"

#: Questions of a panel at most: each is asked twice, and a vendor bills them.
MOST_QUESTIONS = 2000
#: Bytes of a panel file at most.
_MOST_BYTES = 16 << 20

_FOLDER = Path(__file__).parent
_KEYS = frozenset(("id", "skill", "messages", "tools", "rules", "source", "licence"))


def list_panels() -> tuple[str, ...]:
    """Return the names of the panels that llmtune ships."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.jsonl")))


def load_panel(panel: bool | str) -> Panel:
    """Load a panel: True is the one that llmtune ships, a text is the name of a shipped panel, the path of a file, or
    "lm-eval:" with a task of lm-evaluation-harness.

    Raises:
        UnknownName: there is no panel of that name.
        InvalidData: the file is missing, or a line is no question; the sentence names it.
        MissingExtra: the harness is not installed.
    """
    name = GENERAL if isinstance(panel, bool) else panel
    if name.startswith(HARNESS):
        from llmtune.evaluation.panel.harness import load_harness_panel

        return load_harness_panel(name)
    if is_panel_path(name):
        return _read_panel(Path(name).expanduser(), name)
    if name not in list_panels():
        raise UnknownName("panel", name, list_panels(), where="evaluation.panel", suggestion=_suggest_path(name))
    return _read_panel(_FOLDER / f"{name}.jsonl", name)


def _suggest_path(name: str) -> str | None:
    """Return the path that was meant by the name of a file without its folder and ending; None if there is none."""
    for candidate in (name, f"{name}.jsonl"):
        if Path(candidate).is_file():
            return repr(f"./{candidate}")
    return None


def _read_panel(path: Path, name: str) -> Panel:
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise InvalidData(f"evaluation.panel: {name} {what}", hint="true asks the panel that llmtune ships")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidData(f"evaluation.panel: {name} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise InvalidData(f"evaluation.panel: {name} has more than {_MOST_BYTES >> 20} MiB")
    questions = tuple(_read_questions(data, name))
    if not questions:
        raise InvalidData(f"evaluation.panel: {name} has no questions")
    if len(questions) > MOST_QUESTIONS:
        raise InvalidData(
            f"evaluation.panel: {name} has {len(questions):,} questions; at most {MOST_QUESTIONS:,} are asked"
        )
    return Panel(name=name, questions=questions, sha256=hashlib.sha256(data).hexdigest())


def _read_questions(data: bytes, name: str) -> Iterator[PanelQuestion]:
    lines_by_id: dict[str, int] = {}
    for line, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = f"{name} line {line}"
        try:
            entry = orjson.loads(raw)
        except ValueError as error:
            raise InvalidData(f"{where}: not JSON ({error})") from None
        question = _read_question(entry, line, where)
        if question.id in lines_by_id:
            raise InvalidData(f"{where}: the id {question.id!r} stands in line {lines_by_id[question.id]} too")
        lines_by_id[question.id] = line
        yield question


def _read_question(entry: Any, line: int, where: str) -> PanelQuestion:
    from llmtune.data.formats.chat import CHAT

    if not isinstance(entry, Mapping):
        raise InvalidData(f"{where}: a question is an object with id, skill, messages and rules")
    if unknown := [key for key in entry if key not in _KEYS]:
        raise InvalidData(f"{where}: a question has no key {unknown[0]!r}", hint=f"keys are {', '.join(sorted(_KEYS))}")
    for key in ("id", "skill", "source", "licence"):
        text = entry.get(key, "" if key in ("source", "licence") else None)
        if not isinstance(text, str) or (key in ("id", "skill") and not text.strip()):
            raise InvalidData(f"{where}: {key} must be a text")
    faults: list[Finding] = []
    row = CHAT.read({key: entry[key] for key in ("messages", "tools") if key in entry}, line, faults)
    if serious := [fault for fault in faults if fault.is_error]:
        raise InvalidData(f"{where}: {serious[0].message}")
    if not row.prompt() or row.answer() is None or row.answer() is not row.messages[-1] or row.messages[-1].is_empty:
        raise InvalidData(f"{where}: messages must begin with the question and end with the reference answer")
    rules = entry.get("rules")
    if not isinstance(rules, list) or not rules:
        raise InvalidData(f"{where}: rules must be a list of at least one rule")
    return PanelQuestion(
        id=entry["id"],
        skill=entry["skill"],
        row=row,
        rules=tuple(read_rule(rule, where) for rule in rules),
        source=entry.get("source", ""),
        licence=entry.get("licence", ""),
    )
