"""Checking whole files: every check over every row, in one pass and bounded memory, in several processes if it pays."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llmtune.data.checks import block_worker
from llmtune.data.checks.block_worker import CHECKS, Block, Work
from llmtune.data.checks.duplicates import RowIndex
from llmtune.data.checks.left_out import LeftOut, UnusedKeys
from llmtune.data.checks.near_duplicates import NearLeaks
from llmtune.data.checks.per_row import check_example
from llmtune.data.checks.reasoning import ReasoningCount
from llmtune.data.checks.stats import Stats
from llmtune.data.checks.vendor_rules import method_of, trains_reasoning
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, error, warning
from llmtune.data.formats.base import FileFacts, Rendering, VendorRows
from llmtune.data.formats.registry import all_formats, get_writer, vendor
from llmtune.data.hashing import label_set, names_labels
from llmtune.data.io.base import BROKEN, HUB, Notes, Sniffed, open_bytes, sniff
from llmtune.data.io.json_lines import blocks
from llmtune.data.io.reading import Reading
from llmtune.data.rendering.token_count import Counter as TokenCounter
from llmtune.data.rendering.token_count import Tokenizer
from llmtune.errors import UnknownName

#: A file of JSON lines above this size is cut into blocks for several processes.
PARALLEL_BYTES = 16 << 20
_ROWS_AT_ONCE = 2000
_SAMPLE = 2000
#: The share of the rows that a job trains on unless it says otherwise.
_TRAIN_SHARE = 0.8
#: Rows from which on answers are taken for labels.
_FEWEST_LABELLED = 20
_ROLES = ("train", "validation", "test")


@dataclass
class FileReport:
    """One file that was checked."""

    role: str
    path: str
    container: str | None = None
    format: str | None = None
    size: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """Which keys are read, by what they are here."""
    unused: list[str] = field(default_factory=list)
    """The keys that nothing reads."""
    stats: Stats = field(default_factory=Stats)

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "role": self.role,
            "path": self.path,
            "container": self.container,
            "format": self.format,
            "bytes": self.size,
            "columns": self.columns,
            "unused": self.unused,
            **self.stats.as_dict(),
        }


@dataclass
class CheckReport:
    """What checking found. `findings` keeps the first ones of each code; `counts` has them all."""

    files: list[FileReport]
    findings: list[Finding]
    counts: dict[str, int]
    errors: int
    warnings: int
    provider: str | None = None
    method: str | None = None

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return self.errors == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "schema": 1,
            "ok": self.ok,
            "errors": self.errors,
            "warnings": self.warnings,
            "provider": self.provider,
            "method": self.method,
            "counts": self.counts,
            "findings": [finding.as_dict() for finding in self.findings],
            "files": [file.as_dict() for file in self.files],
        }


def check(
    train: str | os.PathLike[str],
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    label_column: str | None = None,
    on_empty: str = "error",
    system: str = "keep",
    provider: str | None = None,
    method: str | None = None,
    model: str | None = None,
    tokenizer: Tokenizer | None = None,
    max_tokens: int | None = None,
    checks: Collection[str] = CHECKS,
    jobs: int | None = None,
    keep: int | None = 1000,
) -> CheckReport:
    """Check a training file, alone or with its validation and test files. Nothing is raised for faults of the data.

    Args:
        train, validation, test: the files, each in any format and container that can be read.
        on_empty: "drop" leaves rows with an empty answer out.
        system: "fold" puts a system turn at the beginning of the first user turn.
        provider: a backend whose own rules are added, for this `method` and `model`.
        method: sft, dpo or classification; None takes the rows for what they are.
        tokenizer: counts tokens exactly; without one they are estimated, and the report says so.
        max_tokens: the longest row allowed, in tokens; otherwise the provider's own limit, if it has one.
        checks: which of `CHECKS` to run.
        jobs: processes for large files of JSON lines; None takes one per core (one where forking is not safe).
        keep: findings kept of each code; None keeps all. All are counted.
    """
    unknown = [name for name in checks if name not in CHECKS]
    if unknown:
        raise UnknownName("check", unknown[0], CHECKS)
    rows = None if provider is None else vendor(provider)
    rendering = None
    if rows is not None and rows.rendering is not None and model is not None:
        rendering = rows.rendering(model, {}, False)
        if tokenizer is None and rendering is not None:
            tokenizer = rendering.tokenizer
    given = {"train": train, "validation": validation, "test": test}
    paths = {role: os.fspath(path) for role, path in given.items() if path is not None}
    checker = _Checker(
        paths,
        reading={
            "format": format,
            "columns": columns,
            "label_column": label_column,
            "on_empty": on_empty,
            "system": system,
        },
        rows=rows,
        rendering=rendering,
        method=method,
        model=model,
        counter=TokenCounter(tokenizer),
        max_tokens=max_tokens,
        checks=frozenset(checks),
        jobs=_jobs(jobs),
        keep=keep,
    )
    return checker.run()


def _jobs(jobs: int | None) -> int:
    import sys

    if jobs is not None:
        return max(1, jobs)
    # Only Linux forks without harm; elsewhere a script without a main guard would start itself again.
    return min(os.cpu_count() or 1, 8) if sys.platform == "linux" else 1


class _Checker:
    def __init__(
        self,
        paths: Mapping[str, str],
        *,
        reading: Mapping[str, Any],
        rows: VendorRows | None,
        rendering: Rendering | None,
        method: str | None,
        model: str | None,
        counter: TokenCounter,
        max_tokens: int | None,
        checks: frozenset[str],
        jobs: int,
        keep: int | None,
    ) -> None:
        self._paths = paths
        self._reading = reading
        self._rows = rows
        self._rendering = rendering
        self._method = method
        self._model = model
        self._counter = counter
        self._max_tokens = max_tokens
        self._checks = checks
        self._jobs = jobs
        self._keep = keep
        self._log = FindingLog(keep)
        self._index = RowIndex(list(paths.values()), list(paths))
        self._leaks = NearLeaks(list(paths.values())) if "near" in checks and len(paths) > 1 else None

    def run(self) -> CheckReport:
        if self._leaks is not None:
            self._leaks.learn(islice(self._sample(), _SAMPLE))
        # held-out files first: training rows are compared with them as they stream by
        order = sorted(enumerate(self._paths.items()), key=lambda item: item[1][0] == "train")
        reports = [self._file(role, path, part) for part, (role, path) in order]
        if "duplicates" in self._checks:
            self._log.extend(self._index.findings())
        if self._leaks is not None:
            self._log.extend(self._leaks.findings())
        if self._rows is not None:
            self._vendor_files(reports)
        if "structure" in self._checks and self._method in (None, "sft"):
            self._log.extend(self._untold_labels())
        reports.sort(key=lambda report: _ROLES.index(report.role))
        return CheckReport(
            files=reports,
            findings=self._log.in_order(),
            counts=dict(sorted(self._log.counts.items())),
            errors=self._log.errors,
            warnings=self._log.warnings,
            provider=self._rows.provider if self._rows is not None else None,
            method=self._method,
        )

    def _untold_labels(self) -> Iterator[Finding]:
        """A warning where answers are labels that no prompt names: tuning can teach them, a base model cannot know."""
        sample = list(islice(self._sample(), _SAMPLE))
        if len(sample) < _FEWEST_LABELLED or any(row.label is not None for row in sample):
            return
        labels = label_set(sample)
        if labels is None or names_labels(sample, labels):
            return
        some = ", ".join(repr(label) for label in labels[:3]) + (", ..." if len(labels) > 3 else "")
        yield warning(
            "no-instruction",
            f"answers are one of {len(labels)} labels ({some}), and the prompts do not name them: the base model cannot"
            " know what is asked, so a comparison with it says little",
            "name the labels in a system turn, the same in every row and later in use",
        ).at(self._paths["train"], None)

    def _sample(self) -> Iterator[Example]:
        for item in Reading(self._paths["train"], **self._reading):
            if not isinstance(item, Finding):
                yield item

    def _file(self, role: str, path: str, part: int) -> FileReport:
        reading = Reading(path, **self._reading)
        report = FileReport(role, path, size=_size(path))
        left_out, unused, reasoning = LeftOut(), UnusedKeys(), ReasoningCount()
        for block in self._blocks(reading, part):
            self._take(report, block, part)
            left_out.merge(block.left_out)
            unused.merge(block.unused)
            reasoning.merge(block.reasoning)
        self._log.extend(finding.at(path, None) for finding in left_out.findings())
        report.container = reading.container
        report.format = reading.format.name if reading.format is not None else None
        # what a backend is not sent is one warning already, which names every key
        keys = unused.findings(report.format or "", warnings_only=bool(left_out.rows))
        self._log.extend(finding.at(path, None) for finding in keys)
        if self._rows is not None:
            missing = reasoning.findings(self._model or "the model", self._rows.reasoning_remedy)
            self._log.extend(finding.at(path, None) for finding in missing)
        report.columns, report.unused = reading.columns(), list(unused.rows)
        report.stats.exact, report.stats.rule = self._counter.exact, self._counter.rule
        return report

    def _take(self, report: FileReport, block: Block, part: int) -> None:
        self._log.merge(block.log)
        report.stats.merge(block.stats)
        self._index.extend(block.keys)
        if self._leaks is not None and block.sketches is not None:
            self._leaks.add(part, block.sketches, held_out=report.role != "train")

    def _work(self, reading: Reading, part: int) -> Work:
        rows, fmt, path = self._rows, reading.format, reading.path
        writer = None
        method = self._method or "sft"
        if rows is not None:
            method = self._method or method_of(fmt, rows)
            if method in rows.defaults:
                writer = get_writer(rows.format_for(method, self._model))
            else:
                takes = ", ".join(rows.defaults)
                self._log.add(
                    error(
                        "vendor-method",
                        f"{rows.provider} takes no rows for method {method}; it takes {takes}",
                        "choose another backend or method",
                    ).at(path, None)
                )
        return Work(
            fmt=fmt,
            file=path,
            part=part,
            method=self._method if rows is None else method,
            rules=None if rows is None else partial(_row_rules, rows, self._rendering, method, self._model),
            writer=writer,
            checks=self._checks,
            counter=self._counter,
            limit=rows.token_limit(method, self._model) if rows is not None else None,
            max_tokens=self._max_tokens,
            sketcher=self._leaks.sketcher if self._leaks is not None else None,
            keep=self._keep,
            names_classes=reading.names_classes,
            reasons=part == 0 and method != "classification" and trains_reasoning(rows, self._rendering, self._model),
        )

    def _blocks(self, reading: Reading, part: int) -> Iterator[Block]:
        """The file's blocks in order, worked on in several processes when it is a large file of JSON lines."""
        path = Path(reading.path)
        if self._jobs > 1 and not reading.path.startswith(HUB) and path.is_file():
            sniffed = sniff(path)
            large = path.stat().st_size > PARALLEL_BYTES
            if large and not isinstance(sniffed, Finding) and sniffed.container == "jsonl":
                fmt = reading.recognise()
                if fmt is not None and reading.is_plain:
                    yield from self._parallel(path, sniffed, self._work(reading, part))
                    return
        items = iter(reading)
        work: Work | None = None
        while batch := list(islice(items, _ROWS_AT_ONCE)):
            work = work or self._work(reading, part)
            yield block_worker.work_on(work, batch)

    def _parallel(self, path: Path, sniffed: Sniffed, work: Work) -> Iterator[Block]:
        import multiprocessing
        from collections import deque
        from concurrent.futures import Future, ProcessPoolExecutor

        notes = Notes()
        waiting: deque[Future[tuple[Block, Notes]]] = deque()
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(self._jobs, context, initializer=block_worker.begin, initargs=(work,)) as pool:
            try:
                for block, line in _numbered_blocks(path, sniffed, self._log, work.file):
                    waiting.append(pool.submit(block_worker.work_on_block, block, line))
                    if len(waiting) > self._jobs:
                        yield _done(waiting.popleft().result(), notes)
                while waiting:
                    yield _done(waiting.popleft().result(), notes)
            finally:
                pool.shutdown(cancel_futures=True)
        for note in notes.findings():
            self._log.add(note.at(work.file, note.line))

    def _vendor_files(self, reports: Sequence[FileReport]) -> None:
        assert self._rows is not None
        by_role = {report.role: report for report in reports}
        train = by_role["train"].stats.rows
        total = train + (by_role["validation"].stats.rows if "validation" in by_role else 0)
        for report in reports:
            stats = report.stats
            facts = FileFacts(
                role=report.role,
                path=report.path,
                rows=stats.rows,
                size=report.size,
                tokens=stats.total_tokens,
                exact_tokens=stats.exact,
                format=report.format or "",
                method=self._method or method_of(all_formats().get(report.format or ""), self._rows),
                model=self._model,
                features=stats.features,
                labels=stats.labels if stats.labels is not None and not stats.unlabelled else {},
                train_rows=train if report.role != "train" else None,
                total_rows=total,
            )
            found = list(self._rows.file_rules(facts))
            self._log.extend(finding.at(report.path, None) for finding in found)
            if len(reports) == 1 and not any(finding.code == "vendor-rows" for finding in found):
                self._log.extend(finding.at(report.path, None) for finding in self._after_split(facts))

    def _after_split(self, facts: FileFacts) -> Iterator[Finding]:
        """A warning where the training rows that a job's own split leaves of one file are too few."""
        assert self._rows is not None
        rows = round(facts.rows * _TRAIN_SHARE)
        for finding in self._rows.file_rules(facts._replace(rows=rows, total_rows=rows)):
            if finding.code == "vendor-rows":
                yield warning(
                    finding.code,
                    f"a job that splits this file trains on about {rows} of its {facts.rows} rows: {finding.message}",
                    "add rows, or set dataset.split so that enough are left to train on",
                )


def _row_rules(
    rows: VendorRows, rendering: Rendering | None, method: str, model: str | None, example: Example
) -> Iterable[Finding]:
    yield from rows.row_rules(example, method, model)
    if rendering is not None and not any(finding.is_error for finding in check_example(example, method)):
        yield from rendering.problems(example, method, None)  # what is wrong with the row itself is reported already


def _done(result: tuple[Block, Notes], notes: Notes) -> Block:
    block, seen = result
    notes.crlf = notes.crlf or seen.crlf
    notes.blank += seen.blank
    notes.first_blank = notes.first_blank or seen.first_blank
    return block


def _numbered_blocks(path: Path, sniffed: Sniffed, log: FindingLog, file: str) -> Iterable[tuple[bytes, int]]:
    """Blocks of whole lines, each with the number of the line before it."""
    from llmtune.data.io.charset import BOM, bom_finding

    line = 0
    try:
        with open_bytes(path, sniffed.compression) as stream:
            for block in blocks(stream, block_worker.BLOCK):
                if line == 0 and block.startswith(BOM):
                    block = block[len(BOM) :]
                    log.add(bom_finding().at(file, None))
                yield block, line
                line += block.count(b"\n")
    except BROKEN as fault:
        log.add(
            error("unreadable", f"the file breaks off: {fault}", "it is damaged or not whole: fetch it again").at(
                file, None
            )
        )


def _size(path: str) -> int:
    place = Path(path)
    if place.is_dir():
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return place.stat().st_size if place.is_file() else 0
