"""What each family on Bedrock demands of a dataset.

Sources, read 2026-11: AWS, "Prepare data for fine-tuning your models" and the Nova customization guide (2026);
Anthropic's fine-tuning cookbook for the order of turns in Claude's rows (2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmtune.data.example import Example
from llmtune.data.findings import Finding, error, warning
from llmtune.data.formats.base import FileFacts, TokenLimit

PREPARE = "AWS, Prepare data for fine-tuning your models, 2026"
NOVA = "AWS, Nova customization guide, 2026"

CONVERSE_ROWS = "bedrock_converse"
CLAUDE_ROWS = "claude"

#: Words a Nova job fails on, wherever they stand in a row.
RESERVED = ("User:", "Bot:", "Assistant:", "System:", "<image>", "<video>", "[EOS]")

#: Parts of a model id that tell the family; the first that fits.
_FAMILIES = (
    ("nova-2", "nova-2"),
    ("nova", "nova"),
    ("claude", "claude"),
    ("llama3-1", "llama-3.1"),
    ("llama", "llama"),
    ("titan", "titan"),
    ("cohere", "cohere"),
)


def family_of(model: str | None) -> str | None:
    """The family of a model id; None when no model, or one of an unknown family, is given."""
    return next((family for part, family in _FAMILIES if part in (model or "")), None)


def choose(method: str, model: str | None) -> str:
    """The row format a model takes: Converse for Nova and Llama 3.2 and later, which is also the default."""
    family = family_of(model)
    if family == "claude":
        return CLAUDE_ROWS
    return "prompt_completion" if family in ("llama-3.1", "titan", "cohere") else CONVERSE_ROWS


def row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    """User and assistant in turn, the user first and the assistant last; Nova's reserved words."""
    family = family_of(model)
    if example.preference is not None:
        yield error(
            "vendor-method", "Bedrock has no preference tuning (API of 2026-11)", "tune on the preferred answers"
        )
        return
    if example.text is not None or family in ("llama-3.1", "titan", "cohere"):
        return
    turns = [(index, message) for index, message in enumerate(example.messages) if message.role != "system"]
    before = "assistant"
    for index, message in turns:
        role = "user" if message.role == "tool" else message.role
        if role == before and not (message.role == "tool" and example.messages[index - 1].role == "tool"):
            what = "the first turn must be the user's" if index == turns[0][0] else f"two {role} turns in a row"
            yield error("vendor-role-order", f"messages[{index}]: {what} ({PREPARE})", "user and assistant in turn")
        before = role
    if turns and turns[-1][1].role != "assistant":
        yield error("vendor-last-turn", f"the last turn must be the assistant's ({PREPARE})", "end in the answer")
    for index, message in turns:
        for image in message.images:
            if not image.url.startswith("s3://"):
                yield error(
                    "vendor-image",
                    f"messages[{index}]: {image.url[:60]!r} is not in S3 ({PREPARE})",
                    "copy it to the bucket of the training file, and name it s3://...",
                )
    if family == "nova-2" and example.tools:
        yield warning("vendor-tools", f"rows with tools may fail a Nova 2 job ({NOVA})", "try a few rows first")
    if family in (None, "nova", "nova-2"):
        yield from _reserved_words(example, sure=family is not None)


def _reserved_words(example: Example, *, sure: bool) -> Iterable[Finding]:
    for index, message in enumerate(example.messages):
        text = message.words
        for word in RESERVED:
            if word in text:
                say = error if sure else warning
                yield say(
                    "vendor-reserved-word",
                    f"messages[{index}]: {word!r} is a reserved word of Nova, on which the job fails ({NOVA})",
                    "write it another way",
                )


class _Counts:
    """Rows and bytes a family takes; None where nothing is published."""

    def __init__(
        self,
        *,
        least: int | None = None,
        most: int | None = None,
        most_validation: int | None = None,
        least_total: int | None = None,
        most_total: int | None = None,
        size: int | None = None,
        validation_size: int | None = None,
    ) -> None:
        self.least, self.most, self.most_validation = least, most, most_validation
        self.least_total, self.most_total = least_total, most_total
        self.size, self.validation_size = size, validation_size


_COUNTS: Mapping[str, _Counts] = {
    "nova-2": _Counts(least=200),
    "claude": _Counts(
        least=32,
        most=10_000,
        most_validation=1_000,
        most_total=10_000,
        size=10_000_000_000,
        validation_size=1_000_000_000,
    ),
    "llama-3.1": _Counts(least_total=100, most_total=10_000),
    "llama": _Counts(least_total=100, most_total=10_000),
    "titan": _Counts(size=1_000_000_000, validation_size=100_000_000),
    "cohere": _Counts(least=32, most=10_000, most_validation=1_000),
}


def file_rules(facts: FileFacts) -> Iterable[Finding]:
    """Rows and bytes of a file by the model's family; none are told when the model is not named."""
    counts = _COUNTS.get(family_of(facts.model) or "")
    if counts is None:
        return
    rows, role = facts.rows, facts.role
    if role == "train":
        if counts.least is not None and rows < counts.least:
            yield error("vendor-rows", f"{rows} rows; at least {counts.least} are needed ({PREPARE})", "add rows")
        if counts.most is not None and rows > counts.most:
            yield error("vendor-rows", f"{rows:,} rows; at most {counts.most:,} ({PREPARE})", "give fewer")
        if counts.least_total is not None and facts.total_rows < counts.least_total:
            yield error(
                "vendor-rows",
                f"{facts.total_rows} rows with validation; at least {counts.least_total} are needed ({PREPARE})",
                "add rows",
            )
        if counts.most_total is not None and facts.total_rows > counts.most_total:
            yield error(
                "vendor-rows",
                f"{facts.total_rows:,} training and validation rows; at most {counts.most_total:,} ({PREPARE})",
                "give fewer",
            )
        if counts.size is not None and facts.size > counts.size:
            yield error("vendor-size", f"{facts.size / 1e6:,.0f} MB; at most {counts.size / 1e6:,.0f} MB", "give fewer")
    elif role == "validation":
        if counts.most_validation is not None and rows > counts.most_validation:
            yield error(
                "vendor-rows", f"{rows:,} validation rows; at most {counts.most_validation:,} ({PREPARE})", "give fewer"
            )
        if counts.validation_size is not None and facts.size > counts.validation_size:
            yield error(
                "vendor-size",
                f"{facts.size / 1e6:,.0f} MB; at most {counts.validation_size / 1e6:,.0f} MB",
                "give fewer",
            )


_TOKENS = {"claude": 32_000, "llama-3.1": 16_000, "llama": 16_000, "titan": 4_096, "cohere": 6_144}


def token_limit(method: str, model: str | None) -> TokenLimit | None:
    """Tokens of prompt and answer together, by family (10,000 for Llama 3.2 90B; 4,096 + 2,048 for Cohere)."""
    tokens = _TOKENS.get(family_of(model) or "")
    if model is not None and "llama3-2-90b" in model:
        tokens = 10_000
    return TokenLimit(tokens, refuses=True, source=PREPARE) if tokens is not None else None
