"""Requests and the function calls that answer them: 900 rows into rows.jsonl, the same every time."""

import json
import random
from pathlib import Path
from typing import Any

CITIES = ["Lyon", "Porto", "Graz", "Turin", "Bergen", "Ghent", "Riga", "Basel"]
DAYS = ["today", "tomorrow", "on Monday", "on Friday", "this weekend"]
THINGS = ["call mum", "buy bread", "book the train", "send the letter", "water the plants"]


def tool(name: str, **fields: str) -> dict[str, Any]:
    """A function as vendors describe it."""
    properties = {field: {"type": kind} for field, kind in fields.items()}
    schema = {"type": "object", "properties": properties, "required": list(fields)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [tool("get_weather", city="string", day="string"), tool("remind", text="string", hour="integer")]

draw = random.Random(11)
rows = []
for number in range(900):
    city, day, thing, hour = draw.choice(CITIES), draw.choice(DAYS), draw.choice(THINGS), draw.randint(1, 12)
    asked, name, arguments = draw.choice(
        [
            (f"What is the weather in {city} {day}?", "get_weather", {"city": city, "day": day}),
            (f"Will it rain {day} in {city}?", "get_weather", {"city": city, "day": day}),
            (f"{city}, {day}: do I need a coat?", "get_weather", {"city": city, "day": day}),
            (f"Remind me to {thing} at {hour}.", "remind", {"text": thing, "hour": hour}),
            (f"At {hour} I have to {thing}. Do not let me forget.", "remind", {"text": thing, "hour": hour}),
        ]
    )
    call = {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows.append({"tools": TOOLS, "messages": [{"role": "user", "content": asked}, answer]})
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(f"{len(rows)} rows in rows.jsonl")
