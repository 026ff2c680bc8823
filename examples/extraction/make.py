"""Orders as people write them, and what a till needs of them as JSON: 900 rows into rows.jsonl, the same every time."""

import json
import random
from pathlib import Path

NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Farid"]
CITIES = ["Lyon", "Porto", "Graz", "Turin", "Bergen"]
ITEMS = ["lamps", "chairs", "mugs", "towels"]
FORMS = [
    "Hi, {name} here from {city}. I would like {count} {item}, please.",
    "Please send {count} {item} to {name} in {city}.",
    "{count} {item} for {name}, {city}. Thanks!",
    "Could you ship {item} to {city}? {count} of them. My name is {name}.",
    "This is {name}. We need {count} {item} in our shop in {city}.",
]

draw = random.Random(7)
rows = []
for _ in range(900):
    told = {
        "name": draw.choice(NAMES),
        "city": draw.choice(CITIES),
        "item": draw.choice(ITEMS),
        "count": draw.randint(2, 5),
    }
    rows.append(
        {
            "messages": [
                {"role": "system", "content": "Answer with the order as JSON: name, city, item, count."},
                {"role": "user", "content": draw.choice(FORMS).format(**told)},
                {"role": "assistant", "content": json.dumps(told)},
            ]
        }
    )
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(f"{len(rows)} rows in rows.jsonl")
