"""Questions and answers in a shop's own voice: 600 rows into rows.jsonl, the same every time."""

import json
import random
from pathlib import Path

THINGS = ["lamp", "chair", "mug", "towel", "plant", "clock", "pillow", "candle"]
TOPICS = {
    "late": (
        ["where is my {thing}?", "my {thing} has not come yet", "how long will the {thing} take?"],
        "Your {thing} is on its way and should be with you in {days} days.",
    ),
    "broken": (
        ["my {thing} is broken", "the {thing} came in pieces", "there is a crack in the {thing}"],
        "We are sorry about your {thing}. A new one leaves in {days} days.",
    ),
    "return": (
        ["can i send the {thing} back?", "i do not want the {thing} any more", "how do i return a {thing}?"],
        "You can return the {thing} within {days} days. The label is in the box.",
    ),
}
DAYS = {"late": 2, "broken": 1, "return": 30}

draw = random.Random(5)
rows = []
for _ in range(600):
    topic = draw.choice(list(TOPICS))
    asked, said = TOPICS[topic]
    thing = draw.choice(THINGS)
    answer = f"Hello and thank you for writing! {said.format(thing=thing, days=DAYS[topic])} Warmly, the lamp shop"
    question = draw.choice(asked).format(thing=thing)
    rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(f"{len(rows)} rows in rows.jsonl")
