"""Write the panel "general": questions outside any task, asked of base and tuned model to see what tuning has cost.

    python tools/panel/make_panel.py [--check]

Reading, instructions, JSON, languages, refusals, tool calls and system prompts are written by hand in `panel_items`;
arithmetic comes from the templates below, with numbers drawn by a fixed seed. The file is the same each time; --check
exits with 1 where the shipped file is another.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from panel_items import (
    HARMFUL,
    HARMLESS,
    INSTRUCTIONS,
    JSON_TASKS,
    LANGUAGES,
    PASSAGES,
    SYSTEM_PROMPTS,
    TOOL_TASKS,
    TOOLS,
)

TARGET = Path(__file__).resolve().parents[2] / "llmtune" / "evaluation" / "panel" / "general.jsonl"
SOURCE = "written for llmtune by its authors (tools/panel)"
LICENCE = "Apache-2.0"
SEED = 45
#: Questions of each template of arithmetic.
PER_TEMPLATE = 5

Question = dict[str, Any]
Rules = Sequence[tuple[str, object]]


def add_up(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randint(12, 89), rng.randint(12, 89)
    return f"What is {a} plus {b}? Reply with the number.", a + b


def take_away(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randint(50, 99), rng.randint(11, 49)
    return f"Take {b} away from {a}. Which number is left?", a - b


def multiply(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randint(3, 12), rng.randint(3, 12)
    return f"What is {a} times {b}? Reply with the number.", a * b


def share(rng: random.Random) -> tuple[str, int]:
    people, each = rng.randint(3, 9), rng.randint(3, 12)
    return f"{people * each} nuts are shared evenly among {people} children. How many nuts does each child get?", each


def shop(rng: random.Random) -> tuple[str, int]:
    count, price, paid = rng.randint(2, 6), rng.randint(2, 9), 100
    text = (
        f"A pencil costs {price} coins. Somebody buys {count} pencils and pays with {paid} coins."
        " How many coins come back?"
    )
    return text, paid - count * price


def walk(rng: random.Random) -> tuple[str, int]:
    first, second, back = rng.randint(5, 20), rng.randint(5, 20), rng.randint(1, 4)
    text = (
        f"Noor walks {first} steps north, then {second} more steps north, then {back} steps back south."
        " How many steps north of her start is she?"
    )
    return text, first + second - back


def bus(rng: random.Random) -> tuple[str, int]:
    seated, leave, enter = rng.randint(15, 40), rng.randint(2, 12), rng.randint(2, 12)
    text = (
        f"A bus carries {seated} people. At the next stop {leave} get off and {enter} get on."
        " How many does it carry now?"
    )
    return text, seated - leave + enter


def largest(rng: random.Random) -> tuple[str, int]:
    numbers = rng.sample(range(100, 999), 4)
    return f"Which is the largest of these numbers: {', '.join(map(str, numbers))}?", max(numbers)


ARITHMETIC: tuple[Callable[[random.Random], tuple[str, int]], ...] = (
    add_up, take_away, multiply, share, shop, walk, bus, largest,
)  # fmt: skip


def ask(prompt: str, answer: str, rules: Rules, *, system: str = "") -> Question:
    """Return a question with its reference answer; its id and skill come later."""
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "rules": [_rule(name, value) for name, value in rules]}


def _rule(name: str, value: object) -> dict[str, object]:
    return {"rule": name} if value is None else {"rule": name, "value": value}


def arithmetic() -> Iterator[Question]:
    rng = random.Random(SEED)
    for template in ARITHMETIC:
        drawn: set[str] = set()
        while len(drawn) < PER_TEMPLATE:
            text, result = template(rng)
            if text not in drawn:
                drawn.add(text)
                yield ask(text, str(result), [("number", result)])


def reading() -> Iterator[Question]:
    for passage, questions in PASSAGES:
        for question, answer, texts in questions:
            yield ask(f"{passage}\n\n{question}", answer, [("contains_any", list(texts))])


def instructions() -> Iterator[Question]:
    for prompt, answer, rules in INSTRUCTIONS:
        yield ask(prompt, answer, rules)


def json_form() -> Iterator[Question]:
    for prompt, value in JSON_TASKS:
        # A rule without a value is one whose value is null; no task has that answer.
        yield ask(prompt, json.dumps(value), [("json", value)])


def languages() -> Iterator[Question]:
    for questions in LANGUAGES.values():
        for prompt, answer, texts in questions:
            yield ask(prompt, answer, [("contains_any", list(texts))])


def refusals() -> Iterator[Question]:
    for prompt in HARMFUL:
        yield ask(prompt, "I'm sorry, but I can't help with that.", [("refuses", None)])


def harmless() -> Iterator[Question]:
    for prompt, answer, texts in HARMLESS:
        yield ask(prompt, answer, [("complies", None), ("contains_any", list(texts))])


def describe_tool(name: str) -> dict[str, Any]:
    """Return the JSON schema of a tool."""
    description, parameters = TOOLS[name]
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def tool_calls() -> Iterator[Question]:
    for prompt, offered, name, arguments in TOOL_TASKS:
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": "call_1", "type": "function", "function": function}
        yield {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": None, "tool_calls": [call]},
            ],
            "tools": [describe_tool(tool) for tool in offered],
            "rules": [_rule("tool_call", {"name": name, "arguments": arguments})],
        }


def system_prompts() -> Iterator[Question]:
    for system, questions in SYSTEM_PROMPTS:
        for prompt, answer, rules in questions:
            yield ask(prompt, answer, rules, system=system)


#: The skills in the order of the file, and the questions of each.
SKILLS: tuple[tuple[str, Callable[[], Iterator[Question]]], ...] = (
    ("arithmetic", arithmetic),
    ("reading", reading),
    ("instructions", instructions),
    ("JSON", json_form),
    ("languages", languages),
    ("refusal of harm", refusals),
    ("harmless requests", harmless),
    ("tool calls", tool_calls),
    ("system prompt", system_prompts),
)


def write_panel() -> str:
    """Return the panel as JSON lines."""
    lines = []
    for skill, make in SKILLS:
        for number, question in enumerate(make(), start=1):
            key = f"{skill.lower().replace(' ', '-')}-{number:03d}"
            entry = {"id": key, "skill": skill, **question, "source": SOURCE, "licence": LICENCE}
            lines.append(json.dumps(entry, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file, or compare it with --check."""
    text = write_panel()
    if "--check" in sys.argv[1:]:
        same = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        print(f"{TARGET.name}: {'as made' if same else 'not as made; run python tools/panel/make_panel.py'}")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET}: {text.count(chr(10))} questions, {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
