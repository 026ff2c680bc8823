"""Duplicate rows over one or several files, in bounded memory.

Twenty-four bytes per row (prompt, answer, position). Above two million rows they are moved to temporary files, divided
by the prompt's hash, and each file is searched by itself.
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

#: Rows held in memory before they are moved to disk.
SPILL = 2_000_000
_CUTS = 16
_LINE_BITS = 48
_LABEL = 1 << 63


class RowIndex:
    """An index of (prompt, answer, line) of every row of some files, which finds duplicates, contradictions and leaks.

    `part` of a row is the index of its file in `files`. Rows of different parts with the same prompt are leaks; rows
    of one part are duplicates when the answer is the same too, and contradictions when they are labelled and it is not.
    """

    def __init__(self, files: Sequence[str], roles: Sequence[str], spill: int = SPILL) -> None:
        self._files = list(files)
        self._roles = list(roles)
        self._spill = spill
        self._held = array("Q")
        self._cuts: list[IO[bytes]] = []

    def add(self, prompt: int, answer: int, line: int, part: int, *, labelled: bool) -> None:
        """Add one row. With `labelled` its answer is a label, so that two different ones contradict each other."""
        self._held.extend((prompt, answer, line | part << _LINE_BITS | (_LABEL if labelled else 0)))
        if len(self._held) >= 3 * self._spill:
            self._flush()

    def add_rows(
        self,
        prompts: NDArray[np.uint64],
        answers: NDArray[np.uint64],
        lines: NDArray[np.uint64],
        labelled: NDArray[np.bool_],
        part: int,
    ) -> None:
        """Add many rows of one part, as `add` does one."""
        import numpy as np

        packed = lines | np.uint64(part << _LINE_BITS) | labelled * np.uint64(_LABEL)
        self.extend(np.stack((prompts, answers, packed), axis=1).tobytes())

    def extend(self, triples: bytes) -> None:
        """Add many rows, as returned by `pack`."""
        self._held.frombytes(triples)
        if len(self._held) >= 3 * self._spill:
            self._flush()

    @staticmethod
    def pack(rows: Sequence[tuple[int, int, int, bool]], part: int) -> bytes:
        """Pack (prompt, answer, line, labelled) of many rows of one part into bytes for `extend`."""
        packed = array("Q")
        for prompt, answer, line, labelled in rows:
            packed.extend((prompt, answer, line | part << _LINE_BITS | (_LABEL if labelled else 0)))
        return packed.tobytes()

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for each duplicate, contradiction and leak."""
        for table in self._read_tables():
            yield from self._find_repeats(table)
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

    def _read_tables(self) -> Iterator[NDArray[np.uint64]]:
        import numpy as np

        if not self._cuts:
            yield np.frombuffer(self._held, dtype=np.uint64).reshape(-1, 3)
            return
        self._flush()
        for cut in self._cuts:
            cut.seek(0)
            yield np.frombuffer(cut.read(), dtype=np.uint64).reshape(-1, 3)

    def _find_repeats(self, table: NDArray[np.uint64]) -> Iterator[Finding]:
        import numpy as np

        if len(table) < 2:
            return
        positions = table[:, 2] & np.uint64(
            _LABEL - 1
        )  # part, then line: the first row of a prompt is reported as the first
        order = np.lexsort((positions, table[:, 0]))
        prompts = table[order, 0]
        same = np.flatnonzero(prompts[1:] == prompts[:-1])
        if not len(same):
            return
        breaks = np.flatnonzero(np.diff(same) > 1)
        begins = same[np.concatenate(([0], breaks + 1))]
        ends = same[np.concatenate((breaks, [len(same) - 1]))] + 2
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            group = table[order[begin:end]].tolist()
            yield from self._compare([self._unpack(entry) for entry in group])

    def _unpack(self, entry: Sequence[int]) -> tuple[int, int, int, bool]:
        packed = entry[2]
        part = (packed & (_LABEL - 1)) >> _LINE_BITS
        return entry[1], packed & ((1 << _LINE_BITS) - 1), part, bool(packed & _LABEL)

    def _compare(self, rows: Sequence[tuple[int, int, int, bool]]) -> Iterator[Finding]:
        """Yield the findings of rows with the same prompt, which are sorted by part and line."""
        first_lines: dict[tuple[int, int], int] = {}
        first_of: dict[int, tuple[int, int, bool]] = {}
        for answer, line, part, labelled in rows:
            earlier = first_lines.get((part, answer))
            first = first_of.get(part)
            if earlier is not None:
                yield self._warn(
                    part, line, "duplicate-row", f"the row says the same as line {earlier}", "keep one of them"
                )
            elif first is not None and labelled and first[2]:
                yield self._warn(
                    part,
                    line,
                    "contradiction",
                    f"the prompt is that of line {first[1]}, and the label is another",
                    "decide for one label",
                )
            first_lines.setdefault((part, answer), line)
            if first is None:
                first_of[part] = (answer, line, labelled)
                for other_part, (_, where, _) in first_of.items():
                    if other_part != part:
                        yield self._warn(
                            part,
                            line,
                            "leakage",
                            f"the prompt is also in {self._roles[other_part]} ({self._files[other_part]}:{where})",
                            "take it out of one of them: a score on it says nothing",
                        )
                        break

    def _warn(self, part: int, line: int, code: str, message: str, remedy: str) -> Finding:
        return warning(code, message, remedy).at(self._files[part], line)


def hash_row(example: Any) -> tuple[int, int, bool]:
    """Return the keys of prompt and answer, and whether the answer is a label."""
    from llmtune.data.hashing import answer_text, digest, label_of, prompt_text

    return digest(prompt_text(example)), digest(answer_text(example)), label_of(example) is not None
