"""Together's rows and what it demands of a dataset.

Sources, read 2026-11: together SDK 3.1.1 (lib/constants.py, lib/utils/files.py), which leaves the rules on turns to
the server since 3.0; the rules themselves as its predecessor together-python checked them (2025); and the page
"Fine-tuning data preparation".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmtune.data.example import Example, Message
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts, RowFormat, VendorRows
from llmtune.data.formats.chat import CHAT, write_messages

DOCS = "Together, Fine-tuning data preparation, 2026"
REASONING_DOCS = "Together, Reasoning fine-tuning, 2026-11"
#: Models that are tuned with reasoning (`REASONING_DOCS`); the live service tells it too, as `supports_reasoning`.
_REASONING_MODELS = re.compile(
    r"(?:Qwen/Qwen3-\d+(?:\.\d+)?B(?:-A\d+B)?(?:-Thinking[\w-]*)?|Qwen/Qwen3-Next-80B-A3B-Thinking|Qwen/Qwen3\.5-[\w.-]+"
    r"|Qwen/Qwen3\.6-35B-A3B|zai-org/GLM-(?:4\.6|4\.7|5|5\.1)|google/gemma-4-(?:31B|26B-A4B)-it|openai/gpt-oss-(?:20b|120b))"
)
VALIDATOR = "together-python's file check, 2025"

MIN_ROWS = 1
MAX_BYTES = int(50.1 * 2**30)
MAX_IMAGES = 10
MAX_IMAGE_BYTES = 10 * 2**20


class TogetherRows(RowFormat):
    """One of four shapes by what the row is: text, messages (with weights on any turn), or a preference pair."""

    name = "together"
    title = '{"messages": [...], "tools": [...]} or {"text": ...} or {"input": ..., "preferred_output": ...}'
    supports = (
        f.BASIC
        | f.TOOLS
        | f.IMAGES
        | f.WEIGHT_ZERO
        | f.PROMPT_WEIGHT
        | f.PREFERENCE
        | f.TEXT
        | f.PARTS
        | f.TOOL_IDS
        | f.NAMES
        | f.LATE_SYSTEM
        | f.REASONING
    )

    def detect(self, row: Mapping[str, Any]) -> bool:
        return False  # rows read from files are told by the general formats of the same shapes

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        from llmtune.data.formats.registry import detect, general_formats

        fmt = detect(row, general_formats()) or CHAT
        return fmt.read(row, line, faults)

    def write(self, example: Example) -> dict[str, Any]:
        if example.text is not None:
            return {"text": example.text}
        # nothing is lost by leaving out the keys of messages this service does not know: `problems` has told them
        row: dict[str, Any] = {"messages": write_messages(_known(example.messages))}
        if example.tools:
            row["tools"] = list(example.tools)
        if example.preference is None:
            return row
        return {
            "input": row,
            "preferred_output": write_messages(_known(example.preference.preferred)),
            "non_preferred_output": write_messages(_known(example.preference.rejected)),
        }


def _known(turns: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(turn.replace(extra=None, raw_role=None) if turn.extra or turn.raw_role else turn for turn in turns)


def trains_reasoning(model: str | None) -> bool:
    """Return whether a model is one that this service tunes with reasoning."""
    return model is not None and _REASONING_MODELS.fullmatch(model) is not None


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """Check that turns alternate, with one answer per side, few and small images, and reasoning only for models that
    reason."""
    if model and f.features(example) & f.REASONING and not trains_reasoning(model):
        yield warning(
            "vendor-reasoning",
            f"{model} is not listed as a model with reasoning, and may be trained without that of the row"
            f" ({REASONING_DOCS})",
            "choose a model that reasons",
        )
    if example.preference is not None:
        for name, turns in (
            ("preferred_output", example.preference.preferred),
            ("non_preferred_output", example.preference.rejected),
        ):
            if len(turns) != 1:
                yield error(
                    "vendor-preference",
                    f"{name} holds {len(turns)} messages; exactly one is allowed ({DOCS})",
                    "keep one",
                )
    before = None
    images = 0
    for index, message in enumerate(example.messages):
        if message.role == before and message.role in ("user", "assistant"):
            yield error(
                "vendor-role-order",
                f"messages[{index}]: two {message.role} turns in a row; they must alternate ({VALIDATOR})",
                "join them",
            )
        before = message.role
        for image in message.images:
            images += 1
            if image.url.startswith("data:") and len(image.url) * 3 // 4 > MAX_IMAGE_BYTES:
                yield error("vendor-image", f"messages[{index}]: the image is above 10 MB ({DOCS})", "make it smaller")
    if images > MAX_IMAGES:
        yield error("vendor-image", f"{images} images in the row; {MAX_IMAGES} are allowed (SDK 3.1.1)", "cut the row")


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Check that a file has at least one row and at most 50.1 GB (SDK 3.1.1, lib/constants.py)."""
    if facts.rows < MIN_ROWS:
        yield error("vendor-rows", f"{facts.rows} rows; at least {MIN_ROWS} is needed (SDK 3.1.1)", "add rows")
    if facts.size > MAX_BYTES:
        yield error("vendor-size", f"{facts.size / 2**30:,.1f} GB; at most 50.1 GB (SDK 3.1.1)", "cut the file")


# No token limit: it is each model's own, which only the live service tells.
TOGETHER_ROWS = VendorRows(
    provider="together",
    formats=(TogetherRows(),),
    defaults={"sft": "together", "dpo": "together"},
    row_rules=row_rules,
    file_rules=file_rules,
    trains_reasoning=trains_reasoning,
    billing="tokens of the training file x epochs, and validation tokens x evaluations; without packing each row counts"
    " as max_seq_length (Together, pricing, 2026)",
)
