"""A tuned adapter as a folder that PEFT loads: the files that the service has written, under names that are checked."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from llmtune.errors import InvalidJob, TransientError, VendorError
from llmtune.provider import ModelRef
from llmtune.provider.http import DOWNLOAD_BYTES, DOWNLOAD_SECONDS, check_vendor_url
from llmtune_tinker.client import TinkerClient

#: Names that are written: weights as safetensors, configurations, tokenizers. Pickled weights run code when loaded.
_FILES = re.compile(r"[\w][\w.-]{0,120}\.(safetensors|json|jinja|txt|model)")
#: Hosts from which signed addresses may lead besides the service's own (object stores; unverified).
HOSTS = ("thinkingmachines.dev", "googleapis.com", "amazonaws.com", "r2.cloudflarestorage.com")


def export(client: TinkerClient, model: ModelRef, format: Literal["adapter", "merged"], into: Path) -> tuple[str, ...]:
    """Download the files of an adapter into the new folder `into`; return how to load it.

    Raises:
        InvalidJob: a merged model is wanted, or the folder is not empty.
        VendorError: the service has no files of this model, or none that PEFT loads.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InvalidJob(f"{into} is there already and is not empty", hint="name another folder with --out")
    if format == "merged":
        raise InvalidJob(
            "Tinker holds the adapter of this run, not a merged model",
            hint=f"use --format adapter, and merge it into {model.base} with PEFT's merge_and_unload",
        )
    address = model.data.get("files")
    if not address:
        raise VendorError(
            f"{client.name}: the service has written no files of {model.id}",
            hint="the run's events say why; Tinker's console can export it from its state",
        )
    urls = client.read_download_urls(str(address))
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".llmtune-export-") as folder:
        done = Path(folder) / "model"
        done.mkdir()
        left_out = _download_all(client, urls, done)
        missing = {"adapter_config.json", "adapter_model.safetensors"} - {path.name for path in done.iterdir()}
        if missing:
            raise VendorError(f"{client.name}: {address} has no {' and no '.join(sorted(missing))} among its files")
        if into.exists():
            into.rmdir()
        done.rename(into)
    base = f'AutoModelForCausalLM.from_pretrained("{model.base}")'
    notes = [f'load it: PeftModel.from_pretrained({base}, "{into.absolute()}")']
    if left_out:
        notes.append(f"left out, because loading them may run code or they are no model files: {', '.join(left_out)}")
    return tuple(notes)


def _download_all(client: TinkerClient, urls: Mapping[str, str], into: Path) -> list[str]:
    """Write the files that may be written; return the names of the others."""
    left_out = []
    for path, url in urls.items():
        name = PurePosixPath(path).name
        if not _FILES.fullmatch(name) or (into / name).exists():  # one name twice: the first stays
            left_out.append(name[:120])
            continue
        check_vendor_url(url, base=client.base_url, hosts=HOSTS)
        _download(client.name, name, url, into / name)
    return left_out


def _download(name: str, file: str, url: str, target: Path) -> None:
    import httpx

    size, deadline = 0, time.monotonic() + DOWNLOAD_SECONDS
    try:
        with httpx.stream("GET", url, timeout=60.0, follow_redirects=False) as answer, target.open("wb") as output:
            if answer.status_code != 200:
                raise VendorError(f"{name}: downloading {file}: HTTP {answer.status_code}", status=answer.status_code)
            for block in answer.iter_bytes(1 << 20):
                size += len(block)
                if size > DOWNLOAD_BYTES or time.monotonic() > deadline:
                    raise VendorError(f"{name}: the download of {file} does not end")
                output.write(block)
    except httpx.HTTPError as problem:
        raise TransientError(f"{name}: downloading {file}: {type(problem).__name__}: {problem}", sent=False) from None
