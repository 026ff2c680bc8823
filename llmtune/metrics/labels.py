"""When an answer counts as a label: a few named rules, so that every result can say which one it used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmtune.errors import InvalidJob, UnknownName

#: Punctuation that people and models put after a one-word answer. Not "#", "+" or ")": "C#" and "C++" are labels.
_TRAILING = ".,;:!?\u2026\u3002"
_QUOTES = "\"'`*\u2018\u2019\u201c\u201d"


@lru_cache(maxsize=65536)  # every answer is compared with every label
def normalise(text: str) -> str:
    """Return the answer without surrounding blanks, quotes and emphasis, trailing punctuation and upper case."""
    before = None
    while before != text:
        before = text
        text = text.strip().rstrip(_TRAILING).strip(_QUOTES)
    return text.casefold()


@dataclass(frozen=True)
class LabelRule:
    """One way of reading a label out of an answer. `match` gives the label, or None for an answer outside the set."""

    name: str
    says: str
    """The rule in words, for reports."""

    match: Callable[[str, Sequence[str]], str | None]

    def reader(self, labels: Sequence[str]) -> Callable[[str | None], str | None]:
        """Return a function from an answer to its label; None for no answer and for one outside the set."""
        labels = tuple(labels)

        def read(answer: str | None) -> str | None:
            return None if answer is None else self.match(answer, labels)

        return read


def _match_exact(answer: str, labels: Sequence[str]) -> str | None:
    return answer if answer in labels else None


def _match_normalised(answer: str, labels: Sequence[str]) -> str | None:
    if answer in labels:
        return answer
    normalised = normalise(answer)
    return next((label for label in labels if normalise(label) == normalised), None)


def _match_mention(answer: str, labels: Sequence[str]) -> str | None:
    match = _match_normalised(answer, labels)
    if match is not None:
        return match
    # Longest first, each mention blanked once found: "card_payment" must not count as a mention of "card" as well.
    remaining, mentions = answer.casefold(), []
    for label in sorted(labels, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(normalise(label))}(?!\w)"
        if re.search(pattern, remaining):
            mentions.append(label)
            remaining = re.sub(pattern, " ", remaining)
    return mentions[0] if len(mentions) == 1 else None


RULES: dict[str, LabelRule] = {
    rule.name: rule
    for rule in (
        LabelRule("exact", "the answer is a label, character by character", _match_exact),
        LabelRule(
            "normalised",
            "the answer is a label, case, surrounding blanks and quotes and trailing punctuation aside",
            _match_normalised,
        ),
        LabelRule(
            "mentioned",
            "as normalised; else the answer names exactly one label of the set, as a whole word",
            _match_mention,
        ),
    )
}

#: Likelihood over the label set needs no reading of answers; results scored so carry this name.
LIKELIHOOD = LabelRule(
    "likelihood", "the label to which the model gives the highest likelihood as the whole answer", _match_exact
)


def label_rule(rule: str | LabelRule) -> LabelRule:
    """Return a rule by its name. Raises `UnknownName` with the nearest one."""
    if isinstance(rule, LabelRule):
        return rule
    if rule == LIKELIHOOD.name:
        return LIKELIHOOD
    if rule not in RULES:
        raise UnknownName("label rule", rule, RULES)
    return RULES[rule]


def check_labels(labels: Iterable[str], rule: LabelRule) -> tuple[str, ...]:
    """Return the label set without repeats, in its order.

    Raises:
        InvalidJob: an empty set, or two labels that the rule could not tell apart.
    """
    label_set = tuple(dict.fromkeys(labels))
    if not label_set:
        raise InvalidJob("the label set is empty; a classification needs at least one label")
    if rule.name in ("normalised", "mentioned"):
        by_normalised: dict[str, str] = {}
        for label in label_set:
            twin = by_normalised.setdefault(normalise(label), label)
            if twin != label:
                raise InvalidJob(
                    f"labels {twin!r} and {label!r} are the same under the rule {rule.name!r} ({rule.says})",
                    hint="give them distinct names, or match with the rule 'exact'",
                )
    return label_set


def rule_for(labels: Iterable[str]) -> LabelRule:
    """Return `normalised`, or `exact` where two labels differ only in what `normalised` ignores."""
    try:
        check_labels(labels, RULES["normalised"])
    except InvalidJob:
        return RULES["exact"]
    return RULES["normalised"]
