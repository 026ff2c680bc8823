"""Base classes of row formats, which read rows into `Example` and write them, and of vendors' dataset rules.

General formats are in this package. A vendor's formats and dataset rules are in that vendor's own package and are
found through the entry-point group `llmtune.formats`; each entry names a `VendorRows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from llmtune.data.example import Example, OtherPart
from llmtune.data.findings import Finding, error
from llmtune.data.formats.row_features import CHAT, SYSTEM, TURNS, find_left_out_keys, losses
from llmtune.errors import LlmtuneError


class RowFormat:
    """One format of a row. Subclass it, set `name`, `title`, `supports` and `relocates`, and implement `detect`, `read`
    and `write`.

    `supports` is a sum of the bits in `llmtune.data.formats.row_features`: what a row of this format can hold. What it
    cannot is listed by `problems` and refused when rows are written, unless the caller allows the loss. `relocates`
    are bits that are written to another place (a system prompt before the question): a warning, not a refusal.
    """

    name: str = ""
    title: str = ""
    supports: int = 0
    relocates: int = 0
    pairs: bool = False
    """Whether its rows are preference pairs, so that the method they are for is dpo."""

    plain_by_bits: bool = False
    """Set it where `problems` is overridden but for a plain conversation still follows from `supports` alone; the
    call is saved."""

    turns_key: str = "messages"
    """The key under which rows of this format have their turns, for findings about one of them."""

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the keys of the row that are read, by their meaning: `{"prompt": "question + context", ...}`."""
        extra = self.read(dict(row), None, []).extra or {}
        return {key: key for key in row if key not in extra}

    @property
    def lossless_features(self) -> int:
        """The features of plain conversations that are written without loss: a row with no others has no `problems`."""
        if type(self).problems is not RowFormat.problems and not self.plain_by_bits:
            return 0
        return self.supports & (CHAT | SYSTEM | TURNS)

    def detect(self, row: Mapping[str, Any]) -> bool:
        """Return whether the row is meant to be of this format, valid or not. No other format may have the row."""
        raise NotImplementedError

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        """Read the row into canonical form, and add its faults to the list; with an error the result is not used."""
        raise NotImplementedError

    def write(self, example: Example) -> dict[str, Any]:
        """Write the example as a row of this format; what `problems` lists is left out."""
        raise NotImplementedError

    def problems(self, example: Example) -> list[Finding]:
        """Return a finding for each feature of the example that this format cannot hold, or holds elsewhere."""
        return losses(self.without_own_keys(example), self.supports, self.relocates, self.name, self.takes_part)

    def left_out(self, example: Example) -> list[str]:
        """Return the keys of the row and of its messages that are not written."""
        return find_left_out_keys(self.without_own_keys(example), self.supports)

    def without_own_keys(self, example: Example) -> Example:
        """Return the example without the extra keys that this format does write, which therefore are no loss."""
        return example

    def takes_part(self, part: OtherPart) -> bool:
        """Return whether a part that is neither text nor image is one of this format's own."""
        return False


class FileFacts(NamedTuple):
    """The facts about one whole file that a vendor's file rules are given.

    `role` is train, validation or test; `rows` counts valid rows; `size` is in bytes; `tokens` is the sum over
    rows, an estimate where `exact_tokens` is False; `features` is the union of the rows' feature bits; `labels`
    counts rows by label. `train_rows` are those of the training file, `total_rows` those of training and validation.
    """

    role: str
    path: str
    rows: int
    size: int
    tokens: int
    exact_tokens: bool
    format: str
    method: str
    model: str | None
    features: int
    labels: Mapping[str, int]
    train_rows: int | None
    total_rows: int


def count_findings(
    rows: int, what: str, source: str, *, at_least: int | None = None, at_most: int | None = None
) -> Iterable[Finding]:
    """Yield an error for fewer rows than `at_least` or more than `at_most`.

    `what` names the rows in the message ("training rows"), `source` is where the limit is written.
    """
    if at_least is not None and rows < at_least:
        yield error("vendor-rows", f"{rows} {what}; at least {at_least} are needed ({source})", "add rows")
    if at_most is not None and rows > at_most:
        yield error("vendor-rows", f"{rows:,} {what}; at most {at_most:,} ({source})", "give fewer")


def _no_file_rules(facts: FileFacts) -> Iterable[Finding]:
    return ()


def _no_row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    return ()


def _never_reasons(model: str | None) -> bool:
    return False


def _no_limit(method: str, model: str | None) -> TokenLimit | None:
    return None


class TokenLimit(NamedTuple):
    """The maximal tokens of a row. With `refuses` the backend rejects longer rows; otherwise it cuts them. `per` is
    "row" or "turn", `source` where the limit is written."""

    tokens: int
    refuses: bool
    source: str
    per: str = "row"


#: What becomes of a row that is longer than the limit.
TooLong = Literal["error", "truncate", "drop"]


@dataclass(frozen=True)
class Rendering:
    """How a backend on this machine renders rows.

    `tokenizer` is the model's. `problems` returns why a row would be refused, for a method and the job's own limit on
    its tokens (None: the model's context), without file and line. `reasons` is True where the template is that of a
    model that reasons and the job does not provide for rows without reasoning.
    """

    tokenizer: Any
    problems: Callable[[Example, str, int | None], Iterable[Finding]]
    reasons: bool = False
    count_tokens: (
        Callable[[Iterable[Example], int | None, Literal["error", "truncate", "drop"], float], int | None] | None
    ) = None
    """Returns exactly how many tokens one epoch over rows takes, by the job's limit on a row's tokens, what becomes of
    longer rows, and the loss weight of prompts. None, also as its result: the tokens are estimated."""


@dataclass(frozen=True)
class VendorRows:
    """A vendor's row formats and dataset rules.

    `formats` are its own formats (general ones need no entry). `defaults` names the format that each method's
    rows are written in; `choose` may refine that by model. `row_rules` checks every valid row, `file_rules`
    every whole file, `token_limit` returns how long a row may be. `rendering` makes the `Rendering` of a model and of
    the job's options, where rows are rendered on this machine; with True as its third argument nothing is downloaded,
    and None means that the model is not here. `trains_reasoning` returns whether a model reasons: rows without
    reasoning are then warned of, with `reasoning_remedy`. `write_tools` writes a row's tools as the vendor renders them
    into the prompt, where that is known and is not their JSON. `billing` is a sentence that the tokens of the training
    file times the epochs are billed, with its source; empty where it is not known.
    """

    provider: str
    formats: tuple[RowFormat, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    row_rules: Callable[[Example, str, str | None], Iterable[Finding]] = _no_row_rules
    file_rules: Callable[[FileFacts], Iterable[Finding]] = _no_file_rules
    token_limit: Callable[[str, str | None], TokenLimit | None] = _no_limit
    choose: Callable[[str, str | None], str] | None = None
    text_format: str | None = None
    """Row format of plain text in method sft, where it is not that of `defaults`."""

    rendering: Callable[[str, Mapping[str, Any], bool], Rendering | None] | None = None
    trains_reasoning: Callable[[str | None], bool] = _never_reasons
    reasoning_remedy: str = "give each answer its reasoning under reasoning_content"
    write_tools: Callable[[Sequence[Mapping[str, Any]]], str] | None = None
    billing: str = ""

    def format_for(self, method: str = "sft", model: str | None = None, source: str = "") -> str:
        """Return the name of the format that rows for this method and model are written in, which may depend on the
        format that they are read from (`source`). Raises `LlmtuneError`."""
        if method == "sft" and source == "text" and self.text_format is not None:
            return self.text_format
        if method not in self.defaults:
            raise LlmtuneError(f"{self.provider} takes no {method!r} rows; it takes {', '.join(self.defaults)}")
        return self.defaults[method] if self.choose is None else self.choose(method, model)
