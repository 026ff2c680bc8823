"""Several processes that train one run, started by torchrun or Ray.

Every process cuts a step into the same micro-batches and takes its share of them. Each micro-batch's loss is divided by
the weight of the whole step, so the sum of all gradients is that of one process, however uneven the shares are; every
process then makes the same update. The first process is the main one: it alone writes the run folder and learns
whether to stop. Validation rows are shared out too.

A model that is cut up (`models.sharding`) sums its gradients itself, and every process must run as many micro-batches.
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
TIMEOUT = timedelta(hours=6)
#: Numbers in one message: gradients are added up piece by piece, so that no second copy of a whole model is made.
_CHUNK = 1 << 25


class WorkerGroupLost(Exception):
    """Another process of the group has ended; the run continues from its last checkpoint, in a new group."""


@dataclass(frozen=True)
class WorkerGroup:
    """The processes of one run. `rank` counts from 0, which is the main process."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this process reports for the run."""
        return self.rank == 0

    def share(self, batches: Sequence[_Batch]) -> list[_Batch]:
        """Return this process's micro-batches of a step."""
        return list(batches[self.rank :: self.size])

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the main process's flag in every process."""
        return bool(self._combine_flags(flag, first=True))

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.size == 1 else bool(self._combine_flags(flag, first=False))

    def _combine_flags(self, flag: bool, *, first: bool) -> float:
        if self.size == 1:
            return flag
        import torch
        from torch import distributed

        tensor = torch.tensor(float(flag), device=_collective_device())
        with lost_process_reported():
            if first:
                distributed.broadcast(tensor, src=0)
            else:
                distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
            return float(tensor)

    def sum_values(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum values over all processes."""
        return self.all_reduce_gradients((), values)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any_rank(False)

    def all_reduce_gradients(
        self, parameters: Sequence[torch.nn.Parameter], values: Mapping[str, float]
    ) -> dict[str, float]:
        """Sum gradients, in place, and values over all processes."""
        if self.size == 1:
            return dict(values)
        import torch
        from torch import distributed

        for parameter in parameters:  # a process without micro-batches has none
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sums = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=_collective_device())
        with lost_process_reported():
            for piece in _chunk_tensors([parameter.grad for parameter in parameters]):
                flat = torch.cat([grad.reshape(-1) for grad in piece])
                distributed.all_reduce(flat)
                parts = torch.split(flat, [grad.numel() for grad in piece])
                for grad, part in zip(piece, parts, strict=True):
                    grad.copy_(part.view_as(grad))
            distributed.all_reduce(sums)
            return dict(zip(sorted(values), sums.tolist(), strict=True))

    def close(self) -> None:
        """Leave the process group at the end of the run."""
        if self.size > 1:
            from torch import distributed

            with contextlib.suppress(Exception):
                distributed.destroy_process_group()


#: A run in one process.
ALONE = WorkerGroup()


def check_worker_group(options: WorkerOptions, device: str) -> None:
    """Refuse more processes than this device has room for. Raises `InvalidJob`, `DeviceUnavailable`."""
    if options.processes == 1 or options.launcher == "ray":  # a cluster's devices are not those here
        return
    if device == "mps":
        raise InvalidJob("several processes need CUDA devices or the CPU, not mps", where="processes")
    if device == "cuda":
        import torch

        here = options.processes // options.nodes
        if (there := torch.cuda.device_count()) < here:
            on = " on each of the nodes" if options.nodes > 1 else ""
            raise DeviceUnavailable(
                f"{here} processes{on} need as many CUDA devices and there are {there}",
                hint=f"set processes to {there * options.nodes}, or device to cpu",
            )


def join(options: WorkerOptions, device: str) -> WorkerGroup:
    """Join the other processes, as the launcher names them in the environment.

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
        with lost_process_reported():
            distributed.init_process_group(choose_backend(options, device), timeout=TIMEOUT)
    return WorkerGroup(distributed.get_rank(), distributed.get_world_size())


def choose_backend(options: WorkerOptions, device: str) -> str:
    """Return torch's name of what the processes talk by: with `offload` parts in RAM are summed too."""
    if device != "cuda":
        return "gloo"
    return "cpu:gloo,cuda:nccl" if options.offload else "nccl"


def end_with_parent() -> None:
    """Have this process killed when its parent dies, so that no process trains on alone (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _collective_device() -> str:
    from torch import distributed

    return "cuda" if "nccl" in distributed.get_backend() else "cpu"


@contextlib.contextmanager
def lost_process_reported(*, among_others: bool = False) -> Iterator[None]:
    """Raise `WorkerGroupLost` where a collective operation fails; `among_others` where other things are done too, whose
    errors are not to be taken for one."""
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as problem:  # a connection that closed, whatever the backend calls it
        if among_others and not isinstance(problem, DistError) and "gloo" not in str(problem):
            raise
        raise WorkerGroupLost(str(problem).splitlines()[0]) from problem


def _chunk_tensors(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield neighbours of one dtype, `_CHUNK` numbers or one tensor at a time."""
    piece: list[Any] = []
    count = 0
    for tensor in tensors:
        if piece and (count + tensor.numel() > _CHUNK or tensor.dtype != piece[0].dtype):
            yield piece
            piece, count = [], 0
        piece.append(tensor)
        count += tensor.numel()
    if piece:
        yield piece
