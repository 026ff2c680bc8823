"""multipart/form-data comes out the same however it is cut on its way."""

from __future__ import annotations

import pytest

from llmtune.server.protocol import RequestError
from llmtune.server.tuning.multipart import MultipartReader, PartData, PartStart

KIND = 'multipart/form-data; boundary="b x"'
BODY = (
    b'preamble\r\n--b x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    b"--b x\r\ncontent-type: application/jsonl\r\n"
    b'content-disposition: form-data; name="file"; filename="\xc3\xa4 1.jsonl"\r\n\r\n{"a": "\r\n--b"}\r\n\r\n'
    b'--b x\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n--b x--\r\nrest'
)


def parts(body: bytes, size: int, kind: str = KIND) -> list[tuple[str, str | None, bytes]]:
    reader = MultipartReader(kind)
    read: list[tuple[str, str | None, bytes]] = []
    for at in range(0, len(body), size):
        for part in reader.feed(body[at : at + size]):
            if isinstance(part, PartStart):
                read.append((part.name, part.filename, b""))
            elif isinstance(part, PartData):
                name, filename, data = read[-1]
                read[-1] = (name, filename, data + part.data)
    reader.close()
    return read


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 1000])
def test_parts_come_out_whole(size: int) -> None:
    assert parts(BODY, size) == [
        ("purpose", None, b"fine-tune"),
        ("file", "ä 1.jsonl", b'{"a": "\r\n--b"}\r\n'),
        ("empty", None, b""),
    ]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (BODY, "application/json"),
        (BODY, "multipart/form-data"),
        (BODY, ""),
        (BODY[:-20], KIND),
        (b"--b x\r\n\r\ndata\r\n--b x--\r\n", KIND),
        (b"--b x\r\ncontent-disposition: attachment\r\n\r\ndata\r\n--b x--\r\n", KIND),
        (b"--b xy\r\n", KIND),
        (b"--b x\r\n" + b"a: b\r\n" * 3000, KIND),
        (b"", KIND),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        parts(body, 64, kind)
    assert caught.value.status == 400
