"""The twelve tasks of the first-try benchmark: where their rows come from, what is tuned, and how an answer is scored.

Rows are made when the benchmark runs. Four sets are read from a folder of published files (banking77, SST-2, the
GetWeather intent of SNIPS, GSM8K) and are never part of the repository; the others are generated, or made by the
examples' own scripts. The same seed gives the same rows.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import runpy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"

Row = dict[str, Any]
Metric = Literal["accuracy", "macro_f1", "exact_match", "final_number", "tool_calls", "rouge_l"]


class MissingData(Exception):
    """The published files of a task are not in the data folder."""


@dataclass(frozen=True)
class Task:
    """One task. `build` returns all rows in a fixed order, given the data folder; the counts are upper limits."""

    name: str
    model: str
    metric: Metric
    build: Callable[[Path | None], list[Row]]
    train: int = 1000
    validation: int = 100
    test: int = 500
    source: str = "generated"

    @property
    def method(self) -> str:
        """Method of the job: a head for labels on an encoder, else supervised tuning on answers."""
        return "classification" if self.model == "tiny-encoder" else "sft"


@dataclass(frozen=True)
class Split:
    """The rows of one task, in the form that its job reads."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


def split(task: Task, data: Path | None, *, rows: int | None = None, test_rows: int | None = None) -> Split:
    """Build and divide the rows of a task. No prompt stands in two parts.

    `rows` and `test_rows` lower the limits of the task. Published files whose test rows are apart mark them with
    `"split": "test"`.
    """
    every = list(_distinct(task.build(data)))
    random.Random(0).shuffle(every)
    apart = [row for row in every if row.get("split") == "test"]
    others = [row for row in every if row.get("split") != "test"]
    n_test = min(task.test, test_rows or task.test)
    n_validation = task.validation
    if not apart:
        n_test = min(n_test, len(others) // 5 if task.train > 60 else n_test)
        n_validation = min(n_validation, len(others) // 10) if task.train > 60 else n_validation
        apart, others = others[:n_test], others[n_test:]
    validation, train = others[:n_validation], others[n_validation:]
    n_train = min(task.train, rows or task.train)
    parts = (train[:n_train], validation, apart[:n_test])
    return Split(*([_without_split(row) for row in part] for part in parts))


def _distinct(rows: list[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        key = question(row)
        if key not in seen:
            seen.add(key)
            yield row


def _without_split(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "split"}


def question(row: Row) -> str:
    """Return the text that a row asks about."""
    return str(row["text"]) if "text" in row else str(row["messages"][-2]["content"])


def answer(row: Row) -> str:
    """Return the expected answer of a row as text; tool calls as canonical JSON."""
    if "label" in row:
        return str(row["label"])
    turn = row["messages"][-1]
    if turn.get("tool_calls"):
        return canonical_calls((call["function"]["name"], call["function"]["arguments"]) for call in turn["tool_calls"])
    return str(turn["content"])


def canonical_calls(calls: Any) -> str:
    """Write (name, arguments as JSON text) pairs so that equal calls are equal text."""
    parsed = []
    for name, arguments in calls:
        with contextlib.suppress(ValueError, TypeError):
            arguments = json.loads(arguments)
        parsed.append([name, arguments])
    return json.dumps(parsed, sort_keys=True)


def as_labelled(row: Row) -> Row:
    """Turn a chat row with a label for an answer into a row of text and label."""
    return {"text": question(row), "label": answer(row)} | ({"split": row["split"]} if "split" in row else {})


def as_chat(row: Row, system: str) -> Row:
    """Turn a row of text and label into a chat row."""
    return _chat(system, row["text"], row["label"], **({"split": row["split"]} if "split" in row else {}))


def _chat(system: str, user: str, assistant: str, **more: Any) -> Row:
    turns = [("system", system)] if system else []
    turns += [("user", user), ("assistant", assistant)]
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


# --- published sets ---------------------------------------------------------------------------------------------------
def _file(data: Path | None, *names: str) -> Path:
    """Find a published file in the data folder, by the first of its usual places."""
    for name in names:
        if data is not None and (data / name).is_file():
            return data / name
    raise MissingData(f"none of {', '.join(names)} is in the data folder (--data)")


def _read_jsonl(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:  # not splitlines: texts hold other line separators
        return [json.loads(line) for line in file if line.strip()]


def banking77(data: Path | None) -> list[Row]:
    """Intents of bank customers (Casanueva et al., arXiv:2003.04807, CC BY 4.0)."""
    rows: list[Row] = []
    for part in ("train", "test"):
        path = _file(data, f"originals/banking77/{part}.csv", f"banking77/{part}.csv")
        with path.open(encoding="utf-8", newline="") as file:
            rows += [
                {"text": line["text"], "label": line["category"]} | ({"split": "test"} if part == "test" else {})
                for line in csv.DictReader(file)
            ]
    return rows


def sst2(data: Path | None) -> list[Row]:
    """Sentiment of film reviews (Socher et al. 2013), one sentence a line with its label before it."""
    names = {"0": "negative", "1": "positive"}
    rows: list[Row] = []
    for part in ("train", "test"):
        path = _file(data, f"originals/sst2/stsa.binary.{part}", f"sst2/stsa.binary.{part}")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                label, text = line.split(" ", 1)
                rows.append({"text": text, "label": names[label]} | ({"split": "test"} if part == "test" else {}))
    return rows


def snips_weather(data: Path | None) -> list[Row]:
    """Slots of weather questions as JSON (Coucke et al., arXiv:1805.10190)."""
    path = _file(data, "originals/snips/train_GetWeather.json", "snips/train_GetWeather.json")
    rows = []
    for entry in json.loads(path.read_text(encoding="utf-8"))["GetWeather"]:
        text = "".join(part["text"] for part in entry["data"])
        slots = {part["entity"]: part["text"].strip() for part in entry["data"] if "entity" in part}
        rows.append(_chat("Extract the slots of the weather question as JSON.", text.strip(), json.dumps(slots)))
    return rows


def gsm8k(data: Path | None) -> list[Row]:
    """Final numbers of school maths (Cobbe et al., arXiv:2110.14168, MIT)."""
    rows: list[Row] = []
    for part in ("train", "test"):
        path = _file(data, f"chat/gsm8k/{part}.jsonl", f"gsm8k/{part}.jsonl")
        for row in _read_jsonl(path):
            asked, said = (
                (row["question"], row["answer"])
                if "question" in row
                else (question(row), row["messages"][-1]["content"])
            )
            number = said.rsplit("####", 1)[-1].strip().replace(",", "")
            more = {"split": "test"} if part == "test" else {}
            rows.append(_chat("Answer with the number only.", asked, number, **more))
    return rows


# --- the examples' own rows -------------------------------------------------------------------------------------------
def example(name: str) -> Callable[[Path | None], list[Row]]:
    """Return a builder that runs an example's `make.py` and reads its rows; those of `test.jsonl` are test rows."""

    def build(_: Path | None) -> list[Row]:
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.chdir(folder)
            try:
                runpy.run_path(str(EXAMPLES / name / "make.py"), run_name="__main__")
            finally:
                os.chdir(before)
            return [
                row | ({"split": "test"} if path.stem == "test" else {})
                for path in sorted(Path(folder).glob("*.jsonl"))
                for row in _read_jsonl(path)
            ]

    return build


def tickets(_: Path | None) -> list[Row]:
    """The demo's tickets, routed to eight teams."""
    return _read_jsonl(EXAMPLES / "tickets" / "tickets.jsonl")


# --- generated sets ---------------------------------------------------------------------------------------------------
def few(_: Path | None) -> list[Row]:
    """Tickets of three teams: sixty rows to train on."""
    chosen = ("billing", "shipping", "technical")
    system = f"Route the ticket to one team: {', '.join(chosen)}."
    return [_chat(system, question(row), answer(row)) for row in tickets(None) if answer(row) in chosen]


_PLACES = [
    "the lift",
    "the north door",
    "room 12",
    "the car park",
    "the kitchen",
    "the second floor",
    "the boiler room",
    "the roof",
]
_INSPECTED = ["pump", "valve", "sensor", "filter", "fan", "belt", "hinge", "gauge", "heater", "cable", "tank", "switch"]
_LOG: dict[str, tuple[str, ...]] = {
    "normal": (
        "Checked the {thing} at {place}, all in order.",
        "{place}: {thing} cleaned, no findings.",
        "Routine round, the {thing} near {place} runs as it should.",
        "Replaced the {thing} at {place} as planned, the old one was loose.",
        "Nothing to report about the {thing} at {place}.",
        "Read the {thing} at {place}, value within limits.",
        "The leak at {place} is repaired, {thing} runs again.",
        "Smoke test of the {thing} at {place} passed.",
    ),
    "fault": (
        "The {thing} at {place} does not run any more.",
        "{place}: {thing} leaks, put a bucket under it.",
        "Strange noise from the {thing} near {place}, must be looked at.",
        "The {thing} at {place} is loose and out of order.",
        "Value of the {thing} at {place} is not within limits.",
        "{place}: cleaned the {thing}, it does not run as it should.",
    ),
    "danger": (
        "Smoke from the {thing} at {place}, area closed.",
        "{place}: bare wires at the {thing}, nobody may go near.",
        "Smell of gas by the {thing} at {place}, switched off at once.",
        "The {thing} at {place} is red hot, closed the door.",
    ),
}
_REMARKS = (
    "",
    "",
    "Took {n} minutes.",
    "Signed {who}.",
    "Next look in {n} days.",
    "With {who}.",
    "The fault of last week is gone.",
    "No danger to anybody.",
    "The area is closed until {n} o'clock, as every week.",
    "{who} will look at the leak next door.",
)
_PEOPLE = ["Ada", "Ben", "Cem", "Dora", "Eve", "Finn", "Gus", "Hana"]


def _misspell(draw: random.Random, text: str, share: float) -> str:
    """Swap neighbouring letters in a share of the texts, twice."""
    if draw.random() > share:
        return text
    letters = list(text)
    for _number in range(2):
        at = draw.randrange(len(letters) - 1)
        letters[at : at + 2] = reversed(letters[at : at + 2])
    return "".join(letters)


def imbalanced(_: Path | None) -> list[Row]:
    """Entries of a caretaker's log: 86 % normal, 10 % faults, 4 % dangers."""
    draw = random.Random(19)
    rows = []
    for _number in range(3000):
        label = draw.choices(("normal", "fault", "danger"), (0.86, 0.10, 0.04))[0]
        entry = draw.choice(_LOG[label]).format(thing=draw.choice(_INSPECTED), place=draw.choice(_PLACES))
        remark = draw.choice(_REMARKS).format(n=draw.randint(3, 59), who=draw.choice(_PEOPLE))
        text = f"{entry[0].upper()}{entry[1:]} {remark}".strip()
        rows.append({"text": _misspell(draw, text, 0.25), "label": label})
    return rows


def _tool(name: str, **fields: str) -> dict[str, Any]:
    properties = {field: {"type": kind} for field, kind in fields.items()}
    schema = {"type": "object", "properties": properties, "required": list(fields)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


_TOOLS = [_tool("set_heating", room="string", degrees="integer"), _tool("play", station="string", minutes="integer")]
_ROOMS = ["kitchen", "bathroom", "office", "hall", "cellar", "bedroom", "attic", "garage"]
_STATIONS = ["jazz", "news", "opera", "rock", "folk", "chess", "sport", "poetry"]
_ORDERS = (
    ("set_heating", "Make the {room} {degrees} degrees warm."),
    ("set_heating", "{degrees} degrees in the {room}, please."),
    ("set_heating", "I am cold in the {room}, {degrees} would be nice."),
    ("set_heating", "Heat the {room} to {degrees}."),
    ("set_heating", "The {room} should have {degrees} degrees when we come home."),
    ("play", "Play the {station} station for {minutes} minutes."),
    ("play", "{minutes} minutes of {station}, please."),
    ("play", "I would like to hear {station}, {minutes} minutes of it."),
    ("play", "Let {station} run for {minutes} minutes."),
    ("play", "Put {station} on and stop after {minutes} minutes."),
)


def tool_calls(_: Path | None) -> list[Row]:
    """Orders to a house, two functions on offer, and the call that carries each out."""
    draw = random.Random(11)
    rows = []
    for number in range(2500):
        name, form = draw.choice(_ORDERS)
        arguments = (
            {"room": draw.choice(_ROOMS), "degrees": draw.randint(16, 27)}
            if name == "set_heating"
            else {"station": draw.choice(_STATIONS), "minutes": draw.randrange(5, 65, 5)}
        )
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        turns = [
            {"role": "user", "content": form.format(**arguments)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        rows.append({"tools": _TOOLS, "messages": turns})
    return rows


_GOODS = [
    "lamp",
    "chair",
    "mug",
    "towel",
    "plant",
    "clock",
    "pillow",
    "candle",
    "rug",
    "mirror",
    "vase",
    "shelf",
    "basket",
    "blanket",
    "kettle",
    "frame",
]
_CONCERNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("where is my {thing}?", "my {thing} has not come yet", "how long will the {thing} take?", "no {thing} so far"),
        "Your {thing} is on its way and should be with you in two days.",
    ),
    (
        ("my {thing} is broken", "the {thing} came in pieces", "there is a crack in the {thing}", "a damaged {thing}!"),
        "We are sorry about your {thing}. A new one leaves tomorrow.",
    ),
    (
        ("can i send the {thing} back?", "i do not want the {thing}", "how do i return a {thing}?", "{thing}: refund?"),
        "You can return the {thing} within thirty days. The label is in the box.",
    ),
    (
        (
            "do you have the {thing} in blue?",
            "is there a smaller {thing}?",
            "other kinds of {thing}?",
            "a red {thing}?",
        ),
        "We make every {thing} by hand: tell us what you dream of.",
    ),
)
_MANNERS = (
    "{asked}",
    "hi, {asked}",
    "{asked} thanks",
    "hello there! {asked}",
    "good morning, {asked}",
    "sorry, {asked}",
)


def style(_: Path | None) -> list[Row]:
    """Questions to a shop, answered in the shop's own voice."""
    draw = random.Random(5)
    rows = []
    for _number in range(4000):
        forms, said = draw.choice(_CONCERNS)
        thing = draw.choice(_GOODS)
        asked = draw.choice(_MANNERS).format(asked=draw.choice(forms).format(thing=thing))
        answered = f"Hello and thank you for writing! {said.format(thing=thing)} Warmly, the house of small things"
        rows.append(_chat("", asked, answered))
    return rows


_DEPARTMENTS: dict[str, str] = {
    "finance": "budget,invoice,payment,tax return,bank statement,expense claim,balance sheet,late fee",
    "legal": "contract,clause,court date,patent,signature,licence terms,liability,confidentiality agreement",
    "hiring": "applicant,job advert,interview,salary offer,references,trial week,trainee place,notice period",
    "it": "laptop,password,printer,network drive,software update,screen,backup,mail account",
    "facilities": "heating,meeting room,parking space,broken window,cleaning,key card,coffee machine,light bulb",
    "travel": "flight,hotel booking,train ticket,visa,rental car,daily allowance,travel insurance,taxi receipt",
    "marketing": "brochure,campaign,trade fair,logo,press release,newsletter,slogan,customer survey",
    "logistics": "pallet,warehouse shelf,delivery van,customs form,stock count,packaging,forklift,loading ramp",
}
_MEMOS = (
    "{who} asks about the {thing}",
    "please see to the {thing} before {day}",
    "the {thing} is missing again",
    "we have a question on the {thing}, {who} knows more",
    "who decides on the {thing}?",
    "the {thing} from {day} looks wrong",
    "{who} wants the {thing} changed",
    "can somebody explain the {thing} to {who}",
    "a note on the {thing}: it has to be ready by {day}",
    "the {thing} and the {other} were mixed up, it is the {thing} that matters",
    "the {other} is settled, what is left is the {thing}",
    "where do i find the {thing}?",
    "{day}: the {thing}, and ask {who}",
)
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]


def memos(_: Path | None) -> list[Row]:
    """Short memos to eight departments: what a first user has in a CSV file of 800 rows."""
    draw = random.Random(23)
    things = {label: text.split(",") for label, text in _DEPARTMENTS.items()}
    rows = []
    for _number in range(2500):
        label = draw.choice(list(things))
        another = draw.choice([name for name in things if name != label])
        memo = draw.choice(_MEMOS).format(
            thing=draw.choice(things[label]),
            other=draw.choice(things[another]),
            who=draw.choice(_PEOPLE),
            day=draw.choice(_DAYS),
        )
        rows.append({"text": _misspell(draw, memo, 0.1), "label": label})
    return rows


_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_APPOINTMENTS = (
    "The {what} is on {day} {month} {year} at {hour}.",
    "{what} at {hour}, {month} {day}, {year}",
    "Moved: {what}, now {day} {month} {year}, {hour}",
    "Can we do the {what} on {month} {day} {year} at {hour}?",
)
_OCCASIONS = ["review", "dentist", "lunch", "training", "call", "audit"]


def dates(_: Path | None) -> list[Row]:
    """Appointments in words, and what a calendar takes of them: nothing a linear model could answer."""
    draw = random.Random(29)
    rows = []
    for _number in range(2000):
        day, month, year = draw.randint(1, 28), draw.randint(1, 12), draw.randint(2024, 2029)
        hour, what = draw.randint(8, 17), draw.choice(_OCCASIONS)
        text = draw.choice(_APPOINTMENTS).format(
            what=what, day=day, month=_MONTHS[month - 1], year=year, hour=f"{hour}:00"
        )
        text = text[0].upper() + text[1:]
        entry = f"{year}-{month:02}-{day:02} {hour:02}:00 {what}"
        rows.append(_chat("Write the appointment as: date time what.", text, entry))
    return rows


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("banking77", "tiny-encoder", "accuracy", banking77, source="published"),
        Task("sst2", "tiny-encoder", "accuracy", sst2, source="published"),
        Task("snips-weather", "tiny", "exact_match", snips_weather, source="published"),
        Task("gsm8k-answers", "tiny", "final_number", gsm8k, source="published"),
        Task("tickets", "tiny", "accuracy", tickets, source="example"),
        Task("extraction", "tiny", "exact_match", example("extraction"), source="example"),
        Task("tool-calls", "tiny", "tool_calls", tool_calls),
        Task("style", "tiny", "rouge_l", style),
        Task("sixty-rows", "tiny", "accuracy", few, train=60, validation=30, test=300),
        Task("imbalanced", "tiny-encoder", "macro_f1", imbalanced),
        Task("memos", "tiny-encoder", "accuracy", memos, train=800),
        Task("dates", "tiny", "exact_match", dates),
    )
}

#: Tasks on which a larger model is measured too.
LARGER = ("tickets", "extraction", "gsm8k-answers")
