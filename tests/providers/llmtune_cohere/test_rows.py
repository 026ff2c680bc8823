"""Cohere files can be carried away, and rows can be written for what still takes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from llmtune.data.convert import convert

CHAT = [
    {
        "messages": [
            {"role": "System", "content": "Name the team."},
            {"role": "User", "content": "The invoice is wrong."},
            {"role": "Chatbot", "content": "billing"},
        ]
    },
    {"messages": [{"role": "User", "content": "No link."}, {"role": "Chatbot", "content": "network"}]},
]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_system_user_chatbot_both_ways(tmp_path: Path) -> None:
    source = tmp_path / "cohere.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    convert(source, tmp_path / "chat.jsonl", "chat")
    roles = {"System": "system", "User": "user", "Chatbot": "assistant"}
    assert lines(tmp_path / "chat.jsonl") == [
        {"messages": [turn | {"role": roles[turn["role"]]} for turn in row["messages"]]} for row in CHAT
    ]
    convert(tmp_path / "chat.jsonl", tmp_path / "back.jsonl", "cohere")
    assert lines(tmp_path / "back.jsonl") == CHAT


def test_classification_csv_both_ways(tmp_path: Path) -> None:
    source = tmp_path / "labels.csv"
    pairs = [("The invoice is wrong.", "billing"), ('No link, "again"', "network")]
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *pairs])
    convert(source, tmp_path / "cohere.jsonl", "cohere", method="classification")
    assert lines(tmp_path / "cohere.jsonl") == [{"text": text, "label": label} for text, label in pairs]
    convert(tmp_path / "cohere.jsonl", tmp_path / "chat.jsonl", "chat", method="classification")
    turns = lines(tmp_path / "chat.jsonl")[0]["messages"]
    assert isinstance(turns, list)
    assert turns[-1] == {"role": "assistant", "content": "billing"}
    convert(tmp_path / "cohere.jsonl", tmp_path / "back.csv", "cohere", method="classification")
    with (tmp_path / "back.csv").open(newline="") as file:
        assert [(row["text"], row["label"]) for row in csv.DictReader(file)] == pairs
