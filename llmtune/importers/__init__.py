"""A job from what exists elsewhere: another trainer's configuration, or a job at a vendor."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._private import make_private_folder
from llmtune.errors import InvalidJob
from llmtune.importers import axolotl, llamafactory, trl
from llmtune.importers.keys import Imported, Keys, Line, refuse_existing

if TYPE_CHECKING:
    from llmtune.provider.protocol import Provider

__all__ = ["Imported", "Line", "import_job"]

#: Trainers whose configurations are read: how they are called here, what marks them, and who reads them.
TRAINERS: dict[str, tuple[str, set[str], Callable[[Keys], Imported]]] = {
    "axolotl": ("Axolotl", axolotl.MARKS, axolotl.read),
    "llamafactory": ("LLaMA-Factory", llamafactory.MARKS, llamafactory.read),
    "trl": ("TRL", trl.MARKS, trl.read),
}


def import_job(
    source: str | os.PathLike[str],
    kind: str | None = None,
    *,
    data: str | os.PathLike[str] = "data",
    overwrite: bool = False,
) -> Imported:
    """A job from an Axolotl or LLaMA-Factory YAML, a TRL SFTConfig or DPOConfig (YAML or JSON), or a vendor's job.

    Args:
        source: the file; or a job's or tuned model's id at a vendor, or a run of the store.
        kind: axolotl, llamafactory, trl, or a provider's name; None recognises it.
        data: the folder into which a vendor's files are fetched; each job's are in a folder of their own there.
        overwrite: whether files that are there already are replaced.

    Raises:
        InvalidJob: the file is none of these, or asks for something no job expresses (its key is named).
        LlmtuneError: the vendor does not know the id, or its training rows are gone; or a file that would be written
            is there already (nothing is fetched then).
    """
    path = Path(source)
    if kind not in TRAINERS and not path.is_file():
        if path.suffix in (".yaml", ".yml", ".json"):
            raise InvalidJob(f"{path}: no such file", hint="give a trainer's configuration, or a job's id at a vendor")
        return _from_vendor(str(source), kind, Path(data).resolve(), overwrite)
    if path.suffix == ".py":
        raise InvalidJob(
            f"{path}: Python is not run, so what it configures cannot be read",
            hint="save the configuration from there: Path('sft.json').write_text(config.to_json_string())",
        )
    from llmtune.job.files import read_mapping

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


def _from_vendor(named: str, provider: str | None, data: Path, overwrite: bool) -> Imported:
    from llmtune.errors import LlmtuneError
    from llmtune.job.spec import DatasetSpec, Hyperparameters, TuningJob
    from llmtune.rescues import source
    from llmtune.runs.store.store import open_store

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
    name = re.sub(r"[^A-Za-z0-9-]+", "-", str(job.data.get("suffix") or job.id)).strip("-")[:60]
    # Jobs of one name are common; the digest of the job's id keeps their files apart.
    folder = data / f"{name}-{source.digest(f'{title} {job.id}')}"
    files = {role: folder / f"{role}.jsonl" for role in job.files}
    for role, id in job.files.items():
        lines.append(Line(key=f"{role} file", value=id, word="mapped", field=f"dataset.{role}", says=str(files[role])))
    if "train" not in files:
        raise LlmtuneError(f"{job.id} at {title} names no training file")
    spec = DatasetSpec(
        train=str(files["train"]),
        validation=str(files["validation"]) if "validation" in files else None,
    )
    made = TuningJob(
        name=name,
        dataset=spec,
        model={title: job.base},
        method=job.method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(job.hyperparameters),
        seed=job.seed,
    )
    _fetch(found.provider, job.files, files, data, overwrite)
    return Imported(job=made, source=f"{job.id} at {title}", lines=tuple(lines))


def _fetch(provider: Provider, ids: Mapping[str, str], files: Mapping[str, Path], data: Path, overwrite: bool) -> None:
    """Fetch a vendor's files into `files`, by role: all of them, or none."""
    from llmtune.rescues import source

    def check() -> None:
        for path in files.values():
            refuse_existing(path, overwrite, instead="name a job file in another folder with --out (in Python: data=)")

    check()
    make_private_folder(data)
    with tempfile.TemporaryDirectory(dir=data, prefix=".fetched-") as place:
        fetched = {role: source.download(provider, id, role, Path(place)) for role, id in ids.items()}
        check()  # fetching takes its time, and another import may have been faster
        for role, path in files.items():
            make_private_folder(path.parent)
            fetched[role].replace(path)
