"""Customers' requests and the department that takes each: 80 rows for training and 16 for validation."""

import json
import random
from pathlib import Path

REQUESTS = {
    "billing": ["I was charged twice for {}", "Where is the invoice for {}?", "Please refund {}"],
    "shipping": ["When does {} arrive?", "{} went to the wrong address", "The box of {} came open"],
    "support": ["{} does not switch on", "How do I clean {}?", "The light of {} blinks red"],
}
PRODUCTS = ["the kettle", "my lamp", "the clock", "our radio", "the fan", "a heater", "the scale", "my drill"]

draw = random.Random(5)
pairs = [(form.format(product), name) for name, forms in REQUESTS.items() for form in forms for product in PRODUCTS]
pairs += draw.sample(pairs, 96 - len(pairs))
draw.shuffle(pairs)
for file, part in (("train.jsonl", pairs[:80]), ("valid.jsonl", pairs[80:])):
    with Path(file).open("w", encoding="utf-8") as lines:
        for request, department in part:
            messages = [
                {"role": "system", "content": "Name the department: billing, shipping or support."},
                {"role": "user", "content": request},
                {"role": "assistant", "content": department},
            ]
            lines.write(json.dumps({"messages": messages}) + "\n")
    print(f"{len(part)} rows in {file}")
