"""A job from what exists elsewhere: another trainer's configuration, or a job at a vendor."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder
from llmtune.errors import InvalidJob
from llmtune.importers import axolotl, llamafactory, trl
from llmtune.importers.keys import Imported, Keys, Line, refuse_existing

if TYPE_CHECKING:
    from llmtune.provider.protocol import Provider
    from llmtune.provider.types import RemoteJob

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
        LlmtuneError: the vendor does not know the id, or no method repeats its job; or a file that would be written is
            there already (nothing is fetched then). Training rows that are gone are a line with the way to supply them.
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
    if job.method not in source.METHODS:
        raise LlmtuneError(
            f"{job.id} at {title} is a {job.method} job, which no method of llmtune repeats",
            hint=f"the methods are {', '.join(source.METHODS)}",
        )
    name = re.sub(r"[^A-Za-z0-9]+", "-", job.name or "").strip("-")[:40].rstrip("-") or source.short_name(job.id)
    # Jobs of one name are common; the digest of the job's id keeps their files apart.
    folder = data / f"{name}-{source.digest(f'{title} {job.id}')}"
    files = {role: folder / f"{role}.jsonl" for role in job.files}
    gone = _fetch(found.provider, job.files, files, data, overwrite)
    train = files.get("train", folder / "train.jsonl")
    if "train" not in job.files:
        gone["train"] = "the job names none"
    known, refused = source.valid_hyperparameters(job.hyperparameters)
    made = TuningJob(
        name=name,
        dataset=DatasetSpec(
            train=str(train),
            validation=str(files["validation"]) if "validation" in files and "validation" not in gone else None,
        ),
        model={title: job.base},
        method=job.method,  # type: ignore[arg-type]
        hyperparameters=Hyperparameters.model_validate(known),
        seed=job.seed,
        tags=job.tags,
        provider_options={title: job.options} if job.options else {},
    )
    lines = [*_setting_lines(job, title, refused), *_file_lines(job, files, gone, train)]
    lines += [
        Line(
            key=key, value=value, word="left out", says=_RECORD.get(key) or f"what {title} tells of the job: no setting"
        )
        for key, value in job.record.items()
        if value not in (None, "", [], {})
    ]
    return Imported(job=made, source=f"{job.id} at {title}", lines=tuple(lines))


#: Keys of a vendor's record that are more than a note about the job, and why they do not come along.
_RECORD = {
    "integrations": "it is set in the new job: provider_options of a vendor that has them, or --track",
    "metadata": "the key by which llmtune finds its own runs: a new run has its own",
    "result_files": "the curves of the old job: they are not part of a new one",
}


def _setting_lines(job: RemoteJob, title: str, refused: Mapping[str, str]) -> Iterator[Line]:
    """What became of each setting of a vendor's job, under the vendor's own name where it is known."""
    yield Line(key="model", value=job.base, word="mapped", field=f"model.{title}")
    if job.method != "sft":
        yield Line(key="method", value=job.method, word="mapped", field="method")
    if job.name:
        yield Line(key="suffix or name", value=job.name, word="mapped", field="name")
    for name, value in job.hyperparameters.items():
        key = job.names.get(name, name)
        if name in refused:
            yield Line(key=key, value=value, word="left out", says=refused[name])
        else:
            yield Line(key=key, value=value, word="mapped", field=f"hyperparameters.{name}")
    for name, value in job.chosen.items():
        yield Line(key=name, value=value, word="left out", says=f"{title} chose it by itself: so will the new backend")
    for name, value in job.unmapped.items():
        yield Line(key=name, value=value, word="left out", says=f"{title}'s own: it has no name here")
    for name, value in job.options.items():
        yield Line(key=job.names.get(name, name), value=value, word="mapped", field=f"provider_options.{title}.{name}")
    if job.seed is not None:
        yield Line(key="seed", value=job.seed, word="mapped", field="seed")
    for name, value in job.tags.items():
        yield Line(key=f"metadata.{name}", value=value, word="mapped", field=f"tags.{name}")


def _file_lines(job: RemoteJob, files: Mapping[str, Path], gone: Mapping[str, str], train: Path) -> Iterator[Line]:
    for role, id in job.files.items():
        if role not in gone:
            yield Line(key=f"{role} file", value=id, word="mapped", field=f"dataset.{role}", says=str(files[role]))
    for role, reason in gone.items():
        remedy = f"; put your own copy of the rows at {train}" if role == "train" else ""
        yield Line(key=f"{role} file", value=job.files.get(role), word="left out", says=f"{reason}{remedy}")


def _fetch(
    provider: Provider, ids: Mapping[str, str], files: Mapping[str, Path], data: Path, overwrite: bool
) -> dict[str, str]:
    """Fetch a vendor's files into `files`, by role: all that are there, or none.

    Returns the files that the vendor has no more, each with its reason.
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
    with tempfile.TemporaryDirectory(dir=data, prefix=".fetched-") as place:
        for role, id in ids.items():
            try:
                fetched[role] = source.download(provider, id, role, Path(place))
            except TransientError:
                raise
            except VendorError as error:
                gone[role] = f"it could not be fetched: {scrub(error.message)}"
        check()  # fetching takes its time, and another import may have been faster
        for role, path in fetched.items():
            make_private_folder(files[role].parent)
            path.replace(files[role])
    return gone
