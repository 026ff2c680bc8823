"""Checkpoints: complete or absent. Written under another name and renamed; all that a resume needs is inside.

    step-N/adapter/      the adapter at that step, in PEFT's layout (adapter full: model/)
    step-N/trainer.pt    the trained weights exactly (LoRA), the optimizer, and the counters

The position in the data and the random state are functions of seed and step, so only the step is stored.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune_local.models.loading import artefact_bytes, save_artefact
from llmtune_local.run_state.damage import DiskFull, is_full
from llmtune_local.training.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from llmtune_local.run_state.run_dir import RunDir


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
    for step, path in list(folder.checkpoints().items())[:-keep]:
        if step != progress.step:
            shutil.rmtree(path, ignore_errors=True)
    return final


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


def _load_from(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Read a checkpoint completely before it changes anything."""
    import torch

    state = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True)
    progress = Progress(**state["progress"])
    if state["trained"] is not None:
        restore_weights(model, state["trained"])
    else:
        saved: Any = type(model).from_pretrained(path / "model", dtype=torch.float32)
        model.load_state_dict(saved.state_dict())
    optimizer.load_state_dict(state["optimizer"])
    return progress


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the trained weights by name, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Restore weights that `trained_weights` returned."""
    import torch

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)


def write_folder(final: Path, write: Callable[[Path], None], *, needs: int) -> None:
    """Let `write` fill a folder that appears under its name when it is complete. Raises `DiskFull`."""
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        free = shutil.disk_usage(temporary).free
        if free < needs:
            raise DiskFull(
                f"{final.parent}: {_size(needs)} are needed to write {final.name} and {_size(free)} are free"
            )
        write(temporary)
        _flush(temporary)
    except BaseException as problem:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_full(problem):
            raise DiskFull(f"{final.parent}: no space left on the device while writing {final.name}") from problem
        raise
    if final.exists():  # the step was written by an earlier attempt
        shutil.rmtree(final)
    temporary.replace(final)


def _flush(folder: Path) -> None:
    """Flush all files of a folder to disk before its renaming: a power cut must not leave a name without content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
