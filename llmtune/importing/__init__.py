"""A job from what exists elsewhere: another trainer's configuration, or a job at a vendor."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidJob
from llmtune.importing import axolotl, llamafactory, trl
from llmtune.importing.reading import Imported, Keys, Line

__all__ = ["Imported", "Line", "import_job"]

#: Trainers whose configurations are read: how they are called here, what marks them, and who reads them.
TRAINERS: dict[str, tuple[str, set[str], Callable[[Keys], Imported]]] = {
    "axolotl": ("Axolotl", axolotl.MARKS, axolotl.read),
    "llamafactory": ("LLaMA-Factory", llamafactory.MARKS, llamafactory.read),
    "trl": ("TRL", trl.MARKS, trl.read),
}


def import_job(
    source: str | os.PathLike[str], kind: str | None = None, *, data: str | os.PathLike[str] = "data"
) -> Imported:
    """A job from an Axolotl or LLaMA-Factory YAML, a TRL SFTConfig or DPOConfig (YAML or JSON), or a vendor's job.

    Args:
        source: the file; or a job's or tuned model's id at a vendor, or a run of the store.
        kind: axolotl, llamafactory, trl, or a provider's name; None recognises it.
        data: the folder into which a vendor's files are fetched.

    Raises:
        InvalidJob: the file is none of these, or asks for something no job expresses (its key is named).
        LlmtuneError: the vendor does not know the id, or its training rows are gone.
    """
    path = Path(source)
    if kind not in TRAINERS and not path.is_file():
        if path.suffix in (".yaml", ".yml", ".json"):
            raise InvalidJob(f"{path}: no such file", hint="give a trainer's configuration, or a job's id at a vendor")
        return _from_vendor(str(source), kind, Path(data).resolve())
    if path.suffix == ".py":
        raise InvalidJob(
            f"{path}: Python is not run, so what it configures cannot be read",
            hint="save the configuration from there: Path('sft.json').write_text(config.to_json_string())",
        )
    from llmtune.jobfile import read_mapping

    config = read_mapping(path)
    name = kind or _recognise(config, path)
    if name not in TRAINERS:
        raise InvalidJob(f"{name!r} is none of {', '.join(TRAINERS)}", where="--from")
    title, _, read = TRAINERS[name]
    return read(Keys(config, path, title))


def _recognise(config: dict[str, Any], path: Path) -> str:
    """The tool whose own keys the configuration has."""
    found = {name: len(marks & set(config)) for name, (_, marks, _) in TRAINERS.items()}
    best = max(found, key=found.__getitem__)
    if not found[best] or list(found.values()).count(found[best]) > 1:
        raise InvalidJob(
            f"{path}: it cannot be told whose configuration this is", hint=f"say it: --from {'|'.join(TRAINERS)}"
        )
    return best


def _from_vendor(named: str, provider: str | None, data: Path) -> Imported:
    from llmtune.errors import LlmtuneError
    from llmtune.job import DatasetSpec, Hyperparameters, TuningJob
    from llmtune.rescuing import source
    from llmtune.runs.store import open_store

    found = source.find(named, provider, open_store())
    if found.record is not None:
        return Imported(job=found.record.tuning_job, source=f"run {found.record.id}")
    job = found.job
    assert job is not None
    title = found.provider.name
    lines = [
        Line(key=name, value=value, word="mapped", field=f"hyperparameters.{name}")
        for name, value in job.hyperparameters.items()
    ]
    lines += [
        Line(key=name, value=value, word="left out", says=f"{title}'s own: it has no name here")
        for name, value in job.unmapped.items()
    ]
    lines.append(Line(key="model", value=job.base, word="mapped", field=f"model.{title}"))
    if job.seed is not None:
        lines.append(Line(key="seed", value=job.seed, word="mapped", field="seed"))
    files = {}
    for role, id in job.files.items():
        files[role] = source.download(found.provider, id, role, data)
        lines.append(Line(key=f"{role} file", value=id, word="mapped", field=f"dataset.{role}", says=str(files[role])))
    if "train" not in files:
        raise LlmtuneError(f"{job.id} at {title} names no training file")
    spec = DatasetSpec(
        train=str(files["train"]),
        validation=str(files["validation"]) if "validation" in files else None,
    )
    made = TuningJob(
        name=re.sub(r"[^A-Za-z0-9-]+", "-", str(job.data.get("suffix") or job.id)).strip("-")[:60],
        dataset=spec,
        model={title: job.base},
        method=job.method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(job.hyperparameters),
        seed=job.seed,
    )
    return Imported(job=made, source=f"{job.id} at {title}", lines=tuple(lines))
