"""The six sets of the decisions benchmark: where their rows come from, and what is trained on them.

Two are published (banking77, SST-2), one is the demo's, three are generated. Part of the generated rows is ambiguous in
its own words: such a row's label is drawn, and a calibrated model knows that it cannot know it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from first_try.tasks import Row, as_chat, banking77, question, sst2, tickets


@dataclass(frozen=True)
class DecisionSet:
    """One set: its rows, the model, and how that is trained. All rows that are not trained on are the pool."""

    name: str
    model: str
    build: Callable[[Path | None], list[Row]]
    train: int
    pool: int
    """Rows of the pool at most."""

    steps: int
    learning_rate: float = 5e-4
    batch_size: int = 16
    large: bool = False
    """Whether over 1,000 rows are tested, and the goals on calibration hold."""

    @property
    def method(self) -> str:
        """Method of the job: a head for labels on an encoder, else supervised tuning on answers."""
        return "classification" if self.model == "tiny-encoder" else "sft"


def split_rows(decision_set: DecisionSet, data: Path | None) -> tuple[list[Row], list[Row]]:
    """Return the training rows and the pool. No prompt stands in both."""
    by_question = {question(row): row for row in decision_set.build(data)}
    rows = [{key: value for key, value in row.items() if key != "split"} for row in by_question.values()]
    random.Random(0).shuffle(rows)
    return rows[: decision_set.train], rows[decision_set.train :][: decision_set.pool]


_WHO = ["the mayor", "your sister", "the founder", "the winner", "that singer", "the first pilot", "the new coach"]
_WHERE = ["the harbour", "the old mill", "the museum", "that valley", "the capital", "the embassy", "the market"]
_THING = ["a kettle", "the gearbox", "a barometer", "the red cable", "a trowel", "the filter", "this plant"]
_CLEAR: dict[str, tuple[str, ...]] = {
    "person": ("Who is {who}?", "Which person paid {who}?", "Whose name did {who} give?", "Who met {who} in {where}?"),
    "place": ("Where is {where}?", "In which town is {where}?", "Where did {who} go?", "From where comes {thing}?"),
    "number": ("How many rooms has {where}?", "How much is {thing}?", "How old is {who}?", "How far is {where}?"),
    "thing": ("What is {thing}?", "What does one call {thing}?", "Which tool opens {thing}?", "What did {who} carry?"),
    "reason": ("Why did {who} leave {where}?", "Why is {thing} broken?", "For what reason is {where} closed?"),
    "manner": ("How does one repair {thing}?", "How did {who} reach {where}?", "In what way does {thing} work?"),
}
#: Questions that two kinds share, with the share of the first.
_AMBIGUOUS: tuple[tuple[str, str, str, float], ...] = (
    ("{who} or {where}?", "person", "place", 0.5),
    ("And {thing}, how about it?", "thing", "manner", 0.6),
    ("How come {who} has {thing}?", "reason", "manner", 0.7),
    ("Tell me about {where}.", "place", "thing", 0.6),
    ("{thing}: how much, how so?", "number", "reason", 0.5),
)


def six_kinds(_: Path | None) -> list[Row]:
    """Questions of six kinds; one in five can be read as two of them."""
    draw = random.Random(31)
    rows = []
    for number in range(9000):
        fill = {"who": draw.choice(_WHO), "where": draw.choice(_WHERE), "thing": draw.choice(_THING)}
        if draw.random() < 0.2:
            form, first, second, share = draw.choice(_AMBIGUOUS)
            label = first if draw.random() < share else second
        else:
            label = draw.choice(list(_CLEAR))
            form = draw.choice(_CLEAR[label])
        # A remark makes each text its own, and says nothing about the kind.
        rows.append({"text": f"{form.format(**fill)} ({draw.choice(_REMARK)} {number % 997})", "label": label})
    return rows


_REMARK = ["page", "card", "quiz", "sheet", "note", "line"]
_PRAISE: dict[int, tuple[str, ...]] = {
    1: ("broke on the first day", "the worst I ever had", "a waste of money", "dangerous, send it back"),
    2: ("rather weak", "disappointing for the price", "often fails", "not what was promised"),
    3: ("does what it must", "neither good nor bad", "average", "acceptable"),
    4: ("quite good", "works well", "pleasant to use", "a good buy"),
    5: ("simply perfect", "the best I ever had", "flawless", "delighted with it"),
}
_GOOD = ["lamp", "chair", "mug", "clock", "rug", "mirror", "kettle", "blanket", "shelf", "pillow"]


def scores(_: Path | None) -> list[Row]:
    """Reviews with a score of 1 to 5; where two opinions disagree, or one is hedged, the score is drawn around them."""
    draw = random.Random(37)
    rows = []
    for number in range(9000):
        thing, score = draw.choice(_GOOD), draw.randint(1, 5)
        opinion = draw.choice(_PRAISE[score])
        kind = draw.random()
        if kind < 0.15:
            label = min(5, max(1, score + draw.choice((-1, 0, 0, 1))))
            text = f"Perhaps it is me, but the {thing}: {opinion}, more or less."
        elif kind < 0.25:
            other = draw.randint(1, 5)
            label = draw.choice((score, other, round((score + other) / 2)))
            text = f"The {thing}: {opinion}, said she. He: {draw.choice(_PRAISE[other])}."
        else:
            label, text = score, f"The {thing}: {opinion}."
        rows.append({"text": f"{text} Order {number % 991}.", "label": str(label)})
    return rows


_MATTERS: dict[str, tuple[str, ...]] = {
    "billing": ("the invoice is wrong", "I was charged twice", "the refund is missing"),
    "delivery": ("the parcel is lost", "the van did not come", "the box arrived open"),
    "account": ("my password does not work", "I cannot log in", "my name is spelled wrong"),
}
_HASTE: tuple[tuple[str, float], ...] = (
    ("I need it today, at once!", 1.0),
    ("It is an emergency.", 1.0),
    ("No hurry at all.", 0.0),
    ("Whenever you have time.", 0.0),
    ("Soon would be nice.", 0.5),
)


def two_questions(_: Path | None) -> list[Row]:
    """Messages with two questions each, answered as JSON: which team, and whether it is urgent."""
    draw = random.Random(41)
    rows = []
    for number in range(6000):
        team = draw.choice(list(_MATTERS))
        matter = draw.choice(_MATTERS[team])
        if draw.random() < 0.12:
            another = draw.choice([name for name in _MATTERS if name != team])
            matter = f"{matter} and {draw.choice(_MATTERS[another])}"
            team = draw.choice((team, another))
        haste, share = draw.choice(_HASTE)
        urgent = "yes" if draw.random() < share else "no"
        text = f"Hello, {matter}. {haste} Case {number % 983}"
        answer = json.dumps({"team": team, "urgent": urgent})
        rows.append(as_chat({"text": text, "label": answer}, "Answer as JSON: team and urgent."))
    return rows


SETS: dict[str, DecisionSet] = {
    decision_set.name: decision_set
    for decision_set in (
        DecisionSet("banking77", "tiny-encoder", banking77, train=4000, pool=6000, steps=1750, large=True),
        DecisionSet("sst2", "tiny-encoder", sst2, train=5500, pool=4100, steps=1000, large=True),
        DecisionSet("tickets", "tiny", tickets, train=1000, pool=1400, steps=300, learning_rate=2e-3),
        DecisionSet("six kinds", "tiny-encoder", six_kinds, train=1000, pool=3000, steps=300),
        DecisionSet("scores", "tiny-encoder", scores, train=1000, pool=3000, steps=300),
        DecisionSet("two questions", "tiny", two_questions, train=800, pool=2000, steps=250, learning_rate=2e-3),
    )
}


def job_settings(decision_set: DecisionSet) -> dict[str, Any]:
    """Return the hyperparameters of the training."""
    per_epoch = -(-decision_set.train // decision_set.batch_size)
    return {
        "epochs": -(-decision_set.steps // per_epoch),
        "max_steps": decision_set.steps,
        "batch_size": decision_set.batch_size,
        "learning_rate": decision_set.learning_rate,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
    }
