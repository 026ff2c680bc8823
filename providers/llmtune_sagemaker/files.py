"""Datasets and weights in S3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from llmtune.errors import InvalidJob, VendorError
from llmtune.provider import join_within_bounds
from llmtune_bedrock import files

#: The names of a model's files. Pickled weights (.bin) run code when they are loaded.
_FILES = re.compile(
    r"adapter_config\.json|(adapter_)?model[\w.-]*\.safetensors(\.index\.json)?|(generation_)?config\.json"
    r"|(tokenizer|vocab|merges|special_tokens_map|added_tokens|chat_template|preprocessor_config|sentencepiece)[\w.-]*"
    r"\.(json|jinja|txt|model)|(vocab|merges)\.(json|txt)"
)
#: What makes a folder an adapter, and what a whole model.
_MARKS = {"adapter": "adapter_config.json", "merged": "config.json"}

Form = Literal["adapter", "merged"]


class S3(files.S3):
    """The bucket of one configured instance, as in Bedrock's package, with weights."""

    def read(self, uri: str) -> bytes:
        """Return the content of a small object."""
        bucket, key = self.parse(uri)
        with self.sdk.translate_errors(f"reading {uri}"):
            body = self.sdk.s3.get_object(Bucket=bucket, Key=key)["Body"]
            return join_within_bounds(body.iter_chunks(65536))

    def find_weights(self, artefacts: str) -> dict[Form, dict[str, int]]:
        """Return the folders with weights under an address: for each form the keys of its files, with their bytes.

        The folders of one form are looked through from the top; the first is taken.
        """
        folders: dict[str, dict[str, int]] = {}
        for key, size in self._list(artefacts):
            folder, _, name = key.rpartition("/")
            if _FILES.fullmatch(name):
                folders.setdefault(folder, {})[key] = size
        found: dict[Form, dict[str, int]] = {}
        for folder in sorted(folders, key=lambda folder: (folder.count("/"), folder)):
            names = {key.rpartition("/")[2] for key in folders[folder]}
            if not any(name.endswith(".safetensors") for name in names):
                continue
            if _MARKS["adapter"] in names:
                found.setdefault("adapter", folders[folder])
            elif _MARKS["merged"] in names:
                found.setdefault("merged", folders[folder])
        return found

    def _list(self, uri: str) -> Iterator[tuple[str, int]]:
        bucket, prefix = self.parse(uri)
        folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        with self.sdk.translate_errors(f"listing {uri}"):
            for page in self.sdk.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
                for entry in page.get("Contents", []):
                    yield str(entry["Key"]), int(entry["Size"])

    def fetch_weights(self, artefacts: str, form: Form | None, into: Path) -> Form:
        """Download a model's files into a folder, which is made; return whether it is an adapter or a whole model.

        Args:
            artefacts: address under which they lie.
            form: which of the two; None takes the adapter where there is one.
            into: the folder. Files that are there already, of the right size, are kept.

        Raises:
            VendorError: there are no such weights, or not all of a file came.
        """
        weights = self.find_weights(artefacts)
        chosen = form or next((each for each in ("adapter", "merged") if each in weights), None)
        if chosen is None or chosen not in weights:
            there = f"; it holds {' and '.join(weights)} weights" if weights else ""
            raise VendorError(f"{artefacts} holds no {form or 'adapter or whole'} weights as safetensors{there}")
        bucket, _ = self.parse(artefacts)
        into.mkdir(parents=True, exist_ok=True)
        for key, size in weights[chosen].items():
            path = into / key.rpartition("/")[2]
            if path.is_file() and path.stat().st_size == size:
                continue
            self.fetch(bucket, key, path)
            if path.stat().st_size != size:
                raise VendorError(f"{self.uri(bucket, key)} came with {path.stat().st_size} of its {size} bytes")
        return chosen


def check_empty(into: Path) -> None:
    """Raise `InvalidJob` for a folder that holds something already."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InvalidJob(f"{into} is not empty: name a new folder, or empty it")
