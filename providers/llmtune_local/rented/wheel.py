"""A wheel of the llmtune that runs here, so that a rented machine trains with the same code. Nothing is built."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import zipfile
from base64 import urlsafe_b64encode
from functools import cache
from pathlib import Path

import llmtune
import llmtune_local

#: The distribution that is packed.
_DISTRIBUTION = "llmtune-sdk"
#: The oldest date that a zip file can hold: the same files give the same wheel.
_DATE = (1980, 1, 1, 0, 0, 0)
_SKIPPED = frozenset({"__pycache__"})


@cache
def pack_wheel() -> tuple[str, bytes]:
    """Return name and content of a wheel with the core and the local trainer, and this version's requirements."""
    version = llmtune.__version__
    name = f"{_DISTRIBUTION.replace('-', '_')}-{version}"
    files = {
        path: content for package in (llmtune, llmtune_local) for path, content in _read_package(package.__file__ or "")
    }
    info = f"{name}.dist-info"
    requirements = importlib.metadata.requires(_DISTRIBUTION) or []
    extras = importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {_DISTRIBUTION}",
        f"Version: {version}",
        *(f"Provides-Extra: {extra}" for extra in extras),
        *(f"Requires-Dist: {requirement}" for requirement in requirements),
    ]
    files[f"{info}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: llmtune\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = (
        b"[llmtune.providers]\nlocal = llmtune_local:LocalProvider\n\n"
        b"[llmtune.tokenizers]\nlocal = llmtune_local.models.loading:load_tokenizer\n"
    )
    record = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in sorted(files.items())]
    files[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in sorted(files.items()):
            wheel.writestr(zipfile.ZipInfo(path, _DATE), content, compress_type=zipfile.ZIP_DEFLATED)
    return f"{name}-py3-none-any.whl", buffer.getvalue()


def _read_package(init: str) -> list[tuple[str, bytes]]:
    root = Path(init).parent
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and not _SKIPPED & set(path.parts)]
    return [(path.relative_to(root.parent).as_posix(), path.read_bytes()) for path in paths]


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
