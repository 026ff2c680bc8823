"""Reading any dataset into examples: in one pass, with every fault reported, and never the whole file in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import Any

from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, error, invalid_data, warning
from llmtune.data.formats.base import RowFormat
from llmtune.data.formats.chat import find_hidden_key, json_type, lower_keys, read_truth
from llmtune.data.formats.instruct import Labelled
from llmtune.data.formats.json_text import find_long_number
from llmtune.data.formats.preference import check_unpaired
from llmtune.data.formats.registry import all_formats, detect, general_formats, get_format
from llmtune.data.io import readers
from llmtune.data.io.base import CONTAINERS, HUB, Raw, sniff
from llmtune.data.io.folders import read_hub
from llmtune.data.io.row_changes import ON_EMPTY, SYSTEM_TURNS, change_rows
from llmtune.errors import UnknownName

_QUESTIONS = frozenset((*Labelled.TEXTS, "messages", "prompt"))
#: How many rows are buffered while the format of none of them is recognised.
_LOOK_AHEAD = 100
#: How many rows of a hub dataset are read for their labels; of a file all are, if needed.
_HUB_LABELS = 1000


class Reading:
    """An iterator over one dataset's examples and findings. `format` is known after the first of them."""

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
        self.renames = invert_columns(columns, label_column)
        self._group_by = group_by
        self._classes: bool | None = None
        self._lowered = False
        self._on_empty = choose("on_empty", on_empty, ON_EMPTY)
        self._system = choose("system", system, SYSTEM_TURNS)
        if format != "auto" and format not in CONTAINERS:
            self.format = get_format(format)

    @property
    def is_plain(self) -> bool:
        """Whether rows are read unchanged, so that blocks of the file can be read separately; after `recognise`."""
        return not self.renames and not self._lowered and not self._changes

    @property
    def _changes(self) -> bool:
        return self._on_empty != "error" or self._system != "keep"

    def columns(self) -> dict[str, str]:
        """Return the keys that are read, by their meaning, from the first row of the file's format.

        The keys have the file's own names. Empty for a dataset of the hub, which would be fetched again.
        """
        if self.path.startswith(HUB) or self.recognise() is None or self.format is None:
            return {}
        raw = _lower_rows(self._read_raw()) if self._lowered else self._read_raw()
        rows = (entry[1] for entry in raw if entry.__class__ is tuple and isinstance(entry[1], dict))
        row = next((row for row in islice(rows, _LOOK_AHEAD) if self.format.detect(row)), None)
        if row is None:
            return {}
        file_keys = {name: key for key, name in self.renames.items()}
        return {
            name: " + ".join(file_keys.get(key, key) for key in keys.split(" + "))
            for name, keys in self.format.columns(row).items()
        }

    def __iter__(self) -> Iterator[Example | Finding]:
        raw = self._read_raw()
        if self.format is None:
            held, fault = self._recognise(raw)
            raw = chain(held, raw)
            if self._lowered:
                raw = _lower_rows(raw)
            if self.format is None:  # broken rows are still reported, line by line
                yield from (entry.at(self.path, entry.line) for entry in raw if isinstance(entry, Finding))
                if fault is not None:
                    yield fault.at(self.path, fault.line)
                return
        items = read_rows(raw, self.format, self._group_by, self.path, self.names_classes)
        yield from change_rows(items, self._on_empty, self._system, self.path) if self._changes else items

    def recognise(self) -> RowFormat | None:
        """Return the row format of the first row that has a known one; None when none of the first rows does."""
        if self.format is None:
            self._recognise(self._read_raw())
        return self.format

    def names_classes(self) -> bool:
        """Return whether the file's labels name classes: some label is neither true nor false, also as 1, 0 or text.

        This reads the file again, so it is only called where a row leaves it open.
        """
        if self._classes is None:
            rows = islice(self._read_raw(), _HUB_LABELS if self.path.startswith(HUB) else None)
            labels = (
                entry[1].get("label") for entry in rows if entry.__class__ is tuple and isinstance(entry[1], dict)
            )
            self._classes = any(label is not None and read_truth(label) is None for label in labels)
        return self._classes

    def _read_raw(self) -> Iterator[Raw | Finding]:
        if self.path.startswith(HUB):
            self.container = "hub"
            raw = read_hub(self.path)
        else:
            path = Path(self.path)
            container = self._wanted if self._wanted in CONTAINERS else "auto"
            sniffed = sniff(path, container)
            if isinstance(sniffed, Finding):
                return iter((sniffed,))
            self.container = sniffed.container
            raw = readers.read_raw(path, sniffed, self.renames)
        return rename(raw, self.renames) if self.renames else raw

    def _recognise(self, raw: Iterator[Raw | Finding]) -> tuple[list[Raw | Finding], Finding | None]:
        """Buffer rows until the format of one is recognised.

        Returns the buffered rows, and why none was recognised; None if one was, or if the findings among them say it.
        """
        held: list[Raw | Finding] = []
        unknown: list[Any] = []
        for entry in raw:
            held.append(entry)
            if isinstance(entry, Finding):
                continue
            self.format, self._lowered = self._detect(entry[1])
            if self.format is not None:
                return held, None
            unknown.append(entry[1])
            if len(unknown) >= _LOOK_AHEAD:
                break
        if unknown:
            return held, explain_unknown_format(unknown[0], unknown)
        if any(isinstance(entry, Finding) and entry.is_error for entry in held):
            return held, None
        return held, error("empty-file", "the file holds no rows", "give a file with at least one row")

    def _detect(self, row: Any) -> tuple[RowFormat | None, bool]:
        """Return the format of a row, and whether its keys must be lowered for it ("Prompt", "INSTRUCTION")."""
        named = _find_named_formats(frozenset(self.renames.values()))
        detected = (detect(row, named) if named else None) or detect(row)
        if not isinstance(row, dict) or named or not any(key != key.lower() for key in row):
            return detected, False
        if detected is not None and detected not in general_formats():
            return detected, False
        lowered = detect(lower_keys(row), general_formats())
        return (detected, False) if lowered is None or lowered is detected else (lowered, True)


def _find_named_formats(column_names: frozenset[str]) -> tuple[RowFormat, ...]:
    """Return the formats whose keys the caller has named, which are tried first."""
    formats = {fmt.name: fmt for fmt in general_formats()}
    for keys, names in _NAMED:
        if column_names & keys == keys:
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


def _lower_rows(raw: Iterator[Raw | Finding]) -> Iterator[Raw | Finding]:
    for entry in raw:
        if isinstance(entry, Finding) or not isinstance(entry[1], dict):
            yield entry
        else:
            yield entry[0], lower_keys(entry[1])


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
    """Yield every valid row as an `Example`, in order, and every fault as a `Finding`, in one pass and bounded memory.

    `format` is a row format ("chat", "alpaca", ...), a container ("jsonl", "csv", "parquet", ...) or "auto".
    `columns` maps names to the file's own keys where these differ: `{"text": "utterance", "label": "intent"}`;
    `label_column` is short for `columns={"label": ...}`. `group_by` names the key whose value becomes
    `Example.group`. `on_empty="drop"` leaves out rows with an empty answer, `system="fold"` puts a system turn at the
    beginning of the first user turn; both are counted in a finding. A row with an error is not yielded as an example.
    Faults of the data are findings and not raised.
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
    """Read all rows of a file as examples. Raises `InvalidData` with every finding when any of them is an error."""
    examples: list[Example] = []
    findings: list[Finding] = []
    for row in read(
        path, format, columns=columns, label_column=label_column, group_by=group_by, on_empty=on_empty, system=system
    ):
        if isinstance(row, Finding):
            findings.append(row)
        else:
            examples.append(row)
    if any(finding.is_error for finding in findings):
        raise invalid_data(findings)
    return examples


class FileRows:
    """The rows of a file as examples, read from the disk each time they are iterated over.

    Iterating raises `InvalidData` at the end, with every finding, when any row has an error; from the first such row on
    no more rows are yielded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def __iter__(self) -> Iterator[Example]:
        log = FindingLog()
        for row in read(self.path):
            if isinstance(row, Finding):
                log.add(row)
            elif not log.errors:
                yield row
        if log.errors:
            raise invalid_data(log.in_order())


def read_rows(
    raw: Iterable[Raw | Finding],
    fmt: RowFormat,
    group_by: str | None = None,
    file: str | None = None,
    names_classes: Callable[[], bool] = lambda: False,
) -> Iterator[Example | Finding]:
    """Read raw rows by one format; of rows in another format, that one is named in the finding.

    `names_classes` returns whether labels that could be read as true and false (1 and 0) are classes in this file.
    """
    faults: list[Finding] = []
    read_row = fmt.read
    for entry in raw:
        if entry.__class__ is Finding:
            yield entry.at(file, entry.line)
            continue
        line, row = entry  # type: ignore[misc]
        if row.__class__ is not dict:
            yield error(
                "row-shape",
                f"the row is {json_type(row)}; expected an object such as {fmt.title}",
                "write one object per row",
            ).at(file, line)
            continue
        example = read_row(row, line, faults)
        if example[7]:  # extra: a key that the format does not read may exclude the row from training
            faults += check_media(example)
            refused = check_unpaired(row, example, names_classes) or _check_hidden(example)
            if refused is not None:
                yield refused.at(file, line)
                faults.clear()
                continue
        if not faults and (example[1] or any(turn[2] for turn in example[0])):
            faults += check_digits(row, example)
        if faults:
            wrong = find_other_format(row, fmt, faults)
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


#: Keys beside the turns that hold images, sound or video, as trainers of multimodal models name them.
MEDIA = ("image", "images", "audio", "audios", "video", "videos")


def check_media(example: Example) -> list[Finding]:
    """Return a warning for each kind of media in a key beside the turns, where no backend reads it."""
    keys = [key for key in MEDIA if (example.extra or {}).get(key)]
    return [
        warning(
            "media-beside",
            f"the row has {key!r} beside the messages, where no backend reads it",
            "put each into the content of its message as a part, or take such rows out",
        )
        for key in keys
    ]


def check_digits(row: Mapping[str, Any], example: Example) -> list[Finding]:
    """Return an error for a number above 64 bits in a row with tools, outside JSON text.

    It was read as a float, so a tool's schema, a call or a result would be learned with other digits.
    """
    extra = example.extra or {}
    number = find_long_number([{key: value for key, value in row.items() if key not in extra}, *example.tools])
    if number is None:
        return []
    what = f"the row holds a number above 64 bits, of which only {number!r} can be read"
    return [error("cannot-number", what, "write it as a string")]


def _check_hidden(example: Example) -> Finding | None:
    key = find_hidden_key(example.extra or {})
    if key is None:
        return None
    what = f"the row has {key!r}: {(example.extra or {})[key]!r}, and would be learned all the same"
    return error("weight", what, "leave such rows out, or write weight 0 on the turns that are not to be learned")


def find_other_format(row: dict[str, Any], fmt: RowFormat, faults: list[Finding]) -> list[Finding] | None:
    """Return one finding instead of many when an invalid row is of another format than its file; else None."""
    if not any(fault.is_error for fault in faults) or fmt.detect(row):
        return None
    detected = detect(row)
    if detected is None:
        keys = ", ".join(map(repr, list(row)[:6])) or "no keys"
        return [error("row-shape", f"the row has {keys}; expected {fmt.title}", "write it like the rows before it")]
    return [
        error(
            "mixed-formats",
            f"this row is {detected.name} where the file began as {fmt.name}",
            "keep one format per file: convert one part, then join them",
        )
    ]


def invert_columns(columns: Mapping[str, str] | None, label_column: str | None) -> dict[str, str]:
    """Return the names that the formats know by the file's own keys, where they differ."""
    renames = {key: name for name, key in (columns or {}).items()}
    if label_column is not None:
        renames[label_column] = "label"
    return {key: name for key, name in renames.items() if key != name}


def rename(raw: Iterator[Raw | Finding], renames: Mapping[str, str]) -> Iterator[Raw | Finding]:
    """Rename the keys of raw rows; a row without one of the keys is an error."""
    taken = set(renames.values())
    for entry in raw:
        if isinstance(entry, Finding) or not isinstance(entry[1], dict):
            yield entry
            continue
        line, row = entry
        names = renames
        missing = [key for key in renames if key not in row]
        if missing:
            names = _match_case(renames, row)
            missing = [key for key in names if key not in row]
        if missing:
            have = ", ".join(map(repr, row))
            yield error("columns", f"there is no column {missing[0]!r}; the row has {have}", "check the names").at(
                None, line
            )
            continue
        renamed: dict[str, Any] = {}
        for key, value in row.items():
            new = names.get(key)
            if new is None:  # a key whose name another one takes over keeps its value under a longer name
                new = f"original_{key}" if key in taken else key
            renamed[new] = value
        if "label" in taken and len(renamed) == 2:
            text_key = next(key for key in renamed if key != "label")
            if text_key not in _QUESTIONS:
                renamed["text"] = renamed.pop(text_key)
        yield line, renamed


def _match_case(renames: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, str]:
    """Return the renames with keys spelled as in the row: headers and keys are matched in any case."""
    spelled = {key.lower(): key for key in row}
    return {key if key in row else spelled.get(key.lower(), key): name for key, name in renames.items()}


_REINFORCEMENT = (("problem", "solution"), ("prompt", "ground_truth"), ("question", "solution"))


def explain_unknown_format(row: Any, rows: Sequence[Any] = ()) -> Finding:
    """Build the finding for a file whose rows are of no known format, with a guess at what they are."""
    if not isinstance(row, dict):
        return error("row-shape", f"rows are {json_type(row)}; expected objects", "write one JSON object per row").at(
            None, 1
        )
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
        return error("unknown-format", f"the rows seem to be under {nested[0]!r}", "give a file of the list alone")
    return error(
        "unknown-format",
        f"rows with {keys} are of no known format",
        f"name the keys: {_guess_options(row, rows) or '--column prompt=KEY --column completion=KEY'}"
        " (in Python and in a job: columns); `llmtune data formats` lists the known formats",
    )


def _guess_options(row: Mapping[str, Any], rows: Sequence[Any]) -> str:
    """Guess the options that read rows of no known format: as two texts, or as a text and its label."""
    texts = [key for key, value in row.items() if isinstance(value, str)]
    turns = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if turns and {"role", "from"} & set(map(str.lower, row[turns[0]][0])):
        return f"--column {'messages' if 'role' in row[turns[0]][0] else 'conversations'}={turns[0]}"
    values = {
        key: [sample[key] for sample in rows if isinstance(sample, dict) and isinstance(sample.get(key), str)]
        for key in texts
    }
    texts = [key for key in texts if not all(value.strip().isdigit() for value in values[key])]  # numbers are not text
    size = {key: sum(map(len, values[key])) for key in texts}
    longest = sorted(sorted(texts, key=lambda key: -size[key])[:2], key=texts.index)
    if len(longest) < 2:
        return f"--column text={quote(longest[0])}" if longest else ""
    for key in longest:
        if len(values[key]) > 3 and 2 * len(set(values[key])) <= len(values[key]):  # few values, which are repeated
            text_key = next(text for text in longest if text != key)
            return f"--column text={quote(text_key)} --column label={quote(key)}"
    return f"--column prompt={quote(longest[0])} --column completion={quote(longest[1])}"


def choose(option: str, value: str, choices: Sequence[str]) -> str:
    """Return the value if it is one of the choices of an option. Raises `UnknownName` otherwise."""
    if value not in choices:
        raise UnknownName(f"choice for {option}", value, choices)
    return value


def check_format_name(name: str) -> None:
    """Raise `UnknownName` for a name that is neither a row format nor a container."""
    names = ["auto", *CONTAINERS, *all_formats()]
    if name not in names:
        raise UnknownName("row format", name, names)
