"""Datasets of many shapes, written as files: what people bring to `llmtune init`."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

#: What customers of a shop write, by the team that answers; several wordings share their nouns with other teams.
TICKETS: dict[str, tuple[str, ...]] = {
    "shipping": (
        "my {thing} has not arrived, the tracking page stopped moving {when}",
        "where is the parcel with the {thing}? it was due {when}",
        "the courier says the {thing} was delivered {when} but nothing is here",
        "can you send the {thing} to my office instead of my home",
    ),
    "returns": (
        "i would like to send the {thing} back, it does not fit",
        "how do i return a {thing} that i bought {when}",
        "please send me a return label for the {thing}",
        "the {thing} is not what i expected, can i exchange it",
    ),
    "billing": (
        "i was charged twice for the {thing} {when}",
        "the invoice for my {thing} shows the wrong amount",
        "why did the price of the {thing} change on my card statement",
        "please send the receipt for the {thing} to our accountant",
    ),
    "account": (
        "i cannot log in since {when}, the password reset never comes",
        "please change the email address of my account",
        "how do i close my account and delete my data",
        "two people use one login here, can we have a second user",
    ),
    "technical": (
        "the {thing} does not switch on since {when}",
        "the app crashes when i pair it with the {thing}",
        "the {thing} shows an error and restarts by itself",
        "the firmware update of the {thing} hangs at {number} percent",
    ),
    "warranty": (
        "the {thing} broke after {number} weeks, is that covered by the guarantee",
        "a part of the {thing} came off {when}, will you repair it under warranty",
        "how long is the guarantee on the {thing}",
        "the repair shop says the {thing} is a warranty case",
    ),
    "sales": (
        "is the {thing} in stock in your shop in town",
        "which {thing} would you recommend for a small flat",
        "do you give a discount if we order {number} of the {thing}",
        "when will the new {thing} come out",
    ),
    "complaint": (
        "i have written {number} times about the {thing} and nobody answers",
        "your colleague on the phone was rude to me {when}",
        "this is the worst service i have had with a {thing}",
        "i want to speak to a manager about the {thing}",
    ),
}
THINGS = [
    "lamp",
    "kettle",
    "printer",
    "bicycle",
    "tent",
    "phone",
    "chair",
    "heater",
    "camera",
    "blender",
    "router",
    "desk",
    "scooter",
    "mixer",
    "radio",
    "clock",
]
TIMES = ["yesterday", "on monday", "last week", "two days ago", "this morning", "on friday evening", "in march"]
OPENINGS = ("", "", "hello, ", "hi there. ", "good morning, ", "sorry to bother you but ", "again: ", "urgent! ")
ENDINGS = ("", "", ".", " please help", ", thanks", ". my order is {number}{number}7", "?", " - regards, sam")


def support_tickets(count: int = 800, *, noise: float = 0.03, seed: int = 1) -> list[tuple[str, str]]:
    """Return short texts with the team that answers them, `noise` of them filed under another team by mistake."""
    draw = random.Random(seed)
    teams = list(TICKETS)
    rows = []
    for number in range(count):
        team = teams[number % len(teams)]
        text = draw.choice(OPENINGS) + draw.choice(TICKETS[team]) + draw.choice(ENDINGS)
        values = {"thing": draw.choice(THINGS), "when": draw.choice(TIMES), "number": draw.randint(2, 60)}
        text = " ".join(word for word in text.format(**values).split(" ") if draw.random() > 0.06)
        rows.append((text, draw.choice(teams) if draw.random() < noise else team))
    draw.shuffle(rows)
    return rows


@pytest.fixture
def tickets_csv() -> Callable[..., Path]:
    """Writes `support_tickets` as a table with the columns text and label."""

    def write(path: Path, count: int = 800, **settings: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *support_tickets(count, **settings)])
        return path

    return write


@pytest.fixture
def json_lines() -> Callable[..., Path]:
    """Writes objects as JSON lines."""

    def write(path: Path, rows: Iterable[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
