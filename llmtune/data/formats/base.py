"""Row formats: what a row looks like, read into `Example` and written from it; and who knows which ones.

General formats are in this package. A vendor's formats and dataset rules live in that vendor's own room and are
found through the entry-point group `llmtune.formats`; each entry names a `VendorRows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llmtune.data.example import Example, OtherPart
from llmtune.data.findings import Finding, error
from llmtune.data.formats.row_features import CHAT, SYSTEM, TURNS, left_out_keys, losses
from llmtune.errors import LlmtuneError


class RowFormat:
    """One shape of a row. Subclass it, set the four names, and write `detect`, `read` and `write`.

    `carries` is a sum of the bits in `llmtune.data.formats.row_features`: what a row of this format can hold. What it
    cannot is listed by `problems` and refused when rows are written, unless the caller allows the loss. `folds` are
    bits that reach the row in another place (a system prompt put before the question): a warning, not a refusal.
    """

    name: str = ""
    title: str = ""
    carries: int = 0
    folds: int = 0
    pairs: bool = False
    """Whether its rows are preference pairs, so that the method they are for is dpo."""

    plain_by_bits: bool = False
    """Set it where `problems` is overridden but for a plain conversation still follows from `carries` alone, which
    spares it the call."""

    turns_key: str = "messages"
    """The key under which rows of this format have their turns, for findings about one of them."""

    def columns(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Which keys of the row are read, by what they are here: `{"prompt": "question + context", ...}`."""
        extra = self.read(dict(row), None, []).extra or {}
        return {key: key for key in row if key not in extra}

    def takes_plain(self) -> Callable[[Example], bool]:
        """A quick answer for plain conversations (`checks.is_simple`): whether nothing is lost of one, surely."""
        if type(self).problems is not RowFormat.problems and not self.plain_by_bits:
            return _never
        system, several = bool(self.carries & SYSTEM), bool(self.carries & TURNS)
        if not self.carries & CHAT:
            return _never

        def takes(example: Example) -> bool:
            messages, tools, label, _, _, _, _, extra = example
            if tools or extra or label.__class__ is tuple:
                return False
            leading = messages[0][0] == "system"
            return (system or not leading) and (several or len(messages) <= 2 + leading)

        return takes

    def detect(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is meant to be of this format, sound or not; true for no other format's rows."""
        raise NotImplementedError

    def read(self, row: dict[str, Any], line: int | None, faults: list[Finding]) -> Example:
        """The row in canonical form. Faults go to the list; with an error among them the result is not used."""
        raise NotImplementedError

    def write(self, example: Example) -> dict[str, Any]:
        """The example as a row of this format; what `problems` lists is left out."""
        raise NotImplementedError

    def problems(self, example: Example) -> list[Finding]:
        """What this format cannot carry of the example: errors refuse, warnings tell of a change of place."""
        return losses(self.without_own_keys(example), self.carries, self.folds, self.name, self.takes_part)

    def left_out(self, example: Example) -> list[str]:
        """The keys of the row and of its messages that are not written."""
        return left_out_keys(self.without_own_keys(example), self.carries)

    def without_own_keys(self, example: Example) -> Example:
        """The example without the extra keys that this format does write, so that they count as no loss."""
        return example

    def takes_part(self, part: OtherPart) -> bool:
        """Whether a part that is neither text nor image, kept as it was read, is one of this format's own."""
        return False


class FileFacts(NamedTuple):
    """What is known of one whole file when a vendor's file rules are asked.

    `role` is train, validation or test; `rows` counts sound rows; `size` is in bytes; `tokens` is the sum over
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
    rows: int, what: str, source: str, *, least: int | None = None, most: int | None = None
) -> Iterable[Finding]:
    """Yield an error for fewer rows than `least` and one for more than `most`; `what` they are, by which `source`."""
    if least is not None and rows < least:
        yield error("vendor-rows", f"{rows} {what}; at least {least} are needed ({source})", "add rows")
    if most is not None and rows > most:
        yield error("vendor-rows", f"{rows:,} {what}; at most {most:,} ({source})", "give fewer")


def _never(_: Example) -> bool:
    return False


def _no_file_rules(facts: FileFacts) -> Iterable[Finding]:
    return ()


def _no_row_rules(example: Example, method: str, model: str | None) -> Iterable[Finding]:
    return ()


def _never_reasons(model: str | None) -> bool:
    return False


def _no_limit(method: str, model: str | None) -> TokenLimit | None:
    return None


class TokenLimit(NamedTuple):
    """The most tokens a row may have. `refuses` says whether the backend rejects longer rows; otherwise it cuts
    them. `per` is "row" or "turn"."""

    tokens: int
    refuses: bool
    source: str
    per: str = "row"


@dataclass(frozen=True)
class Rendering:
    """Rows as a backend on this machine renders them: the model's tokenizer, and what it would refuse of a row for a
    method and the job's own limit on its tokens (None: the model's context), its place left out.

    `reasons` says that its template is that of a model that reasons, and that the job does not provide for rows without
    reasoning.
    """

    tokenizer: Any
    problems: Callable[[Example, str, int | None], Iterable[Finding]]
    reasons: bool = False


@dataclass(frozen=True)
class VendorRows:
    """A vendor's row formats and dataset rules.

    `formats` are its own formats (general ones need no entry). `defaults` names the format that each method's
    rows are written in; `choose` may refine that by model. `row_rules` sees every sound row, `file_rules` every
    whole file, `token_limit` says how long a row may be. `rendering` makes the `Rendering` of a model and of the job's
    options, where rows are rendered on this machine; with True as its third argument nothing is downloaded, and None
    says that the model is not here. `trains_reasoning` says of a model whether it reasons, so that rows without
    reasoning are warned of, with `reasoning_remedy`. `billing` says in words that the tokens of the training
    file times the epochs are billed, and where that is written; empty where it is not known.
    """

    provider: str
    formats: tuple[RowFormat, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    row_rules: Callable[[Example, str, str | None], Iterable[Finding]] = _no_row_rules
    file_rules: Callable[[FileFacts], Iterable[Finding]] = _no_file_rules
    token_limit: Callable[[str, str | None], TokenLimit | None] = _no_limit
    choose: Callable[[str, str | None], str] | None = None
    rendering: Callable[[str, Mapping[str, Any], bool], Rendering | None] | None = None
    trains_reasoning: Callable[[str | None], bool] = _never_reasons
    reasoning_remedy: str = "give each answer its reasoning under reasoning_content"
    billing: str = ""

    def format_for(self, method: str = "sft", model: str | None = None) -> str:
        """The name of the format that rows for this method and model are written in."""
        if method not in self.defaults:
            raise LlmtuneError(f"{self.provider} takes no {method!r} rows; it takes {', '.join(self.defaults)}")
        return self.defaults[method] if self.choose is None else self.choose(method, model)
