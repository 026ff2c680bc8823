"""The choice of a base model for a dataset, and the sentences with which `llmtune init` explains its choices.

The rule for the model, where nobody names one: of the models that are on this machine, can be trained on these rows and
take at most `REASONABLE_SECONDS`, the largest, those with a warning (made for another language, rows too long) after
all others. Where rows have labels, an encoder of `ENCODERS_FROM` parameters or more counts `ENCODER_WORTH` times its
parameters, for it reads the whole text before it decides (a rule of thumb); smaller encoders are taken only where there
is no chat model. Where no model qualifies, the smallest one here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmtune._models import DocumentedModel
from llmtune.data.facts import DatasetFacts
from llmtune.provider.abilities import ModelSuggestion
from llmtune.provider.memory import size

#: Training time up to which a model is suggested without being asked for.
REASONABLE_SECONDS = 30 * 60
#: Parameters from which an encoder is preferred to chat models, up to so many times its size.
ENCODERS_FROM, ENCODER_WORTH = 20_000_000, 3
#: Accuracy from which a linear model is said to be enough.
LINEAR_IS_ENOUGH = 0.9
#: Fewer training rows than this are few to learn from, and fewer of a label few to learn that label.
FEW_ROWS, FEW_OF_LABEL = 50, 8
#: Models that are listed in a sentence, beside the chosen one.
MOST_LISTED = 4


class LinearResult(DocumentedModel):
    """How a linear model did on the validation rows."""

    accuracy: float
    rows: int
    seconds: float
    """Training and answering together."""

    @property
    def sentence(self) -> str:
        """The result in words."""
        took = f"{max(0.1, self.seconds):.1f} s"
        return f"a linear model reached {self.accuracy:.1%} on your {self.rows:,} validation rows in {took}"

    @property
    def is_enough(self) -> bool:
        """Whether tuning can hardly be worth its price."""
        return self.accuracy >= LINEAR_IS_ENOUGH


def choose_model(models: Sequence[ModelSuggestion]) -> ModelSuggestion | None:
    """Choose by the rule of this module; None where no model is on this machine."""
    usable = [model for model in models if model.here and is_quick(model) and not model.obstacle]
    if usable:
        return max(usable, key=lambda model: (not model.warning, *_rank(model)))
    return min((model for model in models if model.here), key=_cost, default=None)


def is_quick(model: ModelSuggestion) -> bool:
    """Return whether training takes a reasonable time."""
    return model.seconds is None or model.seconds <= REASONABLE_SECONDS


def _rank(model: ModelSuggestion) -> tuple[bool, int]:
    parameters = model.parameters or 0
    if model.method != "classification":
        return True, parameters
    return parameters >= ENCODERS_FROM, ENCODER_WORTH * parameters


def _cost(model: ModelSuggestion) -> tuple[bool, float]:
    """Order models of which none qualifies: chat models first, the quickest of them."""
    return model.method == "classification", model.seconds or 0.0


def describe_rows(facts: DatasetFacts, path: str, *, split: bool) -> Iterator[str]:
    """Yield sentences on the rows."""
    parts = facts.rows
    kind = "preference rows" if facts.kind == "preference" else "rows"
    if facts.labels:
        kind = f"rows with {len(facts.labels)} labels"
    divided = f"{parts['train']:,} train, {parts['validation']:,} validation and {parts['test']:,} test"
    yield f"{path}: {facts.total:,} {kind}, {'split into ' if split else ''}{divided}"
    if facts.labels and facts.rarest_label is not None:
        counts = list(facts.label_rows.values()) or [0]
        rarest = facts.label_rows.get(facts.rarest_label, 0)
        spread = f"{rarest} to {counts[0]}" if rarest != counts[0] else f"{rarest}"
        fewest = f", the fewest of {_shorten(facts.rarest_label)}" if rarest < counts[0] else ""
        yield f"{spread} training rows per label{fewest}"
    if facts.language:
        yield f"the rows are {facts.language}"
    if facts.image_rows:
        yield f"{facts.image_rows:,} rows have images: llmtune plan shows which backends take them"


def explain_method(facts: DatasetFacts, method: str, models: Sequence[ModelSuggestion]) -> str:
    """Say why this method."""
    if method == "dpo":
        return "dpo: each row has a preferred and a rejected answer"
    if method == "classification":
        return f"classification: an encoder chooses one of the {len(facts.labels)} labels and writes no text"
    if facts.labels:
        encoders = [model for model in models if model.method == "classification" and not model.obstacle]
        suited = min(
            (model for model in encoders if _rank(model)[0]), key=lambda model: model.seconds or 0, default=None
        )
        instead = f"; method classification trains an encoder instead, such as {suited.model}" if suited else ""
        return f"sft: the model writes one of the {len(facts.labels)} labels{instead}"
    if facts.kind == "text":
        return "sft: the rows are plain text, and all of it is learned"
    if facts.tool_rows:
        return f"sft: {facts.tool_rows:,} rows have tools, whose calls are learned with the answers"
    if facts.answers_are_json:
        return (
            f"sft: {facts.json_answers:,} of {facts.rows['train']:,} training answers are JSON, which the model writes"
        )
    median, longest = facts.median_answer, facts.longest_answer
    return f"sft: the answers are text, half of them up to {median:,} characters, the longest {longest:,}"


def explain_model(
    chosen: ModelSuggestion | None, models: Sequence[ModelSuggestion], named: str | None, provider: str
) -> Iterator[str]:
    """Yield why this model, and which other ones there are."""
    if chosen is None:
        if named is None:
            yield f"write the id of a base model that {provider} tunes: llmtune providers {provider}"
        return
    yield f"{describe_model(chosen)}{'' if named else f': {_explain_choice(chosen, models)}'}"
    if named and not chosen.here:
        yield f"{chosen.model} is not on this machine: it is downloaded when it is trained"
    if chosen.obstacle and named:
        yield f"it cannot be trained on these rows here: {chosen.obstacle}"
    if chosen.warning:
        yield f"{chosen.model}: {chosen.warning}"
    if chosen.rows_too_long:
        yield "longer rows are dropped and counted (on_too_long, which also takes truncate and error)"
    same = [model for model in models if model is not chosen]
    here = [model for model in same if model.here]
    for model in here[:MOST_LISTED]:
        yield f"on this machine: {describe_model(model)}{_explain_rejection(model)}"
    missing = [describe_model(model) for model in same if not model.here and not model.obstacle]
    if missing:
        yield f"could be downloaded and trained here: {', '.join(missing[:MOST_LISTED])}"


def describe_model(model: ModelSuggestion) -> str:
    """Describe a model in a few words: its size, where it is, time and memory."""
    parts = []
    if model.parameters is not None:
        parts.append(f"{format_count(model.parameters)} parameters")
    if model.seconds is not None:
        parts.append(f"about {format_seconds(model.seconds)}")
    if model.memory is not None:
        parts.append(size(model.memory))
    return f"{model.model} ({', '.join(parts)})" if parts else model.model


def format_count(count: int) -> str:
    """Format a number of parameters: "3.4 M"."""
    return f"{count / 1e9:.2g} B" if count >= 1e9 else f"{count / 1e6:.3g} M"


def format_seconds(seconds: float) -> str:
    """Format a rough time: "1 min", "3 h"."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def _explain_choice(chosen: ModelSuggestion, models: Sequence[ModelSuggestion]) -> str:
    if chosen.obstacle:
        return f"no model here can be trained on these rows: {chosen.obstacle}"
    if not is_quick(chosen):
        return f"none here trains within {format_seconds(REASONABLE_SECONDS)}, and this one comes nearest"
    if sum(1 for model in models if model.here) == 1:
        return "the only model on this machine"
    return f"the best on this machine that trains within {format_seconds(REASONABLE_SECONDS)}"


def _explain_rejection(model: ModelSuggestion) -> str:
    reason = model.obstacle or model.warning
    return f": {reason}" if reason else ""


def give_advice(facts: DatasetFacts, linear: LinearResult | None) -> Iterator[str]:
    """Yield what to know before tuning: whether something cheaper does, and which rows are missing."""
    if linear is not None and linear.is_enough:
        yield (
            f"{linear.sentence}: it may be all you need (scikit-learn: TF-IDF and logistic regression);"
            " the report says whether the tuned model beats it"
        )
    elif linear is not None:
        yield f"{linear.sentence}: the tuned model has to beat that, and the report says whether it does"
    train = facts.rows["train"]
    if train < FEW_ROWS:
        instead = "" if facts.kind != "chat" else "a prompt with examples in it may do as well (baseline few_shot); "
        yield f"{train} training rows are few: {instead}collect {FEW_ROWS} or more"
    rare = [label for label in facts.labels if facts.label_rows.get(label, 0) < FEW_OF_LABEL]
    if rare and train >= FEW_ROWS:
        listed = ", ".join(map(_shorten, rare[:3])) + (", ..." if len(rare) > 3 else "")
        yield f"{len(rare)} of the labels have fewer than {FEW_OF_LABEL} training rows ({listed}): collect more of them"


def _shorten(label: str) -> str:
    text = " ".join(label.split())
    return repr(text if len(text) <= 30 else f"{text[:29]}…")
