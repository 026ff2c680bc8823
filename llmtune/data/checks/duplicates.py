"""Which rows are the same as which, over one or several files, in bounded memory.

Twenty-four bytes a row (prompt, answer, place). Above two million rows they go to temporary files, cut by the
prompt's hash, and each cut is looked at by itself.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from llmtune.data.findings import Finding, warning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Rows held in memory before they go to disk.
SPILL = 2_000_000
_CUTS = 16
_LINE_BITS = 48
_LABEL = 1 << 63


class RowIndex:
    """Collects (prompt, answer, line) of every row of some files, then tells duplicates, contradictions and leaks.

    `files` are the names by number; a row's number of file is `part`. Rows of different parts with one prompt are
    leaks; within one part they are duplicates when the answer is the same, and contradictions when the rows are
    labelled and it is not.
    """

    def __init__(self, files: Sequence[str], roles: Sequence[str], spill: int = SPILL) -> None:
        self._files = list(files)
        self._roles = list(roles)
        self._spill = spill
        self._held = array("Q")
        self._cuts: list[IO[bytes]] = []

    def add(self, prompt: int, answer: int, line: int, part: int, *, labelled: bool) -> None:
        """One row. `labelled` says that its answer is a label, so that two different ones contradict each other."""
        self._held.extend((prompt, answer, line | part << _LINE_BITS | (_LABEL if labelled else 0)))
        if len(self._held) >= 3 * self._spill:
            self._flush()

    def extend(self, triples: bytes) -> None:
        """Many rows, as `pack` made them."""
        self._held.frombytes(triples)
        if len(self._held) >= 3 * self._spill:
            self._flush()

    @staticmethod
    def pack(rows: Sequence[tuple[int, int, int, bool]], part: int) -> bytes:
        """(prompt, answer, line, labelled) of many rows of one part, as bytes for `extend`."""
        packed = array("Q")
        for prompt, answer, line, labelled in rows:
            packed.extend((prompt, answer, line | part << _LINE_BITS | (_LABEL if labelled else 0)))
        return packed.tobytes()

    def findings(self) -> Iterator[Finding]:
        """Duplicates, contradictions and leaks; all of them warnings."""
        for table in self._tables():
            yield from self._look(table)
        for cut in self._cuts:
            cut.close()

    def _flush(self) -> None:
        import numpy as np

        if not self._cuts:
            # the files live until `findings` has read them
            self._cuts = [tempfile.TemporaryFile() for _ in range(_CUTS)]  # noqa: SIM115
        table = np.frombuffer(self._held, dtype=np.uint64).reshape(-1, 3)
        cut_of = table[:, 0] >> np.uint64(60)
        for number, cut in enumerate(self._cuts):
            cut.write(table[cut_of == number].tobytes())
        self._held = array("Q")

    def _tables(self) -> Iterator[NDArray[np.uint64]]:
        import numpy as np

        if not self._cuts:
            yield np.frombuffer(self._held, dtype=np.uint64).reshape(-1, 3)
            return
        self._flush()
        for cut in self._cuts:
            cut.seek(0)
            yield np.frombuffer(cut.read(), dtype=np.uint64).reshape(-1, 3)

    def _look(self, table: NDArray[np.uint64]) -> Iterator[Finding]:
        import numpy as np

        if len(table) < 2:
            return
        places = table[:, 2] & np.uint64(_LABEL - 1)  # part, then line: the first row of a prompt is told as first
        order = np.lexsort((places, table[:, 0]))
        prompts = table[order, 0]
        same = np.flatnonzero(prompts[1:] == prompts[:-1])
        if not len(same):
            return
        breaks = np.flatnonzero(np.diff(same) > 1)
        begins = same[np.concatenate(([0], breaks + 1))]
        ends = same[np.concatenate((breaks, [len(same) - 1]))] + 2
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            group = table[order[begin:end]].tolist()
            yield from self._group([self._row(entry) for entry in group])

    def _row(self, entry: Sequence[int]) -> tuple[int, int, int, bool]:
        place = entry[2]
        part = (place & (_LABEL - 1)) >> _LINE_BITS
        return entry[1], place & ((1 << _LINE_BITS) - 1), part, bool(place & _LABEL)

    def _group(self, rows: Sequence[tuple[int, int, int, bool]]) -> Iterator[Finding]:
        """The findings of rows with one prompt, sorted by part and line."""
        seen: dict[tuple[int, int], int] = {}
        first_of: dict[int, tuple[int, int, bool]] = {}
        for answer, line, part, labelled in rows:
            earlier = seen.get((part, answer))
            first = first_of.get(part)
            if earlier is not None:
                yield self._finding(
                    part, line, "duplicate-row", f"the row says the same as line {earlier}", "keep one of them"
                )
            elif first is not None and labelled and first[2]:
                yield self._finding(
                    part,
                    line,
                    "contradiction",
                    f"the prompt is that of line {first[1]}, and the label is another",
                    "decide for one label",
                )
            seen.setdefault((part, answer), line)
            if first is None:
                first_of[part] = (answer, line, labelled)
                for other, (_, where, _) in first_of.items():
                    if other != part:
                        yield self._finding(
                            part,
                            line,
                            "leakage",
                            f"the prompt is also in {self._roles[other]} ({self._files[other]}:{where})",
                            "take it out of one of them: a score on it says nothing",
                        )
                        break

    def _finding(self, part: int, line: int, code: str, message: str, remedy: str) -> Finding:
        return warning(code, message, remedy).at(self._files[part], line)


def keys_of(example: Any) -> tuple[int, int, bool]:
    """Prompt key, answer key, and whether the answer is a label."""
    from llmtune.data.hashing import answer_text, digest, label_of, prompt_text

    return digest(prompt_text(example)), digest(answer_text(example)), label_of(example) is not None
