"""A wrong keyword of a public function is refused before anything is done, and signatures list every keyword."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import llmtune
from llmtune.errors import UnknownOption
from llmtune.runs.keywords import StartKeywords, TuneKeywords, WaitKeywords
from llmtune.runs.run import Run

VERBS = ["compare", "plan", "plan_all", "probe", "rescue", "rescue_all", "start", "sweep", "tune"]


@pytest.mark.parametrize("name", VERBS)
def test_an_unknown_keyword_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UnknownOption, match=rf"^{name}\(\): unknown option 'nonsense_option'; known: "):
        getattr(llmtune, name)(None, "nowhere", nonsense_option=1)


@pytest.mark.parametrize("name", ["compare", "probe", "rescue", "rescue_all", "start", "sweep", "tune"])
def test_the_nearest_keyword_is_suggested_and_it_is_a_type_error_too(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(\): unknown option 'bugdet'; did you mean 'budget'\?"):
        getattr(llmtune, name)(None, bugdet=20)


@pytest.mark.parametrize("name", ["start_async", "tune_async"])
def test_async_functions_refuse_it_too_and_stay_coroutine_functions(name: str) -> None:
    function: Callable[..., Any] = getattr(llmtune, name)
    assert inspect.iscoroutinefunction(function)
    with pytest.raises(UnknownOption, match="did you mean 'budget'"):
        asyncio.run(function(None, bugdet=20))


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: parameter.annotation
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def test_the_types_of_the_keywords_are_those_of_the_functions_that_take_them() -> None:
    def written(cls: Any) -> dict[str, str]:
        return {name: annotation.__forward_arg__ for name, annotation in cls.__annotations__.items()}

    assert written(StartKeywords) == keywords(llmtune.start)
    assert written(WaitKeywords) == keywords(Run.wait)
    assert written(TuneKeywords) | {"progress": "ProgressMode", "seeds": "int | None"} == keywords(llmtune.tune)
    assert set(keywords(llmtune.tune_async)) == set(keywords(llmtune.tune))
    assert set(keywords(llmtune.start_async)) == set(keywords(llmtune.start))
    assert set(keywords(Run.wait_async)) == set(keywords(Run.wait))


def test_a_signature_shows_every_keyword_with_its_default() -> None:
    signature = inspect.signature(llmtune.tune)
    assert "options" not in signature.parameters
    assert signature.parameters["allow_unknown_cost"].default is False
    assert signature.parameters["timeout"].default is None
    assert signature.parameters["progress"].default == "auto"
