"""Checkpoints: complete or absent. Written under another name and renamed; all that a resume needs is inside.

    step-N/adapter/      the adapter at that step, in PEFT's layout (adapter full: model/)
    step-N/trainer.pt    the trained weights exactly (LoRA), the optimizer, and the counters

Of a model that is cut up each process writes its part, and nothing is gathered; any number of processes can resume:

    step-N/shard-R-of-P.pt    process R's part of the trained weights and of the optimizer's state
    step-N/trainer.pt         the counters

The position in the data and the random state are functions of seed and step, so only the step is stored.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune_local.models.loading import artefact_bytes, save_artefact
from llmtune_local.models.sharding import held, like, put
from llmtune_local.run_state.damage import DiskFull, is_full
from llmtune_local.training.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from llmtune_local.run_state.run_dir import RunDir
    from llmtune_local.training.distributed import WorkerGroup


def save(
    folder: RunDir, model: Any, tokenizer: Any, optimizer: torch.optim.Optimizer, progress: Progress, *, keep: int
) -> Path:
    """Write the checkpoint of this step and remove all but the newest `keep`. Raises `DiskFull`."""
    import torch

    final = folder.path / "checkpoints" / f"step-{progress.step}"
    is_full_model = not hasattr(model, "peft_config")

    def write(temporary: Path) -> None:
        save_artefact(model, tokenizer, temporary / ("model" if is_full_model else "adapter"))
        state = {
            "trained": None if is_full_model else trained_weights(model),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(progress),
        }
        torch.save(state, temporary / "trainer.pt")

    write_folder(final, write, needs=artefact_bytes(model) * 4)
    _remove_older(folder, progress.step, keep)
    return final


def _remove_older(folder: RunDir, current: int, keep: int) -> None:
    for step, path in list(folder.checkpoints().items())[:-keep]:
        if step != current:
            shutil.rmtree(path, ignore_errors=True)


def load(
    folder: RunDir,
    model: Any,
    optimizer: torch.optim.Optimizer,
    *,
    best: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Progress | None:
    """Load the newest complete checkpoint into model and optimizer; None where there is none.

    With `best` the weights of the best step must be there too; `report` is called with each checkpoint that cannot be
    used.
    """
    usable = folder.usable_checkpoints(best=best)
    for step in sorted(folder.checkpoints(), reverse=True):
        try:
            if step in usable:
                return _load_from(usable[step], model, optimizer)
            reason = "it is damaged" if not best else "it, or the best step's weights, are damaged"
        except Exception as problem:  # noqa: BLE001 - whatever a library breaks on, an older one may be complete
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
        report(f"the checkpoint of step {step} cannot be used ({reason})")
    return None


def save_shards(
    folder: RunDir, model: Any, optimizer: torch.optim.Optimizer, progress: Progress, group: WorkerGroup, *, keep: int
) -> None:
    """Write the checkpoint of this step of a model that is cut up; all processes must call this.

    Raises `DiskFull` in every process where one has no room.
    """
    import torch

    final = folder.path / "checkpoints" / f"step-{progress.step}"
    temporary = _temporary(final)
    if group.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    group.wait()
    problem: BaseException | None = None
    try:
        trained = {name: held(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}
        state = {"trained": trained, "optimizer": _held_state(optimizer.state_dict())}
        _check_room(temporary, final, artefact_bytes(model) * 4 // group.size)
        path = temporary / f"shard-{group.rank}-of-{group.size}.pt"
        torch.save(state, path)
        if group.is_main:
            torch.save({"progress": asdict(progress), "shards": group.size}, temporary / "trainer.pt")
            _flush(temporary / "trainer.pt")
        _flush(path)
    except Exception as error:  # noqa: BLE001 - the others wait to be told
        problem = error
    if group.any_rank(problem is not None):
        if group.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        if problem is None or is_full(problem):
            raise DiskFull(f"{final.parent}: no room for {final.name}") from problem
        raise problem
    if group.is_main:
        _replace(temporary, final)
        _remove_older(folder, progress.step, keep)
    group.wait()


def _held_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with what this process holds of each tensor."""
    by_parameter = {
        number: {name: held(value) for name, value in values.items()} for number, values in state["state"].items()
    }
    return {**state, "state": by_parameter}


def _load_from(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Read a checkpoint completely before it changes anything. The model, or the checkpoint's, may be cut up."""
    import torch

    state = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True)
    progress = Progress(**state["progress"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if "shards" in state:
        trained, saved = _join_shards(path, state["shards"], parameters)
    else:
        trained, saved = state["trained"], state["optimizer"]
        if trained is None:
            network: Any = type(model).from_pretrained(path / "model", dtype=torch.float32)
            trained = dict(network.named_parameters())
        for number, values in saved["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.ndim and value.shape == parameters[number].shape:
                    values[name] = like(parameters[number], value)
    restore_weights(model, trained)
    optimizer.load_state_dict(saved)
    return progress


def _join_shards(
    path: Path, count: int, parameters: Sequence[torch.nn.Parameter]
) -> tuple[Mapping[str, torch.Tensor], dict[str, Any]]:
    """Return the trained weights of a checkpoint that was written in parts, whole, and its optimizer's state as this
    process's part of it."""
    import torch

    parts = [
        torch.load(path / f"shard-{rank}-of-{count}.pt", map_location="cpu", weights_only=True, mmap=True)
        for rank in range(count)
    ]
    saved = parts[0]["optimizer"]

    def join(number: int, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            return value
        whole = torch.cat([part["optimizer"]["state"][number][name] for part in parts])
        return like(parameters[number], whole)

    states = {
        number: {name: join(number, name, value) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return _Joined([part["trained"] for part in parts]), {**saved, "state": states}


class _Joined(Mapping[str, Any]):
    """The tensors of several parts, put together one at a time."""

    def __init__(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        return torch.cat([part[name] for part in self._parts])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0])

    def __len__(self) -> int:
        return len(self._parts[0])


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the trained weights by name, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Restore weights that `trained_weights` returned; of a model that is cut up this process's part."""
    parameters = dict(model.named_parameters())
    for name in weights:
        put(parameters[name], weights[name])


def write_folder(final: Path, write: Callable[[Path], None], *, needs: int) -> None:
    """Let `write` fill a folder that appears under its name when it is complete. Raises `DiskFull`."""
    temporary = _temporary(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _check_room(temporary, final, needs)
        write(temporary)
        _flush(temporary)
    except BaseException as problem:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_full(problem):
            raise DiskFull(f"{final.parent}: no space left on the device while writing {final.name}") from problem
        raise
    _replace(temporary, final)


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.tmp")


def _check_room(folder: Path, final: Path, needs: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needs:
        raise DiskFull(f"{final.parent}: {_size(needs)} are needed to write {final.name} and {_size(free)} are free")


def _replace(temporary: Path, final: Path) -> None:
    if final.exists():  # the step was written by an earlier attempt
        shutil.rmtree(final)
    temporary.replace(final)


def _flush(folder: Path) -> None:
    """Flush a file, or all files of a folder, to disk before its renaming: a power cut must not leave a name without
    content."""
    for path in (folder, *folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
