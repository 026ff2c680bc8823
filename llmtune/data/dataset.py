"""The dataset of a job: read, checked, and split into train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import ENOSPC
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.data.checks.duplicates import RowIndex, hash_row
from llmtune.data.checks.left_out import UnusedKeys
from llmtune.data.checks.per_row import check_example, rename_turns
from llmtune.data.checks.vendor_rules import PartSummarizer, PartSummary
from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding, FindingLog, error, invalid_data
from llmtune.data.hashing import label_set, split_position
from llmtune.data.io.base import HUB
from llmtune.data.io.reading import Reading
from llmtune.data.row_keys import RowKeys
from llmtune.data.split import divide
from llmtune.data.stored_rows import ChainedRows, select_rows, store_rows
from llmtune.errors import InvalidData

if TYPE_CHECKING:
    from llmtune.job.spec import DatasetSpec

#: Findings that are kept of each code.
_KEEP = 100


@dataclass(frozen=True)
class Dataset:
    """The rows of a job, in three parts. Read by `Dataset.from_spec`, or made from examples by `Dataset(...)`.

    `findings` are warnings (errors raise); `sha256` is that of the file, or of the list of the files' hashes where
    there are several, so that `sha256sum` shows it; `source` names the path or paths; `format` is the row format.

    `train`, `validation` and `test` are rows in canonical form. Nothing of `test` is ever sent to be trained on.
    """

    train: Sequence[Example]
    validation: Sequence[Example] = ()
    test: Sequence[Example] = ()
    findings: Sequence[Finding] = ()
    sha256: str = ""
    source: str = ""
    format: str = "chat"
    files: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    @cached_property
    def labels(self) -> list[str] | None:
        """The labels, sorted, when this is a classification set; otherwise None. The rule is `label_set`'s."""
        return label_set(self.everything)

    @property
    def everything(self) -> Sequence[Example]:
        """The rows of all parts, as one sequence."""
        return ChainedRows(self.train, self.validation, self.test)

    @cached_property
    def kind(self) -> str:
        """The kind of the rows: "preference", "text" or "chat"."""
        first = self.train[0] if self.train else Example()
        return "preference" if first.preference is not None else "text" if first.text is not None else "chat"

    @cached_property
    def estimated_tokens(self) -> dict[str, int]:
        """Tokens by part, of the answers of each part ("train_answers"), of the longest row and of the longest turn, by
        the rule of `llmtune.data.rendering.token_count` (an estimate)."""
        return self._facts[0]

    @cached_property
    def summaries(self) -> dict[str, PartSummary]:
        """What there is in the rows of each part."""
        return self._facts[1]

    @cached_property
    def _facts(self) -> tuple[dict[str, int], dict[str, PartSummary]]:
        """Tokens and summaries: the rows are read once for both."""
        from llmtune.data.rendering.token_count import Counter as TokenCounter
        from llmtune.data.rendering.token_count import count_parts

        summarizers = {role: PartSummarizer() for role in self.parts}
        watched = {role: summarizers[role].watch(rows) for role, rows in self.parts.items()}
        tokens = count_parts(watched, TokenCounter())
        return tokens, {role: summarizer.summary for role, summarizer in summarizers.items()}

    @property
    def parts(self) -> dict[str, Sequence[Example]]:
        """The rows by part: "train", "validation" and "test"."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @classmethod
    def from_spec(
        cls,
        spec: DatasetSpec,
        base: Path | None = None,
        *,
        method: str | None = None,
        reference: str | None = None,
    ) -> Dataset:
        """Read, check and split what a spec names; relative paths are read from `base` (the working folder).

        `method` (sft, dpo, classification) adds its own checks of a row. Raises `InvalidData` with every
        finding when a row cannot be trained on. `reference` is the field whose value is the right answer of rows that
        end in the user's turn (method reinforcement).
        """
        return _Loader(spec, base or Path(), method, reference).load()


@dataclass(frozen=True)
class _Part:
    """Rows with their keys; `numbers` are theirs among the rows that the keys are of, or all of those."""

    rows: Sequence[Example]
    keys: RowKeys
    numbers: Any = field(default_factory=lambda: slice(None))

    def select(self, numbers: Any) -> _Part:
        """Return the rows of these numbers, of a whole file."""
        return _Part(select_rows(self.rows, numbers), self.keys, numbers)

    def take(self, count: int) -> _Part:
        """Return at most `count` rows, chosen as `take_rows` does."""
        if len(self.rows) <= count:
            return self
        import numpy as np

        prompts, answers = self.keys.prompts, self.keys.answers
        chosen = _choose(prompts[self.numbers], answers[self.numbers], count)
        return _Part(select_rows(self.rows, chosen), self.keys, np.arange(len(prompts))[self.numbers][chosen])


class _Loader:
    def __init__(self, spec: DatasetSpec, base: Path, method: str | None, reference: str | None) -> None:
        self._spec = spec.relative_to(base)
        self._method = method
        self._reference = reference
        self._log = FindingLog(_KEEP)
        self._format = ""

    def load(self) -> Dataset:
        spec = self._spec
        paths = self._find_paths()
        read = {role: self._read(path) for role, path in paths.items()}
        if self._log.errors:
            raise invalid_data(self._log.in_order())
        train = read.pop("path", None) or read.pop("train")
        if not train.rows:
            raise invalid_data(
                [error("empty-part", "there are no training rows", "give at least one").at(spec.path, None)]
            )
        parts = self._split(train, read)
        if spec.limit_rows is not None:
            parts["train"] = parts["train"].take(spec.limit_rows)
        self._check_duplicates(parts, paths)
        files = {role: _hash_path(path) for role, path in paths.items()}
        digest = next(iter(files.values()))
        if len(files) > 1:
            listing = "".join(f"{role}:{value}\n" for role, value in files.items())
            digest = hashlib.sha256(listing.encode()).hexdigest()
        return Dataset(
            train=parts["train"].rows,
            validation=parts["validation"].rows,
            test=parts["test"].rows,
            findings=self._log.in_order(),
            sha256=digest,
            source=", ".join(dict.fromkeys(paths.values())),
            format=self._format,
            files=files,
        )

    def _find_paths(self) -> dict[str, str]:
        """Return the files by role; a folder of splits is replaced by its files."""
        paths = self._spec.paths
        path = self._spec.path
        if path is None or path.startswith(HUB) or not Path(path).is_dir():
            return paths
        from llmtune.data.io.folders import find_splits

        splits = find_splits(Path(path))
        if len(splits) < 2 or any(len(files) > 1 and _find_common_parent(files) is None for files in splits.values()):
            return paths
        return {
            role: str(files[0] if len(files) == 1 else _find_common_parent(files)) for role, files in splits.items()
        }

    def _read(self, path: str) -> _Part:
        keys = RowKeys()
        try:
            return _Part(store_rows(keys.watch(self._iterate(path))), keys)
        except OSError as fault:
            if fault.errno != ENOSPC:
                raise
            raise InvalidData(
                f"{path}: no space left on the disk for the rows, which are kept in a temporary file",
                hint="make room, or let TMPDIR name a folder on another disk",
            ) from fault

    def _iterate(self, path: str) -> Iterator[Example]:
        """Yield the rows of a file that can be trained on; what is wrong with the others is logged."""
        spec = self._spec
        reading = Reading(
            path,
            spec.format,
            columns=spec.columns,
            label_column=spec.label_column,
            group_by=spec.group_by,
            on_empty=spec.on_empty,
            system=spec.system,
        )
        unused = UnusedKeys()
        for row in reading:
            if isinstance(row, Finding):
                self._log.add(row)
                continue
            turns_key = reading.format.turns_key if reading.format is not None else "messages"
            if self._reference is not None:
                row = answer_with_reference(row, self._reference)
            for finding in rename_turns(check_example(row, self._method), row, turns_key):
                self._log.add(finding.at(path, row.line))
            unused.add(row, turns_key)
            yield row
        if reading.format is not None:
            self._format = self._format or reading.format.name
            # The fields beside the turns are what a grader reads.
            is_graded = self._method == "reinforcement"
            findings = [] if is_graded else unused.findings(reading.format.name, warnings_only=True)
            self._log.extend(finding.at(path, None) for finding in findings)

    def _split(self, train: _Part, held_out: dict[str, _Part]) -> dict[str, _Part]:
        """Return the three parts; those without a file of their own are held out of the training rows."""
        spec = self._spec
        missing = [role for role in ("validation", "test") if role not in held_out]
        if not missing:
            return {"train": train, **held_out}
        shares = spec.split
        if sum(shares) <= 1 + 1e-6:
            validation = shares[1] if "validation" in missing else 0.0
            test = shares[2] if "test" in missing else 0.0
            shares = (1 - validation - test, validation, test)
        else:
            shares = (
                shares[0],
                shares[1] if "validation" in missing else 0.0,
                shares[2] if "test" in missing else 0.0,
            )
        cut, findings = divide(train.rows, shares, seed=spec.split_seed, row_keys=train.keys)
        self._log.extend(finding.at(self._spec.path or self._spec.train, None) for finding in findings)
        parts = dict(zip(("train", "validation", "test"), map(train.select, cut), strict=True))
        return parts | held_out

    def _check_duplicates(self, parts: dict[str, _Part], paths: dict[str, str]) -> None:
        """Log duplicates and contradictions within a part, and leaks between two."""
        roles = list(parts)
        files = [paths.get(role) or paths.get("path") or paths.get("train", "") for role in roles]
        index = RowIndex(files, roles)
        for number, role in enumerate(roles):
            index.add_rows(*parts[role].keys.select(parts[role].numbers), part=number)
        self._log.extend(index.findings())


def answer_with_reference(example: Example, field: str) -> Example:
    """Return the row with a field's value (dots reach into objects) as its answer, where no turn answers yet."""
    if not example.messages or any(message.role == "assistant" and message.trained for message in example.messages):
        return example
    value: Any = example.extra
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return example
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return example.replace(messages=(*example.messages, Message("assistant", text)))


def take_rows(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """Return at most `count` rows in their order, chosen by content: more of them with a higher count, never others."""
    if len(examples) <= count:
        return examples
    prompts, answers, _ = zip(*map(hash_row, examples), strict=True)
    return select_rows(examples, _choose(prompts, answers, count))


def _choose(prompts: Iterable[int], answers: Iterable[int], count: int) -> Any:
    """Return the numbers of `count` rows in their order, chosen by the hashes of prompt and answer."""
    import numpy as np

    positions = [split_position(int(prompt), int(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    return np.sort(np.argsort(np.array(positions, dtype=np.uint64), kind="stable")[:count])


def _find_common_parent(files: Iterable[Path]) -> Path | None:
    parents = {file.parent for file in files}
    return parents.pop() if len(parents) == 1 else None


def _hash_path(path: str) -> str:
    if path.startswith(HUB):
        return hashlib.sha256(path.encode()).hexdigest()
    total = hashlib.sha256()
    target = Path(path)
    if target.is_dir():
        for file in sorted(file for file in target.rglob("*") if file.is_file()):
            total.update(f"{file.relative_to(target)}:{_hash_path(str(file))}\n".encode())
        return total.hexdigest()
    with target.open("rb") as file_:
        while chunk := file_.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def label_counts(examples: Iterable[Example]) -> Counter[str]:
    """Count rows by label; empty when the rows have none."""
    from llmtune.data.hashing import label_of

    return Counter(label for example in examples if (label := label_of(example)) is not None)
