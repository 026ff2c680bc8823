"""Keys of the rows of a file, taken while they are read: what asks only for keys need not read the rows again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from llmtune.data.checks.duplicates import hash_row
from llmtune.data.example import Example
from llmtune.data.hashing import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RowKeys:
    """Of each row the hashes of prompt and answer (see `hash_row`), whether the answer is a label, and the line; and
    the hashes of the groups that rows are of. 25 bytes a row."""

    def __init__(self) -> None:
        self._prompts, self._answers, self._lines = array("Q"), array("Q"), array("Q")
        self._labelled = bytearray()
        self._grouped, self._groups = array("Q"), array("Q")

    def watch(self, rows: Iterable[Example]) -> Iterator[Example]:
        """Pass rows on, and take their keys."""
        for row in rows:
            prompt, answer, is_label = hash_row(row)
            if row.group is not None:
                self._grouped.append(len(self._prompts))
                self._groups.append(digest(row.group))
            self._prompts.append(prompt)
            self._answers.append(answer)
            self._lines.append(row.line or 0)
            self._labelled.append(is_label)
            yield row

    @property
    def prompts(self) -> NDArray[Any]:
        """The hash of each row's prompt."""
        return _as_numbers(self._prompts)

    @property
    def answers(self) -> NDArray[Any]:
        """The hash of each row's answer."""
        return _as_numbers(self._answers)

    def select(self, numbers: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return prompts, answers, lines (0 where a row has none), and whether each answer is a label, of some rows."""
        import numpy as np

        columns = self.prompts, self.answers, _as_numbers(self._lines), np.frombuffer(self._labelled, dtype=np.bool_)
        prompts, answers, lines, labelled = (column[numbers] for column in columns)
        return prompts, answers, lines, labelled

    @property
    def groups(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The numbers of the rows that are of a group, and the hash of each one's group."""
        return _as_numbers(self._grouped), _as_numbers(self._groups)


def _as_numbers(numbers: array[int]) -> NDArray[Any]:
    import numpy as np

    return np.frombuffer(numbers, dtype=np.uint64)
