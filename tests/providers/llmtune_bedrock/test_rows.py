"""An image whose bucket belongs to another account is an image like any other, and says so when it is written."""

from __future__ import annotations

import orjson

from llmtune.data.example import ImagePart
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import get_format

ROW = {
    "schemaVersion": "bedrock-conversation-2024",
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "Which flag?"},
                {
                    "image": {
                        "format": "png",
                        "source": {"s3Location": {"uri": "s3://pier/flag.png", "bucketOwner": "12"}},
                    }
                },
            ],
        },
        {"role": "assistant", "content": [{"text": "The pilot flag."}]},
    ],
}


def test_the_owner_of_the_bucket_is_kept() -> None:
    fmt = get_format("bedrock_converse")
    faults: list[Finding] = []
    example = fmt.read(orjson.loads(orjson.dumps(ROW)), None, faults)
    assert faults == []
    assert example.messages[0].images == (ImagePart("s3://pier/flag.png", "image/png", bucket_owner="12"),)
    assert fmt.problems(example) == []
    assert fmt.write(example) == ROW
