"""A large file goes through the endpoint in parts, and its memory does not grow with it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llmtune.testing.generic_vendor import Fake
from tests.llmtune.server.tuning.conftest import KEY
from tests.system.tuning.memory import peak_memory, reset_peak, write_rows
from tests.system.tuning.test_crash import Endpoint

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
MEGABYTE = 1 << 20


@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")
def test_64_mb_in_parts_take_no_memory(vendor: Fake, own_home: Path, tmp_path: Path) -> None:
    names = ("LLMTUNE_HOME", "LLMTUNE_CONFIG", "LLMTUNE_CATALOG", "LLMTUNE_SERVE_KEY", "LLMTUNE_FAKE_BASE_URL")
    endpoint = Endpoint({name: os.environ[name] for name in names})
    try:
        path = write_rows(tmp_path / "train.jsonl", 64 * MEGABYTE)
        checksum = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        pid = endpoint.process.pid
        assert pid is not None
        with openai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0, timeout=120) as api:
            small = api.uploads.upload_file_chunked(
                file=b'{"messages": []}\n',
                filename="a.jsonl",
                bytes=17,
                mime_type="text/jsonl",
                purpose="fine-tune",
            )
            assert small.file.bytes == 17
            before = reset_peak(pid)
            done = api.uploads.upload_file_chunked(
                file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=16 * MEGABYTE, md5=checksum
            )
            grown = peak_memory(pid) - before
            assert done.file.bytes == path.stat().st_size
            with api.files.with_streaming_response.content(done.file.id) as response:
                digest = hashlib.md5(usedforsecurity=False)
                for piece in response.iter_bytes():
                    digest.update(piece)
            assert digest.hexdigest() == checksum
            assert peak_memory(pid) - before < 16 * MEGABYTE, "less than one part"
            assert grown < 16 * MEGABYTE
        assert endpoint.kills == 0
    finally:
        endpoint.close()
