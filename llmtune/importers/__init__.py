"""Importing jobs: from another trainer's configuration, or from a job at a vendor."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder
from llmtune.errors import InvalidJob
from llmtune.importers import axolotl, litgpt, llamafactory, trl
from llmtune.importers.keys import Imported, ImportLine, Keys, refuse_existing

if TYPE_CHECKING:
    from llmtune.provider.protocol import Provider
    from llmtune.provider.types import RemoteJob

__all__ = ["ImportLine", "Imported", "import_job"]

#: Trainers whose configurations are read, by `kind`: their name, keys that only they have, and their reader.
TRAINERS: dict[str, tuple[str, set[str], Callable[[Keys], Imported]]] = {
    "axolotl": ("Axolotl", axolotl.MARKS, axolotl.read),
    "llamafactory": ("LLaMA-Factory", llamafactory.MARKS, llamafactory.read),
    "litgpt": ("LitGPT", litgpt.MARKS, litgpt.read),
    "trl": ("TRL", trl.MARKS, trl.read),
}


def import_job(
    source: str | os.PathLike[str],
    kind: str | None = None,
    *,
    data: str | os.PathLike[str] = "data",
    overwrite: bool = False,
) -> Imported:
    """Import a job from another trainer's configuration, or from a job at a vendor.

    The trainers: Axolotl, LLaMA-Factory and LitGPT (YAML), and TRL (an SFTConfig or DPOConfig as YAML or JSON).

    Args:
        source: the file; LitGPT's command line ("litgpt finetune_lora ..."); or a job's or tuned model's id at a
            vendor, or a run of the store.
        kind: axolotl, llamafactory, litgpt, trl, or a provider's name; None recognises it.
        data: the folder into which a vendor's files are fetched; each job has a folder of its own there.
        overwrite: whether existing files are replaced.

    Raises:
        InvalidJob: the file is none of these, or sets something that no job can express (its key is named).
        LlmtuneError: the vendor does not know the id, or no method repeats its job; or a file that would be written
            exists already (nothing is fetched then). Training rows that the vendor no longer has are no error, but a
            line that says where to put them.
    """
    if kind in (None, "litgpt") and str(source).startswith("litgpt "):
        config, path = litgpt.parse_command(str(source))
        return litgpt.read(Keys(config, path, TRAINERS["litgpt"][0]))
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
    """Return the kind of the trainer whose own keys the configuration has. Raises `InvalidJob` if unclear."""
    hits = {name: len(marks & set(config)) for name, (_, marks, _) in TRAINERS.items()}
    best = max(hits, key=hits.__getitem__)
    if not hits[best] or list(hits.values()).count(hits[best]) > 1:
        raise InvalidJob(
            f"{path}: its keys do not show which trainer this configuration is for",
            hint=f"name it: --from {'|'.join(TRAINERS)}",
        )
    return best


def _from_vendor(named: str, provider: str | None, data: Path, overwrite: bool) -> Imported:
    from llmtune.errors import LlmtuneError
    from llmtune.job.spec import DatasetSpec, Hyperparameters, TuningJob
    from llmtune.rescues import source
    from llmtune.runs.store.store import open_store

    origin = source.find(named, provider, open_store())
    if origin.record is not None:
        return Imported(job=origin.record.tuning_job, source=f"run {origin.record.id}")
    job = origin.job
    assert job is not None
    title = origin.provider.name
    if job.method not in source.METHODS:
        raise LlmtuneError(
            f"{job.id} at {title} is a {job.method} job, which llmtune does not repeat",
            hint=f"it repeats {', '.join(source.METHODS)}",
        )
    name = re.sub(r"[^A-Za-z0-9]+", "-", job.name or "").strip("-")[:40].rstrip("-") or source.short_name(job.id)
    # Jobs of one name are common; the digest of the job's id keeps their files apart.
    folder = data / f"{name}-{source.digest(f'{title} {job.id}')}"
    files = {role: folder / f"{role}.jsonl" for role in job.files}
    gone = _fetch(origin.provider, job.files, files, data, overwrite)
    train = files.get("train", folder / "train.jsonl")
    if "train" not in job.files:
        gone["train"] = "the job names none"
    valid, refused = source.valid_hyperparameters(job.hyperparameters)
    imported = TuningJob(
        name=name,
        dataset=DatasetSpec(
            train=str(train),
            validation=str(files["validation"]) if "validation" in files and "validation" not in gone else None,
        ),
        model={title: job.base},
        method=job.method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(valid),
        seed=job.seed,
        tags=job.tags,
        provider_options={title: job.options} if job.options else {},
    )
    lines = [*_list_settings(job, title, refused), *_list_files(job, files, gone, train)]
    lines += [
        ImportLine(
            key=key,
            value=value,
            word="left out",
            says=_RECORD.get(key) or f"information of {title} about the job, not a setting",
        )
        for key, value in job.record.items()
        if value not in (None, "", [], {})
    ]
    return Imported(job=imported, source=f"{job.id} at {title}", lines=tuple(lines))


#: Keys of a vendor's record that are more than a note about the job, and why they are not imported.
_RECORD = {
    "integrations": "it is set in the new job: provider_options of a vendor that has them, or --track",
    "metadata": "the key by which llmtune finds its own runs: a new run has its own",
    "result_files": "the curves of the old job: they are not part of a new one",
}


def _list_settings(job: RemoteJob, title: str, refused: Mapping[str, str]) -> Iterator[ImportLine]:
    """Yield a line per setting of a vendor's job, under the vendor's own name where it is known."""
    yield ImportLine(key="model", value=job.base, word="mapped", field=f"model.{title}")
    if job.method != "sft":
        yield ImportLine(key="method", value=job.method, word="mapped", field="method")
    if job.name:
        yield ImportLine(key="suffix or name", value=job.name, word="mapped", field="name")
    for name, value in job.hyperparameters.items():
        key = job.names.get(name, name)
        if name in refused:
            yield ImportLine(key=key, value=value, word="left out", says=refused[name])
        else:
            yield ImportLine(key=key, value=value, word="mapped", field=f"hyperparameters.{name}")
    for name, value in job.chosen.items():
        yield ImportLine(
            key=name, value=value, word="left out", says=f"{title} chose it by itself: so will the new backend"
        )
    for name, value in job.unmapped.items():
        yield ImportLine(key=name, value=value, word="left out", says=f"{title}'s own: it has no name here")
    for name, value in job.options.items():
        yield ImportLine(
            key=job.names.get(name, name), value=value, word="mapped", field=f"provider_options.{title}.{name}"
        )
    if job.seed is not None:
        yield ImportLine(key="seed", value=job.seed, word="mapped", field="seed")
    for name, value in job.tags.items():
        yield ImportLine(key=f"metadata.{name}", value=value, word="mapped", field=f"tags.{name}")


def _list_files(
    job: RemoteJob, files: Mapping[str, Path], gone: Mapping[str, str], train: Path
) -> Iterator[ImportLine]:
    for role, id in job.files.items():
        if role not in gone:
            yield ImportLine(
                key=f"{role} file", value=id, word="mapped", field=f"dataset.{role}", says=str(files[role])
            )
    for role, reason in gone.items():
        remedy = f"; put your own copy of the rows at {train}" if role == "train" else ""
        yield ImportLine(key=f"{role} file", value=job.files.get(role), word="left out", says=f"{reason}{remedy}")


def _fetch(
    provider: Provider, ids: Mapping[str, str], files: Mapping[str, Path], data: Path, overwrite: bool
) -> dict[str, str]:
    """Fetch a vendor's files into `files`, by role: all that the vendor still has, or none.

    Returns the reasons of the files that could not be fetched, by role.
    """
    from llmtune.errors import TransientError, VendorError
    from llmtune.redaction.secrets import scrub
    from llmtune.rescues import source

    def check() -> None:
        for path in files.values():
            refuse_existing(path, overwrite, instead="name a job file in another folder with --out (in Python: data=)")

    check()
    make_private_folder(data)
    gone: dict[str, str] = {}
    fetched: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(dir=data, prefix=".fetched-") as folder:
        for role, id in ids.items():
            try:
                fetched[role] = source.download(provider, id, role, Path(folder))
            except TransientError:
                raise
            except VendorError as error:
                gone[role] = f"it could not be fetched: {scrub(error.message)}"
        check()  # again: another import may have written them meanwhile
        for role, path in fetched.items():
            make_private_folder(files[role].parent)
            path.replace(files[role])
    return gone
