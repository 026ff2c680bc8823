"""Write orders as people send them, and what a till needs of them as JSON: train, validation and test.jsonl.

The same every time. The test is not a repetition: no two of a test order's name, town and item stand together in any
order that is trained on, so no row has the answer to another.
"""

import itertools
import json
import random
import re
from collections.abc import Collection, Iterator
from pathlib import Path

SYSTEM = "Answer with the order as JSON: name, city, item, count."


def split_words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


NAMES = split_words(
    "Anna Boris Clara David Elena Farid Greta Hugo Irina Jakob Karin Leon Maria Nadia Oskar Paula Rosa Vera"
)
CITIES = split_words("Lyon Porto Graz Turin Bergen Leeds Cork Malmo Ghent Lodz Brno Bilbao Dresden Nantes Parma Basel")
ITEMS = split_words(
    "lamp chair mug towel blanket candle mirror clock basket pillow curtain vase apron stool teapot rug"
)
WORDS = split_words("two three four five six")

#: Whole orders, and parts that are put together in any order; [a|b] is one of the two.
PHRASES = {
    "before": ("", "", "Hi, ", "Hello, ", "Good morning. ", "Dear shop, ", "Hey, ", "A question: "),
    "order": (
        "{name} here from {city}. I would like {count} {item}, please.",
        "[please send|can you send|I need you to send] {count} {item} to {name} in {city}.",
        "{count} {item} for {name}, {city}.",
        "[could you|can you] ship {item} to {city}? {count} of them. My name is {name}.",
        "this is {name}. We need {count} {item} in our [shop|office|house] in {city}.",
        "[the order is for|this is for] {name} in {city}: {count} {item}.",
        "we are [opening a cafe|moving house] in {city} and [would take|want] {count} {item}. Ask for {name}.",
        "[how soon|when] can {count} {item} be in {city}? I am {name}.",
        "deliver to {city}: {count} {item}. {name} will [sign|be there].",
    ),
    "name": (
        "My name is {name}.",
        "I am {name}.",
        "It is for {name}.",
        "{name} [will pay|ordered this].",
        "Yours, {name}.",
    ),
    "city": (
        "We live in {city}.",
        "Send it to {city}.",
        "{city} is our town.",
        "The shop is in {city}.",
        "I write from {city}.",
    ),
    "item": (
        "I want {count} {item}.",
        "{count} {item}, please.",
        "We need {count} {item}.",
        "I saw your {item}: {count} of them.",
    ),
    "after": ("", "", " Thanks!", " Thank you.", " It is a present.", " No hurry.", " Is that all right?"),
}
Order = dict[str, str | int]


def draw_orders(draw: random.Random, excluded: Collection[tuple[object, ...]] = ()) -> Iterator[Order]:
    """Draw orders without end, none of which has one of the `excluded` pairs of name, city and item."""
    while True:
        order: Order = {"name": draw.choice(NAMES), "city": draw.choice(CITIES), "item": draw.choice(ITEMS)}
        if not any(pair in excluded for pair in pairs_of(order)):
            yield order | {"count": draw.randint(2, len(WORDS) + 1)}


def pairs_of(order: Order) -> list[tuple[object, ...]]:
    """Return every two of an order's name, city and item."""
    return list(itertools.combinations((order["name"], order["city"], order["item"]), 2))


def write_row(draw: random.Random, order: Order) -> str:
    """Return a chat, as a JSON line, that gives the order in words and is answered with it as JSON."""
    body = draw.choice(PHRASES["order"])
    if draw.random() < 0.6:
        body = " ".join(draw.choice(PHRASES[part]) for part in draw.sample(("name", "city", "item"), 3))
    text = draw.choice(PHRASES["before"]) + body + draw.choice(PHRASES["after"])
    text = re.sub(r"\[([^]]*)\]", lambda match: draw.choice(match[1].split("|")), text)
    count = int(order["count"])
    values = order | {"count": draw.choice((count, WORDS[count - 2])), "item": f"{order['item']}s"}
    turns = {"system": SYSTEM, "user": text.format(**values), "assistant": json.dumps(order)}
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns.items()]})


if __name__ == "__main__":
    draw = random.Random(7)
    test = list(itertools.islice(draw_orders(draw), 150))
    others = draw_orders(draw, {pair for order in test for pair in pairs_of(order)})
    train, validation = list(itertools.islice(others, 2000)), list(itertools.islice(others, 100))
    for name, orders in (("train", train), ("validation", validation), ("test", test)):
        rows = [write_row(draw, order) + "\n" for order in orders]
        Path(f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
        print(f"{len(rows)} rows in {name}.jsonl")
