"""`llmtune data peek --beside together`: the service's own view of the rows stands beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune_together.fake.service import FakeTogether

PEEK = (sys.executable, "-m", "llmtune", "data", "peek")
TOGETHER = ("--beside", "together", "--model", "Qwen/Qwen3-8B")

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["which team is it network billing user assistant"],
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet),
    )
    folder = tmp_path / "tokenizer"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_both_views_of_each_row(tmp_path: Path, tokenizer: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    asked = [("which team is it", "network"), ("which team", "billing")]
    rows.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}) + "\n"
            for q, a in asked
        )
    )
    with FakeTogether(api_key="key-for-tests") as vendor:
        done = subprocess.run(
            [*PEEK, str(rows), "--tokenizer", str(tokenizer), "--json", *TOGETHER],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "TOGETHER_API_KEY": "key-for-tests",
                "LLMTUNE_TOGETHER_BASE_URL": vendor.url,
                "LLMTUNE_TOGETHER_POLL_INTERVAL": "0.01",
            },
        )
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)["rows"]
        assert [(row["line"], row["name"]) for row in shown] == [(1, ""), (1, "together"), (2, ""), (2, "together")]
        learned = ["".join(piece["text"] for piece in row["tokens"] if piece["trained"]) for row in shown]
        assert learned[0].startswith("network")
        assert learned[1].startswith("network")
        assert learned[2].startswith("billing")
        assert not vendor.files
        assert vendor.complaints == []


@pytest.mark.slow
def test_a_backend_without_a_view_of_its_own_says_so(tmp_path: Path, tokenizer: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    done = subprocess.run(
        [*PEEK, str(rows), "--tokenizer", str(tokenizer), "--beside", "cohere"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "cohere does not show which tokens it trains on" in done.stderr
    assert "Traceback" not in done.stderr
