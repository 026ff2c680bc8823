"""Checking whole files: every check on every row, in one pass and bounded memory, in several processes if it pays."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llmtune.data.checks import block_worker
from llmtune.data.checks.block_worker import CHECKS, BlockResult, BlockTask
from llmtune.data.checks.duplicates import RowIndex
from llmtune.data.checks.left_out import LeftOut, UnusedKeys
from llmtune.data.checks.near_duplicates import NearDuplicateLeaks
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

#: Several processes check the blocks of a file of JSON lines above this size.
PARALLEL_BYTES = 16 << 20
_BATCH_ROWS = 2000
_SAMPLE = 2000
#: The share of the rows that a job trains on by default.
_TRAIN_SHARE = 0.8
#: Rows from which on answers are taken for labels.
_FEWEST_LABELLED = 20
_ROLES = ("train", "validation", "test")


@dataclass
class FileReport:
    """The result of checking one file."""

    role: str
    path: str
    container: str | None = None
    format: str | None = None
    size: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """The keys that are read, by their meaning: `{"prompt": "question"}`."""
    unused: list[str] = field(default_factory=list)
    """The keys that nothing reads."""
    stats: Stats = field(default_factory=Stats)

    def as_dict(self) -> dict[str, Any]:
        """Return the values of the JSON output."""
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
    """The result of a check. `findings` has the first ones of each code; `counts` counts all of them."""

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
        """Return the values of the JSON output."""
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


def check(  # noqa: PLR0913
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
    """Check a training file, alone or with its validation and test files. Faults of the data are findings, not raised.

    Raises `UnknownName` for an unknown check, format or provider.

    Args:
        train, validation, test: the files, each in any format and container that can be read.
        on_empty: "drop" leaves out rows with an empty answer.
        system: "fold" puts a system turn at the beginning of the first user turn.
        provider: a backend whose own rules are added, for this `method` and `model`.
        method: sft, dpo or classification; None takes the method that the rows are for.
        tokenizer: counts tokens exactly; without one they are estimated, and the report says so.
        max_tokens: the longest row allowed, in tokens; otherwise the provider's own limit, if it has one.
        checks: which of `CHECKS` to run.
        jobs: processes for large files of JSON lines; None takes one per core (one where forking is not safe).
        keep: findings that are kept of each code; None keeps all. All are counted.
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
    files = {"train": train, "validation": validation, "test": test}
    paths = {role: os.fspath(path) for role, path in files.items() if path is not None}
    config = _CheckConfig(
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
        counter=TokenCounter(tokenizer, write_tools=None if rows is None else rows.write_tools),
        max_tokens=max_tokens,
        checks=frozenset(checks),
        jobs=_count_workers(jobs),
        keep=keep,
    )
    return _Checker(paths, config).run()


def _count_workers(jobs: int | None) -> int:
    import sys

    if jobs is not None:
        return max(1, jobs)
    # Forking is only safe on Linux; elsewhere a script without a main guard would start itself again.
    return min(os.cpu_count() or 1, 8) if sys.platform == "linux" else 1


@dataclass(frozen=True)
class _CheckConfig:
    """The settings of one check. `reading` are the options of `Reading`, `rows` the rules of the backend's rows."""

    reading: Mapping[str, Any]
    rows: VendorRows | None
    rendering: Rendering | None
    method: str | None
    model: str | None
    counter: TokenCounter
    max_tokens: int | None
    checks: frozenset[str]
    jobs: int
    keep: int | None


class _Checker:
    """One check of the files by role, with the findings so far and the indexes over their rows."""

    def __init__(self, paths: Mapping[str, str], config: _CheckConfig) -> None:
        self._paths = paths
        self._config = config
        self._log = FindingLog(config.keep)
        self._index = RowIndex(list(paths.values()), list(paths))
        compares = "near" in config.checks and len(paths) > 1
        self._leaks = NearDuplicateLeaks(list(paths.values())) if compares else None

    def run(self) -> CheckReport:
        if self._leaks is not None:
            self._leaks.learn(islice(self._sample_rows(), _SAMPLE))
        # held-out files first: training rows are compared with them as they stream by
        order = sorted(enumerate(self._paths.items()), key=lambda entry: entry[1][0] == "train")
        reports = [self._check_file(role, path, part) for part, (role, path) in order]
        if "duplicates" in self._config.checks:
            self._log.extend(self._index.findings())
        if self._leaks is not None:
            self._log.extend(self._leaks.findings())
        if self._config.rows is not None:
            self._check_vendor_files(reports)
        if "structure" in self._config.checks and self._config.method in (None, "sft"):
            self._log.extend(self._check_label_names())
        reports.sort(key=lambda report: _ROLES.index(report.role))
        return CheckReport(
            files=reports,
            findings=self._log.in_order(),
            counts=dict(sorted(self._log.counts.items())),
            errors=self._log.errors,
            warnings=self._log.warnings,
            provider=self._config.rows.provider if self._config.rows is not None else None,
            method=self._config.method,
        )

    def _check_label_names(self) -> Iterator[Finding]:
        """Yield a warning where answers are labels that no prompt names: a base model cannot know them."""
        sample = list(islice(self._sample_rows(), _SAMPLE))
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

    def _sample_rows(self) -> Iterator[Example]:
        for row in Reading(self._paths["train"], **self._config.reading):
            if not isinstance(row, Finding):
                yield row

    def _check_file(self, role: str, path: str, part: int) -> FileReport:
        reading = Reading(path, **self._config.reading)
        report = FileReport(role, path, size=_measure_size(path))
        left_out, unused, reasoning = LeftOut(), UnusedKeys(), ReasoningCount()
        for block in self._check_blocks(reading, part):
            self._merge(report, block, part)
            left_out.merge(block.left_out)
            unused.merge(block.unused)
            reasoning.merge(block.reasoning)
        self._log.extend(finding.at(path, None) for finding in left_out.findings())
        report.container = reading.container
        report.format = reading.format.name if reading.format is not None else None
        # keys that are not sent to a backend are in one warning already
        keys = unused.findings(report.format or "", warnings_only=bool(left_out.rows))
        self._log.extend(finding.at(path, None) for finding in keys)
        if self._config.rows is not None:
            missing = reasoning.findings(self._config.model or "the model", self._config.rows.reasoning_remedy)
            self._log.extend(finding.at(path, None) for finding in missing)
        report.columns, report.unused = reading.columns(), list(unused.rows)
        report.stats.exact, report.stats.rule = self._config.counter.exact, self._config.counter.rule
        return report

    def _merge(self, report: FileReport, block: BlockResult, part: int) -> None:
        self._log.merge(block.log)
        report.stats.merge(block.stats)
        self._index.extend(block.keys)
        if self._leaks is not None and block.sketches is not None:
            self._leaks.add(part, block.sketches, held_out=report.role != "train")

    def _make_task(self, reading: Reading, part: int) -> BlockTask:
        rows, fmt, path = self._config.rows, reading.format, reading.path
        writer = None
        method = self._config.method or "sft"
        if rows is not None:
            method = self._config.method or method_of(fmt, rows)
            if method in rows.defaults:
                source = "" if fmt is None else fmt.name
                writer = get_writer(rows.format_for(method, self._config.model, source))
            else:
                takes = ", ".join(rows.defaults)
                self._log.add(
                    error(
                        "vendor-method",
                        f"{rows.provider} takes no rows for method {method}; it takes {takes}",
                        "choose another backend or method",
                    ).at(path, None)
                )
        return BlockTask(
            fmt=fmt,
            file=path,
            part=part,
            method=self._config.method if rows is None else method,
            rules=None
            if rows is None
            else partial(_apply_rules, rows, self._config.rendering, method, self._config.model),
            writer=writer,
            checks=self._config.checks,
            counter=self._config.counter,
            limit=rows.token_limit(method, self._config.model) if rows is not None else None,
            max_tokens=self._config.max_tokens,
            sketcher=self._leaks.sketcher if self._leaks is not None else None,
            keep=self._config.keep,
            names_classes=reading.names_classes,
            reasons=part == 0
            and method != "classification"
            and trains_reasoning(rows, self._config.rendering, self._config.model),
        )

    def _check_blocks(self, reading: Reading, part: int) -> Iterator[BlockResult]:
        """Yield the results of the file's blocks in order; several processes check a large file of JSON lines."""
        path = Path(reading.path)
        if self._config.jobs > 1 and not reading.path.startswith(HUB) and path.is_file():
            sniffed = sniff(path)
            large = path.stat().st_size > PARALLEL_BYTES
            if large and not isinstance(sniffed, Finding) and sniffed.container == "jsonl":
                fmt = reading.recognise()
                if fmt is not None and reading.is_plain:
                    yield from self._check_in_parallel(path, sniffed, self._make_task(reading, part))
                    return
        rows = iter(reading)
        task: BlockTask | None = None
        while batch := list(islice(rows, _BATCH_ROWS)):
            task = task or self._make_task(reading, part)
            yield block_worker.check_rows(task, batch)

    def _check_in_parallel(self, path: Path, sniffed: Sniffed, task: BlockTask) -> Iterator[BlockResult]:
        import multiprocessing
        from collections import deque
        from concurrent.futures import Future, ProcessPoolExecutor

        notes = Notes()
        waiting: deque[Future[tuple[BlockResult, Notes]]] = deque()
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(
            self._config.jobs, context, initializer=block_worker.init_worker, initargs=(task,)
        ) as pool:
            try:
                for block, line in _number_blocks(path, sniffed, self._log, task.file):
                    waiting.append(pool.submit(block_worker.check_block, block, line))
                    if len(waiting) > self._config.jobs:
                        yield _merge_notes(waiting.popleft().result(), notes)
                while waiting:
                    yield _merge_notes(waiting.popleft().result(), notes)
            finally:
                pool.shutdown(cancel_futures=True)
        for note in notes.findings():
            self._log.add(note.at(task.file, note.line))

    def _check_vendor_files(self, reports: Sequence[FileReport]) -> None:
        assert self._config.rows is not None
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
                method=self._config.method or method_of(all_formats().get(report.format or ""), self._config.rows),
                model=self._config.model,
                features=stats.features,
                labels=stats.labels if stats.labels is not None and not stats.unlabelled else {},
                train_rows=train if report.role != "train" else None,
                total_rows=total,
            )
            findings = list(self._config.rows.file_rules(facts))
            self._log.extend(finding.at(report.path, None) for finding in findings)
            if len(reports) == 1 and not any(finding.code == "vendor-rows" for finding in findings):
                self._log.extend(finding.at(report.path, None) for finding in self._check_after_split(facts))

    def _check_after_split(self, facts: FileFacts) -> Iterator[Finding]:
        """Yield a warning where a job that splits this one file would have too few training rows."""
        assert self._config.rows is not None
        rows = round(facts.rows * _TRAIN_SHARE)
        for finding in self._config.rows.file_rules(facts._replace(rows=rows, total_rows=rows)):
            if finding.code == "vendor-rows":
                yield warning(
                    finding.code,
                    f"a job that splits this file trains on about {rows} of its {facts.rows} rows: {finding.message}",
                    "add rows, or set dataset.split so that enough are left to train on",
                )


def _apply_rules(
    rows: VendorRows, rendering: Rendering | None, method: str, model: str | None, example: Example
) -> Iterable[Finding]:
    yield from rows.row_rules(example, method, model)
    if rendering is not None and not any(finding.is_error for finding in check_example(example, method)):
        yield from rendering.problems(example, method, None)  # faults of the row itself are reported already


def _merge_notes(result: tuple[BlockResult, Notes], notes: Notes) -> BlockResult:
    block, block_notes = result
    notes.crlf = notes.crlf or block_notes.crlf
    notes.blank += block_notes.blank
    notes.first_blank = notes.first_blank or block_notes.first_blank
    return block


def _number_blocks(path: Path, sniffed: Sniffed, log: FindingLog, file: str) -> Iterable[tuple[bytes, int]]:
    """Yield blocks of whole lines, each with the number of the line before it."""
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
            error("unreadable", f"the file breaks off: {fault}", "it is damaged or incomplete: fetch it again").at(
                file, None
            )
        )


def _measure_size(path: str) -> int:
    target = Path(path)
    if target.is_dir():
        return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return target.stat().st_size if target.is_file() else 0
