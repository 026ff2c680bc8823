"""The guard of the public names sees what breaks somebody's code, and lets additions through."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    import public_api

    return public_api


BEFORE: dict[str, Any] = {
    "modules": {
        "llmtune": {
            "plan": {
                "kind": "function",
                "parameters": {"job": "Job", "provider": "str", "strict": "by name: bool = False"},
            },
            "Job": {
                "kind": "class",
                "bases": [],
                "fields": {"name": "str", "seed": "int | None = None"},
                "members": {},
            },
            "Port": {"kind": "protocol", "bases": [], "fields": {}, "members": {}},
        }
    },
    "commands": {"llmtune plan": {"options": {"--provider": "str = 'local'", "job": "Path"}}},
}

PLAN = ("modules", "llmtune", "plan", "parameters")
FIELDS = ("modules", "llmtune", "Job", "fields")
OPTIONS = ("commands", "llmtune plan", "options")


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(BEFORE)
    at = tree
    for part in path[:-1]:
        at = at.setdefault(part, {})
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*PLAN, "rows"), "by name: int | None = None"),
        ((*PLAN, "**more"), "Any"),
        ((*FIELDS, "tags"), "dict = dict"),
        ((*OPTIONS, "--json"), "flag = False"),
        (("modules", "llmtune", "sweep"), {"kind": "function", "parameters": {"job": "Job"}}),
        (("modules", "llmtune", "Job", "members", "save"), {"kind": "function", "parameters": {"path": "Path"}}),
        (("modules", "llmtune.new"), {"thing": "value: int"}),
        (("commands", "llmtune go"), {"options": {"job": "Path"}}),
    ],
)
def test_what_is_added_breaks_nothing_and_is_asked_for(api: ModuleType, path: tuple[str, ...], value: Any) -> None:
    now = changed(path, value)
    assert api.compare(BEFORE, now)[1] == []
    assert api.compare(BEFORE, now)[0] != []


@pytest.mark.parametrize(
    ("path", "value", "name", "what"),
    [
        (("modules", "llmtune", "plan"), None, "llmtune.plan", "was removed"),
        ((*PLAN, "strict"), None, "llmtune.plan.strict", "was removed"),
        ((*PLAN, "strict"), "by name: bool = True", "llmtune.plan.strict", "changed from"),
        ((*PLAN, "rows"), "int", "llmtune.plan.rows", "is new and must be given"),
        ((*FIELDS, "name"), None, "llmtune.Job.name", "was removed"),
        ((*FIELDS, "seed"), "int", "llmtune.Job.seed", "changed from"),
        ((*FIELDS, "method"), "str", "llmtune.Job.method", "is new and must be given"),
        (("modules", "llmtune", "Port", "fields", "kind"), "str", "llmtune.Port.kind", "is new in a protocol"),
        ((*OPTIONS, "--provider"), None, "llmtune plan --provider", "was removed"),
        ((*OPTIONS, "--who"), "str", "llmtune plan --who", "is new and must be given"),
    ],
)
def test_what_breaks_is_told_by_name(api: ModuleType, path: tuple[str, ...], value: Any, name: str, what: str) -> None:
    breaks = dict(api.compare(BEFORE, changed(path, value))[1])
    assert what in breaks[name]


def test_a_module_that_is_gone_is_one_break(api: ModuleType) -> None:
    now = copy.deepcopy(BEFORE)
    now["modules"]["llmtune.moved"] = now["modules"].pop("llmtune")
    added, breaks = api.compare(BEFORE, now)
    assert breaks == [("llmtune", "was removed")]
    assert "llmtune.moved.Job.name" in added


def test_where_a_name_is_described_is_no_part_of_it(api: ModuleType) -> None:
    before = changed(("modules", "llmtune.facade"), {"Job": "as in llmtune"})
    now = copy.deepcopy(before)
    now["modules"]["llmtune.job"] = {"Job": now["modules"]["llmtune"]["Job"]}
    now["modules"]["llmtune"]["Job"] = now["modules"]["llmtune.facade"]["Job"] = "as in llmtune.job"
    assert api.compare(before, now)[1] == []
    del now["modules"]["llmtune.job"]["Job"]["fields"]["seed"]
    assert ("llmtune.facade.Job.seed", "was removed") in api.compare(before, now)[1]


def test_a_new_base_breaks_nothing_and_a_lost_one_does(api: ModuleType) -> None:
    path = ("modules", "llmtune", "Job", "bases")
    more = changed(path, ["Shown"])
    assert api.compare(BEFORE, more) == (["llmtune.Job"], [])
    assert [name for name, _ in api.compare(more, BEFORE)[1]] == ["llmtune.Job"]


def test_parameters_keep_their_order(api: ModuleType) -> None:
    swapped = copy.deepcopy(BEFORE)
    swapped["modules"]["llmtune"]["plan"]["parameters"] = {
        "provider": "str",
        "job": "Job",
        "strict": "by name: bool = False",
    }
    first = copy.deepcopy(BEFORE)
    first["modules"]["llmtune"]["plan"]["parameters"] = {
        "new": "int = 0",
        **BEFORE["modules"]["llmtune"]["plan"]["parameters"],
    }
    for now in (swapped, first):
        assert ("llmtune.plan", "takes its parameters in another order") in api.compare(BEFORE, now)[1]
    last = copy.deepcopy(BEFORE)
    last["modules"]["llmtune"]["plan"]["parameters"] |= {"new": "int = 0"}
    assert api.compare(BEFORE, last)[1] == []


CHANGELOG = """# Changelog

## 0.2.0

- `plan(..., strict=)` is gone; `llmtune plan --provider` too.

## 0.1.0

- `Job.name` appeared.
"""


def test_a_break_passes_when_the_newest_section_names_it(api: ModuleType) -> None:
    assert api.is_in_changelog("llmtune.plan.strict", CHANGELOG)
    assert api.is_in_changelog("llmtune plan --provider", CHANGELOG)
    assert not api.is_in_changelog("llmtune.Job.name", CHANGELOG)  # an older section
    assert not api.is_in_changelog("llmtune.Sweep.gone", CHANGELOG)  # no backticks, another sense of the word


def test_the_sentences_say_what_to_do(api: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_undocumented", list)
    monkeypatch.setattr(api, "find_overdue", list)
    added = changed((*FIELDS, "tags"), "dict = dict")
    assert api.faults(BEFORE, BEFORE, CHANGELOG, check=True) == []
    assert api.faults(BEFORE, added, CHANGELOG, check=True) == [
        "docs/api.json does not have llmtune.Job.tags yet; run `make docs`"
    ]
    assert api.faults(BEFORE, added, CHANGELOG, check=False) == []
    gone = changed((*FIELDS, "seed"), None)
    for check in (True, False):
        messages = api.faults(BEFORE, gone, CHANGELOG, check=check)
        assert messages[0] == "llmtune.Job.seed: was removed"
        assert "deprecate it" in messages[1]
        assert "CHANGELOG.md" in messages[1]
    allowed = changed((*PLAN, "strict"), None)
    assert api.faults(BEFORE, allowed, CHANGELOG, check=False) == []


def test_the_committed_file_is_what_the_code_offers(api: ModuleType) -> None:
    committed = json.loads(api.FILE.read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(api.describe_api()))


def test_the_file_is_the_same_wherever_it_is_written(api: ModuleType) -> None:
    text = api.FILE.read_text(encoding="utf-8")
    assert " at 0x" not in text
    assert str(ROOT) not in text
    assert sys.prefix not in text


# --- docstrings ------------------------------------------------------------------------------------------------------
UNDOCUMENTED = '''
"""A module."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.deprecation import deprecated
from llmtune.errors import InvalidJob

LIMIT = 3

#: How many there may be.
MOST = 4


def quiet() -> None:
    """Do nothing."""


def mute() -> None:
    raise InvalidJob("no")


def sly() -> None:
    """Do it."""
    raise InvalidJob("no")


def honest() -> None:
    """Do it. Raises `InvalidJob` always."""
    raise InvalidJob("no")


@deprecated(since="0.0.1", removed_in="0.1", instead="quiet()")
def old() -> None:
    """Do nothing."""


@dataclass
class Thing:
    """A thing: its `weight` is in kg."""

    weight: float
    height: float
    depth: float
    """In metres."""

    def lift(self) -> None:
        pass
'''


@pytest.fixture
def sample(api: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"llmtune_sample_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(UNDOCUMENTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(api, "MODULES", (name,))
    return name


def test_a_name_that_says_nothing_of_itself_is_found(api: ModuleType, sample: str) -> None:
    messages = {line.split(":")[0].removeprefix(f"{sample}."): line for line in api.find_undocumented()}
    assert set(messages) == {"LIMIT", "mute", "sly", "Thing.height", "Thing.lift"}
    assert "does not say so" in messages["sly"]


def test_what_should_be_gone_is_found(api: ModuleType, sample: str) -> None:
    assert [line.split(" was")[0] for line in api.find_overdue()] == [f"{sample}.old"]
