"""The dataset of a job: read, checked, and cut into train, validation and test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmtune.data.checks.duplicates import RowIndex, keys_of
from llmtune.data.checks.left_out import UnusedKeys
from llmtune.data.checks.per_row import check_example, in_own_terms
from llmtune.data.example import Example
from llmtune.data.findings import Finding, FindingLog, error, refuse
from llmtune.data.hashing import label_set
from llmtune.data.io.base import HUB
from llmtune.data.io.reading import Reading
from llmtune.data.split import split

if TYPE_CHECKING:
    from llmtune.job.spec import DatasetSpec

#: Findings kept of each code.
_KEEP = 100


@dataclass(frozen=True)
class Dataset:
    """The rows of a job, in three parts. Made by `Dataset.from_spec`, or from examples at hand by `Dataset(...)`.

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
        return label_set([*self.train, *self.validation, *self.test])

    @cached_property
    def kind(self) -> str:
        """What the rows are: "preference", "text" or "chat"."""
        first = self.train[0] if self.train else Example()
        return "preference" if first.preference is not None else "text" if first.text is not None else "chat"

    @cached_property
    def estimated_tokens(self) -> dict[str, int]:
        """Tokens by part, of the longest row and of the longest turn, by the rule of
        `llmtune.data.rendering.token_count` (an estimate)."""
        from llmtune.data.rendering.token_count import Counter as TokenCounter

        count = TokenCounter().row
        totals = {"longest": 0, "longest_turn": 0}
        for part, rows in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            sizes = [count(row) for row in rows]
            totals[part] = sum(size.total for size in sizes)
            totals["longest"] = max([totals["longest"], *(size.total for size in sizes)])
            totals["longest_turn"] = max([totals["longest_turn"], *(size.longest_turn for size in sizes)])
        return totals

    @classmethod
    def from_spec(cls, spec: DatasetSpec, base: Path | None = None, *, method: str | None = None) -> Dataset:
        """Read, check and split what a spec names; relative paths are read from `base` (the working folder).

        `method` (sft, dpo, classification) adds what that one asks of a row. Raises `InvalidData` with every
        finding when a row cannot be trained on.
        """
        return _Loader(spec, base or Path(), method).load()


class _Loader:
    def __init__(self, spec: DatasetSpec, base: Path, method: str | None) -> None:
        self._spec = spec.relative_to(base)
        self._method = method
        self._log = FindingLog(_KEEP)
        self._format = ""

    def load(self) -> Dataset:
        spec = self._spec
        paths = self._paths()
        given = {role: self._read(path) for role, path in paths.items()}
        if self._log.errors:
            raise refuse(self._log.in_order())
        train = given.pop("path", None) or given.pop("train", [])
        if not train:
            raise refuse([error("empty-part", "there are no training rows", "give at least one").at(spec.path, None)])
        parts = self._cut(train, given)
        self._compare(parts, paths)
        files = {role: _sha256(path) for role, path in paths.items()}
        digest = next(iter(files.values()))
        if len(files) > 1:
            listing = "".join(f"{role}:{value}\n" for role, value in files.items())
            digest = hashlib.sha256(listing.encode()).hexdigest()
        return Dataset(
            train=parts["train"],
            validation=parts["validation"],
            test=parts["test"],
            findings=self._log.in_order(),
            sha256=digest,
            source=", ".join(dict.fromkeys(paths.values())),
            format=self._format,
            files=files,
        )

    def _paths(self) -> dict[str, str]:
        """The files by role; a folder that holds splits stands for its files."""
        paths = self._spec.paths
        path = self._spec.path
        if path is None or path.startswith(HUB) or not Path(path).is_dir():
            return paths
        from llmtune.data.io.folders import folder_splits

        found = folder_splits(Path(path))
        if len(found) < 2 or any(len(files) > 1 and _parent(files) is None for files in found.values()):
            return paths
        return {role: str(files[0] if len(files) == 1 else _parent(files)) for role, files in found.items()}

    def _read(self, path: str) -> list[Example]:
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
        examples: list[Example] = []
        unused = UnusedKeys()
        for item in reading:
            if isinstance(item, Finding):
                self._log.add(item)
                continue
            turns_key = reading.format.turns_key if reading.format is not None else "messages"
            for finding in in_own_terms(check_example(item, self._method), item, turns_key):
                self._log.add(finding.at(path, item.line))
            unused.add(item, turns_key)
            examples.append(item)
        if reading.format is not None:
            self._format = self._format or reading.format.name
            findings = unused.findings(reading.format.name, warnings_only=True)
            self._log.extend(finding.at(path, None) for finding in findings)
        return examples

    def _cut(self, train: list[Example], given: dict[str, list[Example]]) -> dict[str, Sequence[Example]]:
        """The three parts: what is not given is held out of the training rows."""
        spec = self._spec
        missing = [role for role in ("validation", "test") if role not in given]
        if not missing:
            return {"train": train, **given}
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
        cut = split(train, shares, seed=spec.split_seed)
        self._log.extend(finding.at(self._spec.path or self._spec.train, None) for finding in cut.findings)
        return {
            "train": cut.train,
            "validation": given.get("validation", cut.validation),
            "test": given.get("test", cut.test),
        }

    def _compare(self, parts: dict[str, Sequence[Example]], paths: dict[str, str]) -> None:
        """Duplicates and contradictions within a part, leaks between two."""
        roles = list(parts)
        files = [paths.get(role) or paths.get("path") or paths.get("train", "") for role in roles]
        index = RowIndex(files, roles)
        for number, role in enumerate(roles):
            for example in parts[role]:
                prompt, answer, labelled = keys_of(example)
                index.add(prompt, answer, example.line or 0, number, labelled=labelled)
        self._log.extend(index.findings())


def _parent(files: Iterable[Path]) -> Path | None:
    parents = {file.parent for file in files}
    return parents.pop() if len(parents) == 1 else None


def _sha256(path: str) -> str:
    if path.startswith(HUB):
        return hashlib.sha256(path.encode()).hexdigest()
    total = hashlib.sha256()
    place = Path(path)
    if place.is_dir():
        for file in sorted(file for file in place.rglob("*") if file.is_file()):
            total.update(f"{file.relative_to(place)}:{_sha256(str(file))}\n".encode())
        return total.hexdigest()
    with place.open("rb") as file_:
        while chunk := file_.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def label_counts(examples: Iterable[Example]) -> Counter[str]:
    """Rows by label; empty when the rows have none."""
    from llmtune.data.hashing import label_of

    return Counter(label for example in examples if (label := label_of(example)) is not None)
