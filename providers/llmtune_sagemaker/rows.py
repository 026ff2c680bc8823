"""SageMaker's row formats for open models, text alone, and what its recipes demand of a dataset.

Source, read 2026-11: AWS, "Open weight model customization" (supervised rows as `messages`, preference rows as prompt,
chosen and rejected). How images and tools are to be written is not said, so that such rows are refused. Amazon Nova
takes Bedrock's Converse rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from llmtune.data.example import Example, Message, Preference
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, TokenLimit, VendorRows
from llmtune.data.formats.chat import CHAT, with_preferred_answer, write_messages
from llmtune.data.formats.preference import PromptChosen, preference_problem
from llmtune.data.formats.reinforcement import list_prompt_problems
from llmtune_bedrock.graders import RIGHT_ANSWER
from llmtune_bedrock.rows import row_rules as check_converse
from llmtune_sagemaker import recipes
from llmtune_sagemaker.capabilities import (
    CHAT_ROWS,
    FORMATS,
    PREFERENCE_ROWS,
    REINFORCEMENT_ROWS,
    find_family,
    row_format,
)

_READ_PAIRS = PromptChosen()
#: What Bedrock calls the Nova model that is tuned here too.
NOVA_AT_BEDROCK = "amazon.nova-2-lite-v1:0:256k"


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.words} for message in messages]


class SageMakerRows(RowFormat):
    """`{"messages": [{"role": "system" | "user" | "assistant", "content": "..."}]}`, text only."""

    name = CHAT_ROWS
    title = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    supports = f.BASIC

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general format

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        return CHAT.read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        return {"messages": _turns(with_preferred_answer(example))}


class SageMakerPairs(RowFormat):
    """`{"prompt": [...], "chosen": [...], "rejected": [...]}`, each a list of messages, text only."""

    name = PREFERENCE_ROWS
    title = '{"prompt": [{"role": "user", ...}], "chosen": [{"role": "assistant", ...}], "rejected": [...]}'
    supports = f.BASIC | f.PREFERENCE
    pairs = True

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general format

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        return _READ_PAIRS.read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        preferred, rejected = example.preference or Preference((), ())
        return {"prompt": _turns(example.messages), "chosen": _turns(preferred), "rejected": _turns(rejected)}

    def problems(self, example: Example) -> list[Finding]:
        findings = super().problems(example)
        if example.preference is None:
            findings.insert(0, preference_problem(self.name))
        return findings


class SageMakerReinforcement(RowFormat):
    """VERL's rows: a prompt, and as ground truth one JSON text with the right answer and every other field.

    A grader's function is given the ground truth alone, as `reference_answer`.
    """

    name = REINFORCEMENT_ROWS
    title = '{"prompt": [..., user], "reward_model": {"ground_truth": "{...}"}, "data_source": "llmtune"}'
    supports = f.BASIC

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are of the general format

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        example = CHAT.read({"messages": row.get("prompt")}, line, faults)
        truth = row.get("reward_model")
        truth = truth if isinstance(truth, dict) else {}
        text = truth.get("ground_truth")
        try:
            fields = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            faults.append(error("row-shape", "reward_model.ground_truth is no JSON object as a text", "write one"))
            return example
        turn = fields.pop(RIGHT_ANSWER, None)
        answer = CHAT.read({"messages": [turn]}, line, faults).messages if isinstance(turn, dict) else ()
        unread = {name: value for name, value in row.items() if name not in ("prompt", "reward_model", "data_source")}
        extra = {**unread, **{f"reward_model.{name}": truth[name] for name in truth if name not in _TRUTH}, **fields}
        return example.replace(messages=(*example.messages, *answer), extra=extra or None)

    def write(self, example: Example) -> dict[str, Any]:
        prompt = example.prompt()
        fields = dict(example.extra or {})
        if answer := example.messages[len(prompt) : len(prompt) + 1]:
            fields[RIGHT_ANSWER] = write_messages(answer)[0]
        truth = {"style": "rule", "ground_truth": json.dumps(fields, ensure_ascii=False)}
        return {"data_source": "llmtune", "prompt": _turns(prompt), "reward_model": truth}

    def problems(self, example: Example) -> list[Finding]:
        return super().problems(example) + list_prompt_problems(example, (RIGHT_ANSWER,))

    def without_own_keys(self, example: Example) -> Example:
        return example.replace(extra=None) if example.extra else example


_TRUTH = ("style", "ground_truth")


@lru_cache(maxsize=64)
def _is_nova(model: str | None) -> bool:
    """Return whether a model takes Converse rows; cached, because it is needed for every row."""
    return model is not None and find_family(model) == "nova-2"


def choose(method: str, model: str | None) -> str:
    """Return the row format of a model for a method."""
    return row_format(method, model or "")


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Check that a conversation ends in the assistant's turn; Nova's rows are checked as Bedrock's are."""
    if _is_nova(model):
        yield from check_converse(example, method, NOVA_AT_BEDROCK)
        return
    if example.preference is not None or example.text is not None or not example.messages:
        return
    if example.messages[-1].role != "assistant":
        yield error("vendor-last-turn", f"the last turn must be the assistant's ({FORMATS})", "end in the answer")


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check that there are as many training rows as the smallest batch of the model's recipe."""
    if facts.role != "train":
        return
    seen = recipes.from_catalog(find_family(facts.model or ""))
    recipe = seen.find(recipes.TECHNIQUES.get(facts.method, "SFT"), "lora") if seen is not None else None
    sizes = recipe.parameters["global_batch_size"].choices if recipe is not None else ()
    if sizes and facts.rows < min(sizes):
        yield warning(
            "vendor-rows",
            f"{facts.rows} training rows, and the smallest batch of the recipe has {min(sizes)}: the job may fail",
            "add rows",
        )


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Return how many tokens of a row are trained on where the job does not say: longer ones are cut."""
    seen = recipes.from_catalog(find_family(model or ""))
    recipe = seen.find(recipes.TECHNIQUES.get(method, "SFT"), "lora") if seen is not None else None
    length = recipe.parameters.get("dataset_max_len") if recipe is not None else None
    if seen is None or length is None or not isinstance(length.default, int):
        return None
    return TokenLimit(
        length.default, refuses=False, source=f"by default, and max_sequence_length raises it; {seen.source}"
    )


SAGEMAKER_ROWS = VendorRows(
    provider="sagemaker",
    formats=(SageMakerRows(), SageMakerPairs(), SageMakerReinforcement()),
    defaults={"sft": CHAT_ROWS, "dpo": PREFERENCE_ROWS, "reinforcement": REINFORCEMENT_ROWS},
    row_rules=row_rules,
    file_rules=file_rules,
    token_limit=token_limit,
    choose=choose,
)
