"""Several processes that train one run, started by torchrun or Ray.

Every process cuts a step into the same micro-batches and takes its share of them. Each micro-batch's loss is divided by
the weight of the whole step, so the sum of all gradients is that of one process, however uneven the shares are; every
process then makes the same update. The first one speaks for the run: it alone evaluates, writes the run folder and
hears whether to stop.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from llmtune.errors import DeviceUnavailable, InvalidJob

if TYPE_CHECKING:
    import torch

    from llmtune_local.run_state.schema import WorkerOptions

_Batch = TypeVar("_Batch")

#: How long one process waits for the others: the first may be evaluating, or writing a large model.
PATIENCE = timedelta(hours=6)
#: Numbers in one message: gradients are added up piece by piece, so that no second copy of a whole model is made.
_PIECE = 1 << 25


class TeamLost(Exception):
    """Another process of the team has ended; the run goes on from its last checkpoint, in a new team."""


@dataclass(frozen=True)
class Team:
    """The processes of one run. `rank` counts from 0, which leads."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process speaks for the run."""
        return self.rank == 0

    def share(self, batches: Sequence[_Batch]) -> list[_Batch]:
        """This process's micro-batches of a step."""
        return list(batches[self.rank :: self.size])

    def agree(self, said: bool) -> bool:
        """What the first process says, for all."""
        return bool(self._told(said, first=True))

    def anyone(self, said: bool) -> bool:
        """Whether any process says so."""
        return said if self.size == 1 else bool(self._told(said, first=False))

    def _told(self, said: bool, *, first: bool) -> float:
        if self.size == 1:
            return said
        import torch
        from torch import distributed

        word = torch.tensor(float(said), device=_place())
        with _together():
            if first:
                distributed.broadcast(word, src=0)
            else:
                distributed.all_reduce(word, op=distributed.ReduceOp.MAX)
            return float(word)

    def add_up(self, parameters: Sequence[torch.nn.Parameter], values: Mapping[str, float]) -> dict[str, float]:
        """Add up gradients, in place, and values over all processes."""
        if self.size == 1:
            return dict(values)
        import torch
        from torch import distributed

        for parameter in parameters:  # a process without micro-batches has none
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sums = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=_place())
        with _together():
            for piece in _pieces([parameter.grad for parameter in parameters]):
                flat = torch.cat([grad.reshape(-1) for grad in piece])
                distributed.all_reduce(flat)
                parts = torch.split(flat, [grad.numel() for grad in piece])
                for grad, part in zip(piece, parts, strict=True):
                    grad.copy_(part.view_as(grad))
            distributed.all_reduce(sums)
            return dict(zip(sorted(values), sums.tolist(), strict=True))

    def leave(self) -> None:
        """The run is over."""
        if self.size > 1:
            from torch import distributed

            with contextlib.suppress(Exception):
                distributed.destroy_process_group()


#: A run in one process.
ALONE = Team()


def check_team(options: WorkerOptions, device: str) -> None:
    """Refuse a team that this device cannot seat. Raises `InvalidJob`, `DeviceUnavailable`."""
    if options.processes == 1 or options.launcher == "ray":  # a cluster's devices are not those here
        return
    if device == "mps":
        raise InvalidJob("several processes need CUDA devices or the CPU, not mps", where="processes")
    if device == "cuda":
        import torch

        if (there := torch.cuda.device_count()) < options.processes:
            raise DeviceUnavailable(
                f"{options.processes} processes need as many CUDA devices and there are {there}",
                hint=f"set processes to {there}, or device to cpu",
            )


def join(options: WorkerOptions, device: str) -> Team:
    """Find the others, as the launcher has told it in the environment.

    Raises `InvalidJob` where another number of processes was started than was asked for.
    """
    if options.processes == 1:
        return ALONE
    import torch
    from torch import distributed

    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != options.processes:
        raise InvalidJob(f"{options.processes} processes were asked for and {started} started", where="processes")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():  # Ray has done it already
        with _together():
            distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return Team(distributed.get_rank(), distributed.get_world_size())


def end_with_parent() -> None:
    """Have this process killed when the one that started it dies, so that nobody trains on alone (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _place() -> str:
    from torch import distributed

    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as problem:  # a connection that closed, whatever the backend calls it
        raise TeamLost(str(problem).splitlines()[0]) from problem


def _pieces(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    """Neighbours of one kind, `_PIECE` numbers or one tensor at a time."""
    piece: list[Any] = []
    count = 0
    for tensor in tensors:
        if piece and (count + tensor.numel() > _PIECE or tensor.dtype != piece[0].dtype):
            yield piece
            piece, count = [], 0
        piece.append(tensor)
        count += tensor.numel()
    if piece:
        yield piece
