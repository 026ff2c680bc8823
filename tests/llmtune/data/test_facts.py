"""Facts about rows: labels, JSON, tools, images, languages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.example import Example, ImagePart, Message, Preference, TextPart, ToolCall, chat
from llmtune.data.facts import DatasetFacts, describe_dataset


def facts_of(*rows: Example, **parts: Any) -> DatasetFacts:
    return describe_dataset(Dataset(train=rows, **parts))


def asked(text: str, answer: str) -> Example:
    return chat(("user", text), ("assistant", answer))


def test_labels_are_counted_in_the_training_rows() -> None:
    rows = [asked(f"case {n}", "late" if n % 4 else "lost") for n in range(40)]
    held_out = [asked(f"other case {n}", "late") for n in range(5)]
    facts = facts_of(*rows, validation=held_out, test=held_out)
    assert facts.labels == ("late", "lost")
    assert facts.label_rows == {"late": 30, "lost": 10}
    assert facts.rarest_label == "lost"
    assert facts.rows == {"train": 40, "validation": 5, "test": 5}
    assert facts.total == 50


def test_a_label_that_no_training_row_has_is_the_rarest() -> None:
    rows = [asked(f"case {n}", "late" if n % 2 else "lost") for n in range(10)]
    facts = facts_of(*rows, test=[asked("x", "broken"), asked("y", "broken")])
    assert facts.rarest_label == "broken"


def test_texts_have_no_labels_and_lengths() -> None:
    facts = facts_of(*(asked(f"case {n}", "word " * n) for n in range(1, 12)))
    assert facts.labels == ()
    assert facts.rarest_label is None
    assert (facts.median_answer, facts.longest_answer) == (30, 55)
    assert facts.longest_row > 0
    assert facts.training_tokens > facts.longest_row


def test_json_answers_tools_and_images_are_counted() -> None:
    as_json = [asked(f"order {n}", json.dumps({"count": n})) for n in range(9)]
    assert facts_of(*as_json, asked("order", "{not json")).answers_are_json
    assert not facts_of(*as_json, *[asked("order", "12")] * 5).answers_are_json
    call = Message("assistant", None, (ToolCall("1", "look_up", "{}"),))
    offers = Example((Message("user", "look"), Message("assistant", "no")), tools=({"name": "look_up"},))
    image = Message("user", (TextPart("what is it"), ImagePart("https://x.example/1.png")))
    facts = facts_of(Example((Message("user", "look"), call)), offers, Example((image, Message("assistant", "a cat"))))
    assert (facts.tool_rows, facts.image_rows) == (2, 1)


def test_preference_rows_have_no_labels() -> None:
    pair = Preference((Message("assistant", "yes"),), (Message("assistant", "no"),))
    facts = facts_of(*(Example((Message("user", f"q {n}"),), preference=pair) for n in range(8)))
    assert (facts.kind, facts.labels) == ("preference", ())


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (
            "Where is my parcel? It has not arrived, and nobody was of any help though I asked twice. " * 5 + "A café",
            "",
        ),
        ("Wo bleibt die Lieferung? Ich möchte sie zurückgeben, falls sie nicht früh kommt.", "not English"),
        ("Où est ma commande ? Je voudrais être remboursé, elle a été envoyée à la mauvaise adresse.", "not English"),
        ("注文した商品がまだ届いていません。いつ届きますか。", "Japanese"),
        ("我的包裹还没有到，什么时候可以收到？", "Chinese"),
        ("주문한 상품이 아직 도착하지 않았습니다", "Korean"),
        ("Где моя посылка? Она ещё не пришла.", "Cyrillic script"),
        ("λείπει το δέμα μου", "Greek script"),
        ("1234 5678 !!", ""),
    ],
)
def test_letters_say_whether_it_is_english(text: str, language: str) -> None:
    assert facts_of(*[asked(text, text)] * 4).language.startswith(language)
    assert bool(facts_of(*[asked(text, text)] * 4).language) == bool(language)
