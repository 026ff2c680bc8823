"""Short reviews, good or bad: 800 rows into reviews.jsonl, the same every time."""

import json
import random
from pathlib import Path

GOOD = ["wonderful", "charming", "brilliant", "moving", "funny", "a delight"]
BAD = ["dull", "boring", "a waste", "clumsy", "lifeless", "tiresome"]
FORMS = [
    "the film is {word}",
    "a {word} story, from start to end",
    "i found it {word}",
    "what a {word} evening",
    "{word}, all of it",
]

draw = random.Random(2)
rows = []
for _ in range(800):
    label = draw.choice(["good", "bad"])
    word = draw.choice(GOOD if label == "good" else BAD)
    rows.append({"text": draw.choice(FORMS).format(word=word), "label": label})
Path("reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(f"{len(rows)} rows in reviews.jsonl")
