"""Synthetic chats for the embedded base model: small exercises with one right answer, in many wordings.

They teach the chat format, copying from the prompt, and answering with one of the options that were named. The words
are in `tiny_words`; naming and topic exercises also use real documentation sentences from the corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tiny_words import (
    ACTIVITIES,
    ASIDES,
    ASKING,
    CATEGORIES,
    CITIES,
    FIRST_NAMES,
    LAST_NAMES,
    MENTIONS,
)

Message = dict[str, str]
Chat = list[Message]
ALL_WORDS = tuple(sorted({w for words in CATEGORIES.values() for w in words}))
ALL_ACTIVITIES = tuple((domain, name) for domain, group in ACTIVITIES.items() for name in group)
POLITE = ("You are a helpful assistant.", "Answer briefly.", "You answer with the result only.", "")


def fill(rng: random.Random, text: str) -> str:
    """Replace {category}, {name} and {city} with a random member."""
    while "{" in text:
        start = text.index("{")
        end = text.index("}", start)
        key = text[start + 1 : end]
        choice = {"name": FIRST_NAMES, "city": CITIES}.get(key) or CATEGORIES[key]
        text = text[:start] + rng.choice(choice) + text[end + 1 :]
    return text


def typo(rng: random.Random, text: str, rate: float = 0.02) -> str:
    """Drop, double or swap a letter now and then, as hurried people do."""
    out = list(text)
    i = 0
    while i < len(out) - 1:
        if out[i].isalpha() and rng.random() < rate:
            kind = rng.randrange(3)
            if kind == 0:
                del out[i]
            elif kind == 1:
                out.insert(i, out[i])
                i += 1
            elif out[i + 1].isalpha():
                out[i], out[i + 1] = out[i + 1], out[i]
        i += 1
    return "".join(out)


def roughen(rng: random.Random, text: str) -> str:
    """Lower-case some messages, and put typing mistakes into others."""
    if rng.random() < 0.25:
        text = text.lower()
    return typo(rng, text) if rng.random() < 0.25 else text


def chat(rng: random.Random, task: str, material: str, answer: str) -> Chat:
    """Put the task into a system prompt, or with the material into the user's turn."""
    if rng.random() < 0.6:
        return [_m("system", task), _m("user", material), _m("assistant", answer)]
    system = rng.choice(POLITE)
    joined = rng.choice((f"{task}\n{material}", f"{task}\n\n{material}", f"{material}\n\n{task}", f"{task} {material}"))
    turns = [_m("user", joined), _m("assistant", answer)]
    return [_m("system", system), *turns] if system else turns


def _m(role: str, content: str) -> Message:
    return {"role": role, "content": content.strip()}


def listing(rng: random.Random, items: Sequence[str]) -> str:
    """Join items as people list them."""
    style = rng.randrange(4)
    if style == 0:
        return ", ".join(items)
    if style == 1:
        return "".join(f"\n- {entry}" for entry in items)
    if style == 2:
        return " | ".join(items)
    return ", ".join(items[:-1]) + " or " + items[-1] if len(items) > 1 else items[0]


def label_task(rng: random.Random, what: str, labels: Sequence[str]) -> str:
    """Write an instruction that names the labels."""
    labels_ = listing(rng, labels)
    return rng.choice(
        (
            f"Classify the {what}. Answer with one of: {labels_}.",
            f"Choose the label that fits the {what}.\nLabels: {labels_}",
            f"Which of these fits the {what}?\n{labels_}\nReply with the label only.",
            f"You sort each {what} into exactly one of these groups: {labels_}. Reply with the group only.",
            f"Read the {what} and name its class, one of {labels_}.",
            f"Assign the {what} to one of {labels_}. Answer with the name alone, nothing else.",
        )
    )


def copying(rng: random.Random) -> Chat:
    nouns = rng.sample(ALL_WORDS, rng.randint(1, 5))
    text = " ".join(nouns)
    if rng.random() < 0.3:
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randint(3, 9)))
    kind = rng.randrange(7)
    if kind == 0:
        return chat(rng, rng.choice(("Repeat this:", "Say exactly this:", "Copy the text:", "Echo:")), text, text)
    if kind == 1:
        return chat(rng, rng.choice(("Write in upper case:", "In capitals:")), text, text.upper())
    if kind == 2:
        return chat(rng, rng.choice(("Write in lower case:", "No capitals:")), text.upper(), text.lower())
    if kind == 3:
        noun = rng.choice(nouns)
        return chat(rng, rng.choice(("Spell the word:", "Letter by letter:")), noun, " ".join(noun))
    if kind == 4:
        return chat(
            rng,
            rng.choice(("Reverse the order of the words:", "Backwards, word by word:")),
            text,
            " ".join(reversed(text.split())),
        )
    if kind == 5:
        return chat(
            rng, rng.choice(("Join with underscores:", "In snake case:")), " ".join(nouns), "_".join(nouns).lower()
        )
    return chat(
        rng,
        rng.choice(("First letter of each word:", "Give the initials of:")),
        " ".join(nouns),
        " ".join(w[0] for w in nouns),
    )


def counting(rng: random.Random) -> Chat:
    nouns = rng.sample(ALL_WORDS, rng.randint(1, 7))
    kind = rng.randrange(4)
    if kind == 0:
        return chat(
            rng, rng.choice(("How many items are listed?", "Count the items:")), listing(rng, nouns), str(len(nouns))
        )
    if kind == 1:
        noun = rng.choice(nouns)
        return chat(rng, rng.choice(("How many letters has this word?", "Count the letters:")), noun, str(len(noun)))
    if kind == 2:
        n, k = rng.randint(0, 20), rng.randint(1, 9)
        return chat(rng, "What comes next?", ", ".join(str(n + k * i) for i in range(4)), str(n + 4 * k))
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    return chat(rng, rng.choice(("Add:", "What is the sum?")), f"{a} + {b}", str(a + b))


ORDINALS = ("first", "second", "third", "fourth", "fifth")


def choosing(rng: random.Random) -> Chat:
    options = rng.sample(ALL_WORDS, rng.randint(2, 7))
    choices = listing(rng, options)
    kind = rng.randrange(5)
    if kind == 0:
        position = rng.randrange(min(5, len(options)))
        return chat(
            rng,
            rng.choice((f"Repeat the {ORDINALS[position]} option.", f"Which one is {ORDINALS[position]}?")),
            choices,
            options[position],
        )
    if kind == 1:
        return chat(rng, rng.choice(("Repeat the last option.", "Which comes last?")), choices, options[-1])
    if kind == 2:
        noun = rng.choice(options)
        if sum(o[0] == noun[0] for o in options) > 1:
            return choosing(rng)
        return chat(rng, f"Which option begins with {noun[0]}?", choices, noun)
    if kind == 3:
        noun = rng.choice(options if rng.random() < 0.5 else ALL_WORDS)
        return chat(rng, f"Is {noun} in the list? Answer yes or no.", choices, "yes" if noun in options else "no")
    names = rng.sample(sorted(CATEGORIES), min(len(options), 5))
    options = [rng.choice(CATEGORIES[name]) for name in names]
    i = rng.randrange(len(names))
    if len(set(options)) < len(options):
        return choosing(rng)
    return chat(rng, f"Which of these is {_a(names[i])}?", listing(rng, options), options[i])


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def extracting(rng: random.Random) -> Chat:
    first, last, city = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES), rng.choice(CITIES)
    day, colour, animal = (rng.choice(CATEGORIES[k]) for k in ("weekday", "colour", "animal"))
    number = str(rng.randint(2, 9999))
    fields = {"name": f"{first} {last}", "city": city, "day": day, "colour": colour, "animal": animal, "number": number}
    shape = rng.randrange(4)
    if shape == 0:
        order = rng.sample(sorted(fields), rng.randint(2, 6))
        text_fields = "\n".join(f"{k}: {fields[k]}" for k in order)
    elif shape == 1:
        order = rng.sample(sorted(fields), rng.randint(2, 6))
        text_fields = "{" + ", ".join(f'"{k}": "{fields[k]}"' for k in order) + "}"
    else:
        parts = {
            "name": (f"My name is {first} {last}.", f"{first} {last} here.", f"I am {first} {last}."),
            "city": (f"I live in {city}.", f"I am writing from {city}.", f"We met in {city}."),
            "day": (f"It happened on {day}.", f"See you on {day}.", f"I came back last {day}."),
            "colour": (f"My coat is {colour}.", f"I painted it {colour}."),
            "animal": (f"I have a {animal}.", f"There was a {animal} in the yard."),
            "number": (f"The house number is {number}.", f"I counted {number} of them."),
        }
        order = rng.sample(sorted(parts), rng.randint(2, 6))
        text_fields = " ".join(rng.choice(parts[k]) for k in order)
    requested = rng.choice(order)
    task = rng.choice(
        (
            f"Extract the {requested}.",
            f"What is the {requested}?",
            f"Give only the {requested}:",
            f"Which {requested} is named?",
        )
    )
    return chat(rng, task, text_fields, fields[requested])


def word_class(rng: random.Random) -> Chat:
    names = rng.sample(sorted(CATEGORIES), rng.randint(2, 8))
    name = rng.choice(names)
    return chat(rng, label_task(rng, "word", names), rng.choice(CATEGORIES[name]), name)


def mention_class(rng: random.Random) -> Chat:
    """Which of the categories does the sentence mention? Only one of those named does."""
    names = rng.sample(sorted(MENTIONS), rng.randint(2, 8))
    name = rng.choice(names)
    text = rng.choice(MENTIONS[name]).format(rng.choice(CATEGORIES[name]))
    return chat(rng, label_task(rng, "sentence", names), roughen(rng, text), name)


def made_up_labels(rng: random.Random) -> Chat:
    """Labels without meaning, explained in the prompt."""
    names = rng.sample(sorted(MENTIONS), rng.randint(2, 4))
    labels = rng.sample(("A", "B", "C", "D") if rng.random() < 0.5 else CATEGORIES["colour"], len(names))
    rules = "\n".join(f"{label}: {name}" for label, name in zip(labels, names, strict=True))
    i = rng.randrange(len(names))
    text = rng.choice(MENTIONS[names[i]]).format(rng.choice(CATEGORIES[names[i]]))
    return chat(rng, f"Answer with the code of what the text mentions.\n{rules}", text, labels[i])


def few_shot(rng: random.Random) -> Chat:
    names = rng.sample(sorted(CATEGORIES), 2)
    labels = rng.sample(ALL_WORDS, 2)
    shots = [rng.randrange(2) for _ in range(rng.randint(3, 6))] + [0, 1]
    rng.shuffle(shots)
    lines = "\n".join(f"{rng.choice(CATEGORIES[names[i]])} -> {labels[i]}" for i in shots)
    i = rng.randrange(2)
    return chat(rng, "Continue the pattern.", f"{lines}\n{rng.choice(CATEGORIES[names[i]])} ->", labels[i])


def request(rng: random.Random, domain: str, activity: str) -> str:
    """Somebody asks about an activity, with or without an aside."""
    text = rng.choice(ASKING).replace("{}", rng.choice(ACTIVITIES[domain][activity]))
    if rng.random() < 0.45:
        aside = rng.choice(ASIDES)
        text = f"{aside} {text}" if rng.random() < 0.5 else f"{text} {aside}"
    return roughen(rng, fill(rng, text))


def activity_name(rng: random.Random) -> Chat:
    """Name what is asked about, from memory or among the named labels."""
    domain, name = rng.choice(ALL_ACTIVITIES)
    text = request(rng, domain, name)
    if rng.random() < 0.5:
        task = rng.choice(
            ("Name the activity in snake case.", "What is this about? Reply with the label only.", "Label the message.")
        )
        return chat(rng, task, text, name)
    alternatives = [n for _, n in rng.sample(ALL_ACTIVITIES, rng.randint(2, 7)) if n != name]
    labels = [*alternatives, name]
    rng.shuffle(labels)
    return chat(rng, label_task(rng, "message", labels), text, name)


def activity_domain(rng: random.Random) -> Chat:
    domain, name = rng.choice(ALL_ACTIVITIES)
    labels = rng.sample(sorted(ACTIVITIES), rng.randint(2, len(ACTIVITIES)))
    if domain not in labels:
        labels[rng.randrange(len(labels))] = domain
    return chat(rng, label_task(rng, "message", labels), request(rng, domain, name), domain)


def same_meaning(rng: random.Random) -> Chat:
    domain, name = rng.choice(ALL_ACTIVITIES)
    first = request(rng, domain, name)
    same = rng.random() < 0.5
    second = (domain, name) if same else rng.choice([a for a in ALL_ACTIVITIES if a[1] != name])
    pair = f"1. {first}\n2. {request(rng, *second)}"
    task = rng.choice(("Are both about the same thing? yes or no.", "Do these two ask the same? Answer yes or no."))
    return chat(rng, task, pair, "yes" if same else "no")


def two_matters(rng: random.Random) -> Chat:
    """Two activities in one message: which comes first, which second?"""
    one, two = rng.sample(ALL_ACTIVITIES, 2)
    first, second = (rng.choice(ACTIVITIES[domain][name]) for domain, name in (one, two))
    tellings = (
        f"I want to {first} and later {second}.",
        f"First I had to {first}, then I could {second}.",
        f"On {{weekday}} we {first}, on {{weekday}} we {second}.",
        f"How do I {first}? And how do I {second}?",
        f"My {{family}} likes to {first}. My {{family}} would rather {second}.",
        f"Yesterday: {first}. Today: {second}.",
    )
    position = rng.randrange(2)
    labels = [one[1], two[1]]
    answer = labels[position]
    rng.shuffle(labels)
    questions = rng.choice((f"What comes {ORDINALS[position]}?", f"Name the {ORDINALS[position]} activity."))
    return chat(
        rng,
        f"{questions} {rng.choice(('', listing(rng, labels)))}",
        roughen(rng, fill(rng, rng.choice(tellings))),
        answer,
    )


def small_talk(rng: random.Random) -> Chat:
    domain, name = rng.choice(ALL_ACTIVITIES)
    turns = [_m("user", request(rng, domain, name))]
    phrase = rng.choice(ACTIVITIES[domain][name])
    replies = (
        f"To {phrase}, take your time and start small.",
        f"So you want to {phrase}. What have you tried so far?",
        f"It takes some practice to {phrase}.",
        f"Ask somebody in the {domain} group how they {phrase}.",
    )
    turns.append(_m("assistant", rng.choice(replies)))
    if rng.random() < 0.4:
        turns += [
            _m("user", fill(rng, rng.choice(ASIDES))),
            _m("assistant", rng.choice(("You are welcome.", "Good luck!", "I see."))),
        ]
    system = rng.choice(POLITE)
    return [_m("system", system), *turns] if system else turns


def tool_call(rng: random.Random) -> Chat:
    """Build a conversation in which the assistant reports a tool's answer."""
    city, degrees = rng.choice(CITIES), rng.randint(-10, 35)
    weather = rng.choice(CATEGORIES["weather"])
    return [
        _m("system", "Use the tool's answer."),
        _m("user", rng.choice((f"How is the weather in {city}?", f"What's it like in {city} today?"))),
        _m("tool", f'{{"city": "{city}", "degrees": {degrees}, "sky": "{weather}"}}'),
        _m("assistant", f"{city}: {degrees} degrees, {weather}."),
    ]


class DocumentationExercises:
    """Exercises over real sentences: name the definition, name its package, fill the gap, choose the topic."""

    def __init__(self, names: Sequence[tuple[str, str, str]]) -> None:
        self.names = names
        self.by_package: dict[str, list[tuple[str, str, str]]] = {}
        for entry in names:
            self.by_package.setdefault(entry[0], []).append(entry)
        self.packages = sorted(p for p, items in self.by_package.items() if len(items) >= 8)

    def name_it(self, rng: random.Random) -> Chat:
        _, name, summary = rng.choice(self.names)
        tasks = ("Name the definition in snake case.", "Which name fits this description? Reply with the name only.",
                 "Give the label of this text.", "Name this in snake_case.")  # fmt: skip
        return chat(rng, rng.choice(tasks), summary, name)

    def choose_name(self, rng: random.Random) -> Chat:
        package = rng.choice(self.packages)
        options = {name: summary for _, name, summary in rng.sample(self.by_package[package], rng.randint(3, 8))}
        name = rng.choice(sorted(options))
        return chat(rng, label_task(rng, "description", list(options)), options[name], name)

    def describe(self, rng: random.Random) -> Chat:
        package, name, summary = rng.choice(self.names)
        return chat(rng, rng.choice(("Describe it in one sentence.", "What is this?")), f"{name} ({package})", summary)

    def topic(self, rng: random.Random) -> Chat:
        labels = rng.sample(self.packages, rng.randint(2, 8))
        package = rng.choice(labels)
        return chat(rng, label_task(rng, "description", labels), rng.choice(self.by_package[package])[2], package)

    def gap(self, rng: random.Random) -> Chat:
        _, _, summary = rng.choice(self.names)
        tokens = summary.split()
        positions = [i for i, w in enumerate(tokens) if len(w) > 3 and w.isalpha()]
        if not positions:
            return self.gap(rng)
        i = rng.choice(positions)
        gapped = " ".join([*tokens[:i], "___", *tokens[i + 1 :]])
        return chat(rng, rng.choice(("Fill the gap.", "Which word is missing?")), gapped, tokens[i])


def exercises(names: Sequence[tuple[str, str, str]]) -> tuple[list[Callable[[random.Random], Chat]], list[float]]:
    """All exercises and their shares."""
    table: list[tuple[Callable[[random.Random], Chat], float]] = [
        (copying, 8), (counting, 3), (choosing, 7), (extracting, 8), (word_class, 5), (mention_class, 7),
        (made_up_labels, 4), (few_shot, 3), (activity_name, 12), (activity_domain, 6), (same_meaning, 4),
        (two_matters, 6), (small_talk, 5), (tool_call, 1),
    ]  # fmt: skip
    if len(names) >= 100:
        docs = DocumentationExercises(names)
        table += [(docs.name_it, 12), (docs.gap, 6), (docs.describe, 2)]
        if len(docs.packages) >= 8:
            table += [(docs.choose_name, 6), (docs.topic, 6)]
    return [f for f, _ in table], [w for _, w in table]


def chats(names: Sequence[tuple[str, str, str]], seed: int, count: int) -> list[Chat]:
    """`count` chats, the same ones for the same seed and names."""
    rng = random.Random(seed)
    functions, weights = exercises(names)
    return [rng.choices(functions, weights)[0](rng) for _ in range(count)]
