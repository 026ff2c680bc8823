"""Which rows a step has: a permutation that is a pure function of seed and epoch.

So any step can be taken up again by its number. Needs neither torch nor numpy.
"""

from __future__ import annotations

import functools
import random
from array import array


@functools.lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> array[int]:
    """Return the permutation of an epoch (counted from 0): four bytes a row."""
    indices = array("I", range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(indices)
    return indices


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of steps; the last one of an epoch may have fewer rows."""
    return -(-rows // batch_size)


def rows_of_step(rows: int, batch_size: int, seed: int, step: int) -> tuple[int, ...]:
    """Return the rows of a step (counted from 0) of a run."""
    epoch, within = divmod(step, steps_per_epoch(rows, batch_size))
    return tuple(epoch_order(rows, seed, epoch)[within * batch_size : (within + 1) * batch_size])
