"""Reading any dataset into examples: one pass, every fault named, never the whole file in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import Any

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error, refuse, warning
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import hiding_key, kind, lower_keys, read_truth
from llmtune.data.formats.instruct import Labelled
from llmtune.data.formats.json_text import find_long_number
from llmtune.data.formats.preference import check_unpaired
from llmtune.data.formats.registry import all_formats, detect, general_formats, get_format
from llmtune.data.io import readers
from llmtune.data.io.base import CONTAINERS, HUB, Raw, sniff
from llmtune.data.io.folders import hub_rows
from llmtune.data.io.row_changes import ON_EMPTY, SYSTEM_TURNS, change_rows
from llmtune.errors import UnknownName

_QUESTIONS = frozenset((*Labelled.TEXTS, "messages", "prompt"))
#: How many rows are held back while none of them is recognised.
_LOOK_AHEAD = 100
#: How many rows of the hub are asked for their labels; of a file all are, if need be.
_HUB_LABELS = 1000


class Reading:
    """A dataset being read. Iterate over it once; `format` is known after the first item."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str = "auto",
        *,
        columns: Mapping[str, str] | None = None,
        label_column: str | None = None,
        group_by: str | None = None,
        on_empty: str = "error",
        system: str = "keep",
    ) -> None:
        self.path = os.fspath(path)
        self.format: RowFormat | None = None
        self.container: str | None = None
        self._wanted = format
        self.renames = renaming(columns, label_column)
        self._group_by = group_by
        self._classes: bool | None = None
        self._lowered = False
        self._on_empty = choose("on_empty", on_empty, ON_EMPTY)
        self._system = choose("system", system, SYSTEM_TURNS)
        if format != "auto" and format not in CONTAINERS:
            self.format = get_format(format)

    @property
    def is_plain(self) -> bool:
        """Whether rows are read as they are, so that blocks of the file can be read one by one. After `recognise`."""
        return not self.renames and not self._lowered and not self._changes

    @property
    def _changes(self) -> bool:
        return self._on_empty != "error" or self._system != "keep"

    def columns(self) -> dict[str, str]:
        """Which keys of the file are read, by what they are here, told by the first row of its format; its own names.

        Nothing for a dataset of the hub, which would be fetched again.
        """
        if self.path.startswith(HUB) or self.recognise() is None or self.format is None:
            return {}
        raw = _lower(self._raw()) if self._lowered else self._raw()
        rows = (item[1] for item in raw if item.__class__ is tuple and isinstance(item[1], dict))
        row = next((row for row in islice(rows, _LOOK_AHEAD) if self.format.detect(row)), None)
        if row is None:
            return {}
        own = {ours: theirs for theirs, ours in self.renames.items()}
        return {
            name: " + ".join(own.get(key, key) for key in keys.split(" + "))
            for name, keys in self.format.columns(row).items()
        }

    def __iter__(self) -> Iterator[Example | Finding]:
        raw = self._raw()
        if self.format is None:
            held, fault = self._recognise(raw)
            raw = chain(held, raw)
            if self._lowered:
                raw = _lower(raw)
            if self.format is None:  # what is broken is still told, line by line
                yield from (item.at(self.path, item.line) for item in raw if isinstance(item, Finding))
                if fault is not None:
                    yield fault.at(self.path, fault.line)
                return
        items = read_rows(raw, self.format, self._group_by, self.path, self.names_classes)
        yield from change_rows(items, self._on_empty, self._system, self.path) if self._changes else items

    def recognise(self) -> RowFormat | None:
        """The row format, told by the first rows; None when none of them is known."""
        if self.format is None:
            self._recognise(self._raw())
        return self.format

    def names_classes(self) -> bool:
        """Whether the labels of the file name classes: some row's is neither true nor false, also as 1 or 0 or text.

        This reads the file again, so it is asked only where a row leaves it open.
        """
        if self._classes is None:
            rows = islice(self._raw(), _HUB_LABELS if self.path.startswith(HUB) else None)
            labels = (item[1].get("label") for item in rows if item.__class__ is tuple and isinstance(item[1], dict))
            self._classes = any(label is not None and read_truth(label) is None for label in labels)
        return self._classes

    def _raw(self) -> Iterator[Raw | Finding]:
        if self.path.startswith(HUB):
            self.container = "hub"
            raw = hub_rows(self.path)
        else:
            path = Path(self.path)
            container = self._wanted if self._wanted in CONTAINERS else "auto"
            sniffed = sniff(path, container)
            if isinstance(sniffed, Finding):
                return iter((sniffed,))
            self.container = sniffed.container
            raw = readers.rows(path, sniffed, self.renames)
        return rename(raw, self.renames) if self.renames else raw

    def _recognise(self, raw: Iterator[Raw | Finding]) -> tuple[list[Raw | Finding], Finding | None]:
        """Hold rows back until one is recognised; the fault says why none was, unless the findings held do."""
        held: list[Raw | Finding] = []
        unknown: list[Any] = []
        for item in raw:
            held.append(item)
            if isinstance(item, Finding):
                continue
            self.format, self._lowered = self._detect(item[1])
            if self.format is not None:
                return held, None
            unknown.append(item[1])
            if len(unknown) >= _LOOK_AHEAD:
                break
        if unknown:
            return held, unknown_format(unknown[0], unknown)
        if any(isinstance(item, Finding) and item.is_error for item in held):
            return held, None
        return held, error("empty-file", "the file holds no rows", "give a file with at least one row")

    def _detect(self, row: Any) -> tuple[RowFormat | None, bool]:
        """The format of a row, and whether it is that of its keys in lower case ("Prompt", "INSTRUCTION")."""
        named = _formats_named(frozenset(self.renames.values()))
        found = (detect(row, named) if named else None) or detect(row)
        if not isinstance(row, dict) or named or not any(key != key.lower() for key in row):
            return found, False
        if found is not None and found not in general_formats():
            return found, False
        lowered = detect(lower_keys(row), general_formats())
        return (found, False) if lowered is None or lowered is found else (lowered, True)


def _formats_named(ours: frozenset[str]) -> tuple[RowFormat, ...]:
    """The formats that a caller asks for who names their keys, whatever else the rows have."""
    formats = {fmt.name: fmt for fmt in general_formats()}
    for keys, names in _NAMED:
        if ours & keys == keys:
            return tuple(formats[name] for name in names)
    return ()


_NAMED: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (frozenset(("chosen", "rejected")), ("preference_pair",)),
    (frozenset(("prompt", "completion")), ("prompt_completion_turns", "prompt_completion")),
    (frozenset(("instruction", "output")), ("alpaca",)),
    (frozenset(("label",)), ("labelled",)),
    (frozenset(("messages",)), ("sharegpt", "chat")),
    (frozenset(("conversations",)), ("sharegpt",)),
)


def _lower(raw: Iterator[Raw | Finding]) -> Iterator[Raw | Finding]:
    for item in raw:
        if isinstance(item, Finding) or not isinstance(item[1], dict):
            yield item
        else:
            yield item[0], lower_keys(item[1])


def read(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    columns: Mapping[str, str] | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
    on_empty: str = "error",
    system: str = "keep",
) -> Iterator[Example | Finding]:
    """Every sound row as an `Example`, in order, and every fault as a `Finding`, in one pass and bounded memory.

    `format` is a row format ("chat", "alpaca", ...), a container ("jsonl", "csv", "parquet", ...) or "auto".
    `columns` says which key holds what where the names differ: `{"text": "utterance", "label": "intent"}`;
    `label_column` is short for `columns={"label": ...}`. `group_by` names the key whose value becomes
    `Example.group`. `on_empty="drop"` leaves rows with an empty answer out, `system="fold"` puts a system turn at the
    beginning of the first user turn; both are counted in a finding. A row with an error is not yielded as an example.
    Nothing is raised for faults of the data.
    """
    return iter(
        Reading(
            path,
            format,
            columns=columns,
            label_column=label_column,
            group_by=group_by,
            on_empty=on_empty,
            system=system,
        )
    )


def load(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    columns: Mapping[str, str] | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
    on_empty: str = "error",
    system: str = "keep",
) -> list[Example]:
    """All rows of a file as examples. Raises `InvalidData` with every finding when any of them is an error."""
    examples: list[Example] = []
    findings: list[Finding] = []
    for item in read(
        path, format, columns=columns, label_column=label_column, group_by=group_by, on_empty=on_empty, system=system
    ):
        if isinstance(item, Finding):
            findings.append(item)
        else:
            examples.append(item)
    if any(finding.is_error for finding in findings):
        raise refuse(findings)
    return examples


def read_rows(
    raw: Iterable[Raw | Finding],
    fmt: RowFormat,
    group_by: str | None = None,
    file: str | None = None,
    names_classes: Callable[[], bool] = lambda: False,
) -> Iterator[Example | Finding]:
    """Raw rows read by one format; what is not of that format is told by what it is instead.

    `names_classes` says whether labels that could be read as true and false (1 and 0) are classes in this file.
    """
    faults: list[Finding] = []
    read_row = fmt.read
    for item in raw:
        if item.__class__ is Finding:
            yield item.at(file, item.line)
            continue
        line, row = item  # type: ignore[misc]
        if row.__class__ is not dict:
            yield error(
                "row-shape", f"the row is {kind(row)}; expected an object such as {fmt.title}", "write one object a row"
            ).at(file, line)
            continue
        example = read_row(row, line, faults)
        if example[7]:  # extra: what the format has no place for may say that the row is not to be learned
            faults += check_media(example)
            refused = check_unpaired(row, example, names_classes) or _check_hidden(example)
            if refused is not None:
                yield refused.at(file, line)
                faults.clear()
                continue
        if not faults and (example[1] or any(turn[2] for turn in example[0])):
            faults += check_digits(row, example)
        if faults:
            wrong = other_format(row, fmt, faults)
            yield from [fault.at(file, line) for fault in (wrong or faults)]
            broken = any(fault.is_error for fault in faults)
            faults.clear()
            if broken:
                continue
        if group_by is not None:
            value = row.get(group_by)
            if value is None:
                yield error("group", f"the row has no {group_by!r}, by which rows are grouped", "give it one").at(
                    file, line
                )
                continue
            example = example.replace(group=str(value))
        yield example


#: Keys beside the turns that hold what is seen or heard, as trainers of models with several inputs name them.
MEDIA = ("image", "images", "audio", "audios", "video", "videos")


def check_media(example: Example) -> list[Finding]:
    """A warning for each kind of media that stands beside the turns, where no backend looks for it."""
    found = [key for key in MEDIA if (example.extra or {}).get(key)]
    return [
        warning(
            "media-beside",
            f"the row has {key!r} beside the messages, where no backend sees or hears it",
            "put each into the content of its message as a part, or take such rows out",
        )
        for key in found
    ]


def check_digits(row: Mapping[str, Any], example: Example) -> list[Finding]:
    """The refusal of a number above 64 bits in a row with tools, outside JSON text: it was read as a float, so its
    digits are gone, and a tool's schema, a call or a result would be learned with others."""
    beside = example.extra or {}
    number = find_long_number([{key: value for key, value in row.items() if key not in beside}, *example.tools])
    if number is None:
        return []
    what = f"the row holds a number above 64 bits, of which only {number!r} can be read"
    return [error("cannot-number", what, "write it as a string")]


def _check_hidden(example: Example) -> Finding | None:
    key = hiding_key(example.extra or {})
    if key is None:
        return None
    what = f"the row says {key!r} {(example.extra or {})[key]!r}, and would be learned all the same"
    return error("weight", what, "leave such rows out, or write weight 0 on the turns that are not to be learned")


def other_format(row: dict[str, Any], fmt: RowFormat, faults: list[Finding]) -> list[Finding] | None:
    """One finding instead of many when a faulty row is of another format than its file."""
    if not any(fault.is_error for fault in faults) or fmt.detect(row):
        return None
    other = detect(row)
    if other is None:
        keys = ", ".join(map(repr, list(row)[:6])) or "no keys"
        return [error("row-shape", f"the row has {keys}; expected {fmt.title}", "write it like the rows before it")]
    return [
        error(
            "mixed-formats",
            f"this row is {other.name} where the file began as {fmt.name}",
            "keep one format a file: convert one part, then join them",
        )
    ]


def renaming(columns: Mapping[str, str] | None, label_column: str | None) -> dict[str, str]:
    """From a file's own key names to the names the formats know."""
    renames = {theirs: ours for ours, theirs in (columns or {}).items()}
    if label_column is not None:
        renames[label_column] = "label"
    return {theirs: ours for theirs, ours in renames.items() if theirs != ours}


def rename(raw: Iterator[Raw | Finding], renames: Mapping[str, str]) -> Iterator[Raw | Finding]:
    """Raw rows with their keys renamed; a row without one of the keys is told."""
    taken = set(renames.values())
    for item in raw:
        if isinstance(item, Finding) or not isinstance(item[1], dict):
            yield item
            continue
        line, row = item
        own = renames
        missing = [theirs for theirs in renames if theirs not in row]
        if missing:
            own = _as_spelled(renames, row)
            missing = [theirs for theirs in own if theirs not in row]
        if missing:
            have = ", ".join(map(repr, row))
            yield error("columns", f"there is no column {missing[0]!r}; the row has {have}", "check the names").at(
                None, line
            )
            continue
        renamed: dict[str, Any] = {}
        for key, value in row.items():
            new = own.get(key)
            if new is None:  # a key whose name another one takes over keeps its value under a longer name
                new = f"original_{key}" if key in taken else key
            renamed[new] = value
        if "label" in taken and len(renamed) == 2:
            other = next(key for key in renamed if key != "label")
            if other not in _QUESTIONS:
                renamed["text"] = renamed.pop(other)
        yield line, renamed


def _as_spelled(renames: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, str]:
    """The names with their letters as the row has them; headers and keys are read in any case."""
    spelled = {key.lower(): key for key in row}
    return {theirs if theirs in row else spelled.get(theirs.lower(), theirs): ours for theirs, ours in renames.items()}


_REINFORCEMENT = (("problem", "solution"), ("prompt", "ground_truth"), ("question", "solution"))


def unknown_format(row: Any, rows: Sequence[Any] = ()) -> Finding:
    """The finding for a file whose rows are of no known format, with a guess at what they are."""
    if not isinstance(row, dict):
        return error("row-shape", f"rows are {kind(row)}; expected objects", "write one JSON object a row").at(None, 1)
    keys = ", ".join(map(repr, list(row)[:8])) or "no keys"
    if row.get("type") in ("string_check", "text_similarity", "python", "score_model", "label_model", "multi"):
        return error("grader-config", "the file is the configuration of a grader, not a dataset", "give the rows")
    for first, second in _REINFORCEMENT:
        if first in row and second in row:
            return error(
                "reinforcement-rows",
                f"rows with {first!r} and {second!r} are of reinforcement tuning (a reference to score against)",
                f"to learn from {second!r} itself: --column prompt={first} --column completion={second}",
            )
    nested = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(row) == 1 and nested:
        return error("unknown-format", f"the rows seem to stand under {nested[0]!r}", "give a file of the list alone")
    return error(
        "unknown-format",
        f"rows with {keys} are of no known format",
        f"name the keys: {_guess_options(row, rows) or '--column prompt=KEY --column completion=KEY'}"
        " (in Python and in a job: columns); `llmtune data formats` lists what is known",
    )


def _guess_options(row: Mapping[str, Any], rows: Sequence[Any]) -> str:
    """The options by which rows of no known format could be read: two texts, or a text and its label."""
    texts = [key for key, value in row.items() if isinstance(value, str)]
    turns = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if turns and {"role", "from"} & set(map(str.lower, row[turns[0]][0])):
        return f"--column {'messages' if 'role' in row[turns[0]][0] else 'conversations'}={turns[0]}"
    values = {
        key: [other[key] for other in rows if isinstance(other, dict) and isinstance(other.get(key), str)]
        for key in texts
    }
    texts = [key for key in texts if not all(value.strip().isdigit() for value in values[key])]  # numbers are no text
    size = {key: sum(map(len, values[key])) for key in texts}
    longest = sorted(sorted(texts, key=lambda key: -size[key])[:2], key=texts.index)
    if len(longest) < 2:
        return f"--column text={quote(longest[0])}" if longest else ""
    for key in longest:
        if len(values[key]) > 3 and 2 * len(set(values[key])) <= len(values[key]):  # few values, given again and again
            other = next(text for text in longest if text != key)
            return f"--column text={quote(other)} --column label={quote(key)}"
    return f"--column prompt={quote(longest[0])} --column completion={quote(longest[1])}"


def choose(option: str, value: str, choices: Sequence[str]) -> str:
    """The value of an option that has few. Raises `UnknownName`."""
    if value not in choices:
        raise UnknownName(f"choice for {option}", value, choices)
    return value


def check_format_name(name: str) -> None:
    """Raises `UnknownName` for a format nobody knows."""
    known = ["auto", *CONTAINERS, *all_formats()]
    if name not in known:
        raise UnknownName("row format", name, known)
