"""The private bucket. Its contents move by Xet, which hf_xet speaks; what is where is asked over HTTP.

Routes and bodies are those of huggingface_hub 2.4.0 (`create_bucket`, `list_bucket_tree`, `_batch_bucket_files`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llmtune.config import read_secret
from llmtune.errors import TransientError, VendorError
from llmtune.provider import Requirement
from llmtune.provider.http import Client
from llmtune_local.rented.vendor import StoredFile

HF_XET = Requirement(extra="hfjobs", module="hf_xet", distribution="hf-xet")


class Bucket:
    """One bucket of an account, NAMESPACE/NAME."""

    def __init__(self, client: Client, id: str, *, key_env: str) -> None:
        self.client, self.id, self._key_env = client, id, key_env

    def make(self) -> None:
        """Make the bucket, private, unless it is there."""
        try:
            self.client.send("POST", f"/api/buckets/{self.id}", {"visibility": "private"}, safe=True)
        except TransientError:
            raise
        except VendorError as refused:
            if refused.status != 409:
                raise

    def check_private(self) -> None:
        """Raise `VendorError` for a bucket that is not private: rows must not go there."""
        answer = self.client.get(f"/api/buckets/{self.id}")
        facts = answer if isinstance(answer, dict) else {}
        if not (facts.get("private") is True or facts.get("visibility") == "private"):
            raise VendorError(f"the bucket {self.id} is not private", hint="make it private, or name another one")

    def list(self, folder: str) -> Sequence[StoredFile]:
        """Return the files below a folder."""
        try:
            path = f"/api/buckets/{self.id}/tree/{quote(folder, safe='')}?recursive=true"
            entries = list_entries(self.client, path, "the bucket's files")
        except TransientError:
            raise
        except VendorError as refused:
            if refused.status == 404:
                return ()
            raise
        return [
            StoredFile(path=str(entry["path"]), size=int(entry["size"]), version=str(entry["xetHash"]))
            for entry in entries
            if isinstance(entry, dict)
            and entry.get("type") == "file"
            and isinstance(entry.get("size"), int)
            and "xetHash" in entry
            # What lies beside the folder is not asked for: what is listed is also removed.
            and str(entry.get("path")).startswith(f"{folder}/")
        ]

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        """Upload files, then enter them under their paths."""
        HF_XET.require("storing files in a bucket")
        from hf_xet import SKIP_SHA256, XetSession

        with _xet("storing files in the bucket"):
            with XetSession().new_upload_commit(**self._connection("write")) as commit:
                uploads = [
                    (
                        path,
                        commit.start_upload_bytes(content, sha256=SKIP_SHA256)
                        if isinstance(content, bytes)
                        else commit.start_upload_file(str(content), sha256=SKIP_SHA256),
                    )
                    for path, content in files.items()
                ]
            hashes = {path: upload.result().xet_info.hash for path, upload in uploads}
        moment = round(time.time() * 1000)
        self._batch(
            [{"type": "addFile", "path": path, "xetHash": hash, "mtime": moment} for path, hash in hashes.items()]
        )

    def fetch(self, files: Mapping[StoredFile, Path]) -> None:
        """Download files; each appears under its name when all of it is there.

        What an earlier call had whole before it was broken off is not fetched again: a large model takes longer than
        one poll may.
        """
        HF_XET.require("fetching files of a bucket")
        from hf_xet import XetFileInfo, XetSession

        parts = [(path.with_name(f".{path.name}.part"), path, file.size) for file, path in files.items()]
        with _xet("fetching files of the bucket"):
            missing: list[tuple[StoredFile, Path]] = []
            for file, (part, _, size) in zip(files, parts, strict=True):
                if not size:
                    part.write_bytes(b"")
                elif not _has_content(part, file):
                    missing.append((file, part))
            if missing:
                with XetSession().new_file_download_group(**self._connection("read")) as group:
                    for file, part in missing:
                        group.start_download_file(XetFileInfo(file.version, file.size), str(part))
        for part, path, size in parts:
            if not part.is_file() or part.stat().st_size != size:
                raise TransientError(f"{path.name} did not come whole from the bucket {self.id}", sent=True)
        for part, path, _ in parts:
            part.chmod(0o600)
            part.replace(path)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files. What is not there is left out, for the service refuses it."""
        if not paths:
            return
        there = self.client.send("POST", f"/api/buckets/{self.id}/paths-info", {"paths": list(paths)}, safe=True)
        names = [entry["path"] for entry in there if isinstance(entry, dict) and "path" in entry]
        if names:
            self._batch([{"type": "deleteFile", "path": name} for name in names])

    def _batch(self, operations: Sequence[Mapping[str, Any]]) -> None:
        body = b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)
        headers = {"Content-Type": "application/x-ndjson"}
        answer = self.client.send("POST", f"/api/buckets/{self.id}/batch", body, headers=headers, safe=True)
        failed = answer.get("failed") if isinstance(answer, dict) else None
        if failed:
            first = failed[0] if isinstance(failed, list) else failed
            file, why = (first.get("path"), first.get("error")) if isinstance(first, dict) else ("a file", first)
            raise VendorError(f"the bucket {self.id} refused {file}: {why}")

    def _connection(self, kind: str) -> dict[str, Any]:
        token = read_secret(self._key_env)
        return {
            "token_refresh_url": f"{self.client.base}/api/buckets/{self.id}/xet-{kind}-token",
            "token_refresh_headers": {"authorization": f"Bearer {token}"} if token else {},
        }


def list_entries(client: Client, path: str, what: str) -> list[Any]:
    """Return the entries of all pages of a list. Raises `TransientError` for a page that is no list of `what`."""
    entries: list[Any] = []
    for page in client.get_pages(path):
        if not isinstance(page, list):
            raise TransientError(f"the list of {what} could not be read", sent=True, raw=str(page)[:200])
        entries += page
    return entries


def _has_content(path: Path, file: StoredFile) -> bool:
    """Return whether a file here has the content of one in the bucket."""
    from hf_xet import hash_files

    if not path.is_file() or path.stat().st_size != file.size:
        return False
    (hashed,) = hash_files([str(path)])
    return bool(hashed.hash == file.version)


@contextmanager
def _xet(action: str) -> Iterator[None]:
    """Turn what hf_xet raises inside into an error of ours."""
    import hf_xet

    try:
        yield
    except hf_xet.XetAuthenticationError as refused:
        raise VendorError(f"the service refuses the token ({action})", status=403) from refused
    except (hf_xet.XetObjectNotFoundError, RuntimeError, OSError) as broken:
        raise TransientError(f"{action} broke: {broken}", sent=True) from broken
