"""Recorded jobs whose training file is at hand: the estimate beside what OpenAI says that it trained on.

Tokens are estimated by bytes / 4, and neither of the two is within 10 %: the causes stand beside them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.data.dataset import Dataset
from llmtune.job.spec import DatasetSpec
from llmtune_openai.automatic_epochs import count_automatic_epochs

SHARED = Path(__file__).parents[4] / "shared"
FILES = SHARED / "data" / "vendor_training" / "openai"

pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="the material folder beside the checkout is not here")

#: File, the epochs and tokens of the recorded job, the estimate as a share of those tokens, and why it is off.
BILLS = [
    ("sdk_fine_tuning_sample.jsonl", 10, 5_830, 1.13, "short English turns have more than 4 bytes a token"),
    ("drone_training.jsonl", 3, 145_983, 1.74, "tools are rendered in fewer tokens than their JSON has"),
]


@pytest.mark.parametrize(("file", "epochs", "tokens", "share", "cause"), BILLS)
def test_epochs_are_predicted_and_tokens_are_off_by_what_is_known(
    file: str, epochs: int, tokens: int, share: float, cause: str
) -> None:
    dataset = Dataset.from_spec(DatasetSpec(path=str(FILES / file)))
    estimated = sum(dataset.estimated_tokens[part] for part in ("train", "validation", "test"))
    assert count_automatic_epochs(sum(dataset.counts.values())) == epochs
    assert estimated * epochs / tokens == pytest.approx(share, abs=0.01), cause
