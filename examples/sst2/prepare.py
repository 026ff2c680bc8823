"""SST-2 as JSON lines: from files of one sentence a line, its label (0 or 1) before it.

python examples/sst2/prepare.py FOLDER_OF_stsa.binary.* [OUT]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

NAMES = {"0": "negative", "1": "positive"}


def main() -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    for part, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        lines = (source / f"stsa.binary.{part}").read_text(encoding="utf-8").splitlines()
        rows = [line.split(" ", 1) for line in lines if line.strip()]
        text = "".join(
            json.dumps({"text": sentence, "label": NAMES[label]}, ensure_ascii=False) + "\n" for label, sentence in rows
        )
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{len(rows)} rows in {out / name}.jsonl")


if __name__ == "__main__":
    main()
