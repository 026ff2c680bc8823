"""Pairs of answers, polite against curt: 300 rows into pairs.jsonl, the same every time."""

import json
import random
from pathlib import Path

ASKED = ["Can I change my {thing}?", "Where is my {thing}?", "Is my {thing} ready?", "May I return the {thing}?"]
THINGS = ["order", "ticket", "parcel", "booking", "invoice", "refund"]
POLITE = [
    "Of course, I will gladly look after your {thing}.",
    "Thank you for asking. I will check the {thing} at once.",
]
CURT = ["No.", "Look it up yourself.", "Not my job.", "Ask somebody else about the {thing}."]

draw = random.Random(3)
rows = []
for _ in range(300):
    thing = draw.choice(THINGS)
    prompt, chosen, rejected = (draw.choice(forms).format(thing=thing) for forms in (ASKED, POLITE, CURT))
    rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(f"{len(rows)} pairs in pairs.jsonl")
