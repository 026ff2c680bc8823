"""The wheel that goes to the machine holds what trains, and says what it needs."""

from __future__ import annotations

import io
import zipfile

from llmtune_local.rented.wheel import pack_wheel


def test_the_wheel_is_complete_and_the_same_each_time() -> None:
    name, content = pack_wheel()
    assert name.startswith("llmtune_sdk-")
    assert name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        names = wheel.namelist()
        info = f"{name.removesuffix('-py3-none-any.whl')}.dist-info"
        metadata = wheel.read(f"{info}/METADATA").decode()
        record = wheel.read(f"{info}/RECORD").decode().splitlines()
    assert {"llmtune/__init__.py", "llmtune_local/rented/entry.py", "llmtune_local/tiny/model.safetensors"} <= set(
        names
    )
    assert not any("__pycache__" in name for name in names)
    assert len(record) == len(names)
    assert "Requires-Dist: torch>=2.6; extra == 'local'" in metadata.replace('"', "'")
    pack_wheel.cache_clear()
    assert pack_wheel() == (name, content)
