"""Rows in every form that the documents of Axolotl, LLaMA-Factory and TRL describe: each is read, with nothing lost.

The forms are theirs, the rows are made up here. Each is given with the words that must be among what is learned from or
asked; a form of a method that is not there (unpaired or stepwise preferences, prompts alone) is refused by its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.checks.check import check
from llmtune.data.example import Example
from llmtune.data.io.reading import read

Q, A, B, S = "When does the ferry leave?", "At eight.", "No idea.", "You work at the pier."
ASK, SAY, BAD = ({"role": role, "content": text} for role, text in (("user", Q), ("assistant", A), ("assistant", B)))
SYSTEM = {"role": "system", "content": S}
HUMAN, GPT, WORSE = ({"from": speaker, "value": text} for speaker, text in (("human", Q), ("gpt", A), ("gpt", B)))
TOOL = {"name": "tide", "description": "The tide.", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "tide", "arguments": {"at": "Holm"}}
CALLS = [{"type": "function", "function": CALL}]

AXOLOTL: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("completion", {"text": A}, (A,)),
    ("alpaca", {"instruction": Q, "input": S, "output": A}, (Q, S, A)),
    ("jeopardy", {"question": Q, "category": "ferries", "answer": A}, (Q, A)),
    ("oasst", {"INSTRUCTION": Q, "RESPONSE": A}, (Q, A)),
    ("gpteacher", {"instruction": Q, "input": S, "response": A}, (Q, S, A)),
    ("reflection", {"instruction": Q, "input": S, "output": A, "reflection": B, "corrected": A}, (Q, S, A)),
    ("summarizetldr", {"article": Q, "summary": A}, (Q, A)),
    ("alpaca_chat.load_qa", {"question": Q, "answer": A}, (Q, A)),
    ("alpaca_chat.load_camel_ai", {"message_1": Q, "message_2": A}, (Q, A)),
    ("alpaca_w_system.load_open_orca", {"system_prompt": S, "question": Q, "response": A}, (S, Q, A)),
    ("context_qa", {"article": S, "question": Q, "answer": A}, (S, Q, A)),
    ("context_qa.load_v2", {"context": S, "question": Q, "answer": A}, (S, Q, A)),
    ("metharme", {"prompt": Q, "generation": A}, (Q, A)),
    ("sharegpt", {"conversations": [HUMAN, GPT]}, (Q, A)),
    ("pygmalion", {"conversations": [{"role": "user", "value": Q}, {"role": "model", "value": A}]}, (Q, A)),
    ("chat_template", {"messages": [SYSTEM, ASK, SAY | {"train": True}]}, (S, Q, A)),
    ("chat_template with tools", {"messages": [ASK, SAY], "tools": [{"type": "function", "function": TOOL}]}, (Q, A)),
    ("chatml.argilla", {"system": S, "instruction": Q, "chosen_response": A, "rejected_response": B}, (S, Q, A, B)),
    ("chatml.argilla_chat", {"chosen": [ASK, SAY], "rejected": [ASK, BAD]}, (Q, A, B)),
    ("chatml.icr", {"system": S, "input": Q, "chosen": A, "rejected": B}, (S, Q, A, B)),
    ("chatml.intel", {"system": S, "question": Q, "chosen": A, "rejected": B}, (S, Q, A, B)),
    ("chatml.prompt_pairs", {"system": S, "prompt": Q, "chosen": A, "rejected": B}, (S, Q, A, B)),
    ("chatml.ultra", {"system": S, "prompt": Q, "chosen": [ASK, SAY], "rejected": [ASK, BAD]}, (S, Q, A, B)),
    ("chat_template.default", {"messages": [ASK], "chosen": SAY, "rejected": BAD}, (Q, A, B)),
]

FACTORY: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("alpaca", {"instruction": Q, "input": S, "output": A}, (Q, S, A)),
    ("alpaca with system", {"instruction": Q, "output": A, "system": S}, (S, Q, A)),
    ("alpaca with history", {"instruction": Q, "input": "", "output": A, "history": [[S, B]]}, (S, B, Q, A)),
    ("pretraining", {"text": A}, (A,)),
    ("alpaca ranked", {"instruction": Q, "input": S, "chosen": A, "rejected": B}, (Q, S, A, B)),
    ("alpaca ranked with history", {"instruction": Q, "history": [[S, "x"]], "chosen": A, "rejected": B}, (S, Q, A, B)),
    ("sharegpt", {"conversations": [HUMAN, GPT], "system": S}, (S, Q, A)),
    ("sharegpt with a system turn", {"conversations": [{"from": "system", "value": S}, HUMAN, GPT]}, (S, Q, A)),
    (
        "sharegpt with a call",
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": B},
                GPT,
            ],
            "tools": json.dumps([TOOL]),
        },
        (Q, "Holm", B, A),
    ),
    (
        "sharegpt with several calls",
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": json.dumps([CALL, CALL])},
                {"from": "observation", "value": json.dumps([B, S])},
                GPT,
            ],
            "tools": json.dumps([TOOL]),
        },
        (Q, "Holm", B, S, A),
    ),
    (
        "sharegpt with a thought before a call",
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": f"<think>\n{S}\n</think>\n\n{json.dumps(CALL)}"},
                {"from": "observation", "value": B},
                GPT,
            ],
            "tools": json.dumps([TOOL]),
        },
        (Q, S, "Holm", B, A),
    ),
    ("sharegpt with a thought", {"conversations": [HUMAN, GPT | {"value": f"<think>{S}</think>{A}"}]}, (Q, S, A)),
    ("sharegpt ranked", {"conversations": [HUMAN], "chosen": GPT, "rejected": WORSE}, (Q, A, B)),
    (
        "sharegpt ranked after turns",
        {"conversations": [HUMAN, WORSE, {"from": "human", "value": S}], "chosen": GPT, "rejected": WORSE},
        (Q, B, S, A),
    ),
    ("openai", {"messages": [SYSTEM, ASK, SAY]}, (S, Q, A)),
    ("openai with tools", {"messages": [ASK, SAY], "tools": json.dumps([TOOL])}, (Q, A)),
    ("images", {"messages": [ASK | {"content": f"<image>{Q}"}, SAY], "images": ["pier.png"]}, (Q, A)),
    ("audio", {"messages": [ASK | {"content": f"<audio>{Q}"}, SAY], "audios": ["pier.wav"]}, (Q, A)),
    ("video", {"conversations": [HUMAN | {"value": f"<video>{Q}"}, GPT], "videos": ["pier.mp4"]}, (Q, A)),
    ("images ranked", {"conversations": [HUMAN], "chosen": GPT, "rejected": WORSE, "images": ["pier.png"]}, (Q, A, B)),
    ("v1", {"messages": [{"role": "user", "content": [{"type": "text", "value": Q}]}, SAY]}, (Q, A)),
]

TRL: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("language modelling", {"text": A}, (A,)),
    ("conversational language modelling", {"messages": [ASK, SAY]}, (Q, A)),
    ("prompt-completion", {"prompt": Q, "completion": A}, (Q, A)),
    ("conversational prompt-completion", {"prompt": [SYSTEM, ASK], "completion": [SAY]}, (S, Q, A)),
    ("preference", {"prompt": Q, "chosen": A, "rejected": B}, (Q, A, B)),
    ("conversational preference", {"prompt": [ASK], "chosen": [SAY], "rejected": [BAD]}, (Q, A, B)),
    ("implicit conversational preference", {"chosen": [ASK, SAY], "rejected": [ASK, BAD]}, (Q, A, B)),
    (
        "implicit preference of transcripts",
        {"chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}"},
        (Q, A, B),
    ),
    (
        "tools",
        {
            "messages": [
                ASK,
                {"role": "assistant", "tool_calls": CALLS},
                {"role": "tool", "name": "tide", "content": B},
            ],
            "tools": [{"type": "function", "function": TOOL}],
        },
        (Q, "Holm", B),
    ),
    (
        "tools in prompt-completion",
        {
            "prompt": [ASK],
            "completion": [{"role": "assistant", "tool_calls": CALLS}],
            "tools": [{"type": "function", "function": TOOL}],
        },
        (Q, "Holm"),
    ),
    (
        "developer and thinking",
        {"messages": [SYSTEM | {"role": "developer"}, ASK, SAY | {"thinking": B}]},
        (S, Q, B, A),
    ),
    ("reasoning", {"messages": [ASK, SAY | {"reasoning_content": B}]}, (Q, B, A)),
    ("template options", {"messages": [ASK, SAY], "chat_template_kwargs": {"enable_thinking": False}}, (Q, A)),
    (
        "images",
        {
            "messages": [ASK | {"content": [{"type": "image"}, {"type": "text", "text": Q}]}, SAY],
            "images": ["pier.png"],
        },
        (Q, A),
    ),
    (
        "images in prompt-completion",
        {
            "prompt": [ASK | {"content": [{"type": "image"}, {"type": "text", "text": Q}]}],
            "completion": [SAY],
            "images": ["pier.png"],
        },
        (Q, A),
    ),
    (
        "text parts",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, SAY]},
        (Q, A),
    ),
    ("dolly", {"instruction": Q, "context": S, "response": A, "category": "open_qa"}, (Q, S, A)),
    ("ultrafeedback", {"prompt": Q, "chosen": [ASK, SAY], "rejected": [ASK, BAD], "score_chosen": 9.0}, (Q, A, B)),
    ("questions and answers", {"question": Q, "answer": A}, (Q, A)),
    ("several turns", {"messages": [SYSTEM, ASK, BAD, ASK, SAY]}, (S, Q, B, A)),
]


def everything_in(example: Example) -> str:
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    out = [example.text or ""]
    for turn in (*example.messages, *answers):
        out += [turn.words, turn.reasoning or "", *(call.arguments for call in turn.tool_calls)]
    return "\n".join(out)


@pytest.mark.parametrize(
    ("form", "row", "words"), [*AXOLOTL, *FACTORY, *TRL], ids=lambda value: value if isinstance(value, str) else ""
)
def test_rows_of_a_documented_form_are_read(
    tmp_path: Path, form: str, row: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    report = check(path, checks=("structure",))
    assert [str(finding) for finding in report.findings if finding.is_error] == []
    (example,) = [item for item in read(path) if isinstance(item, Example)]
    learned = everything_in(example)
    assert [text for text in words if text not in learned] == []


def test_there_are_twenty_of_each() -> None:
    assert min(len(AXOLOTL), len(FACTORY), len(TRL)) >= 20


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"instruction": Q, "input": "", "output": A, "kto_tag": True}, "unpaired-preference"),
        ({"conversations": [HUMAN, GPT], "kto_tag": False}, "unpaired-preference"),
        ({"prompt": Q, "completion": A, "label": True}, "unpaired-preference"),
        ({"prompt": [ASK], "completion": [SAY], "label": False}, "unpaired-preference"),
        ({"prompt": Q, "completions": [A, B], "labels": [True, False]}, "reinforcement-row"),
        ({"prompt": Q}, "row-shape"),
        ({"prompt": [ASK]}, "row-shape"),
        ({"segments": [{"label": False, "text": Q}, {"label": True, "text": A}]}, "unknown-format"),
    ],
)
def test_forms_of_methods_that_are_not_there_are_refused_by_name(
    tmp_path: Path, row: dict[str, Any], code: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    errors = [finding for finding in check(path, checks=("structure",)).findings if finding.is_error]
    assert [finding.code for finding in errors] == [code]
