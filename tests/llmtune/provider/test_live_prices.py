"""Prices that a service answered: kept with their day, over the catalogue and under the user's own."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from llmtune.errors import InvalidSettings
from llmtune.provider.limits import Price
from llmtune.provider.live_prices import check_prices, live_price_path, read_live_prices, write_live_prices
from llmtune.provider.registry import get_provider
from llmtune.provider.types import Target

ASKED = date(2026, 12, 1)
MODEL = "openai/gpt-oss-120b"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("LLMTUNE_PRICES", str(tmp_path / "prices.toml"))
    return tmp_path


def price() -> Price:
    return get_provider("together").capabilities(Target(provider="together", kind="together", model=MODEL)).price


def test_answered_prices_lie_over_the_catalogue_with_page_and_day() -> None:
    assert price().hosting is None
    write_live_prices("together", "GET /prices", ASKED, {MODEL: {"hosting": 12.98}, "unknown": {"hosting": 1.0}})
    assert price().hosting == 12.98
    assert price().source_of("hosting") == "GET /prices, asked on 2026-12-01"
    assert price().source_of("training") != price().source_of("hosting")
    assert price().base_input == 0.15
    assert price().unknown() == ("training",)


def test_answered_prices_of_a_region_say_which_and_replace_those_by_method() -> None:
    assert price().by_method == {"sft/lora": 5.0}
    write_live_prices("together", "GET /prices", ASKED, {MODEL: {"hosting": 12.98}}, region="eu-1")
    assert price().by_method == {"sft/lora": 5.0}
    assert price().region == "eu-1; the others: no region named"
    assert price().source_of("hosting") == "GET /prices, eu-1, asked on 2026-12-01"
    rows = {MODEL: {"training": 6.0, "by_method": {"dpo/lora": 15.0, "odd": -1}, "base_input": 0.2, "base_output": 0.7}}
    path = write_live_prices("together", "GET /prices", ASKED, rows, region="eu-1")
    assert read_live_prices(path, "together")[MODEL]["by_method"] == {"dpo/lora": 15.0}
    assert (price().training, price().by_method) == (6.0, {"dpo/lora": 15.0})
    assert price().region == "eu-1"
    write_live_prices("together", "GET /prices", ASKED, {MODEL: {"by_method": {"dpo": 15.0}}})
    assert price().for_target("dpo", "lora").training == 15.0
    assert price().for_target("sft", "lora").training is None
    assert price().source_of("training") == "GET /prices, asked on 2026-12-01"


def test_the_users_own_price_lies_over_the_answered_one(home: Path) -> None:
    write_live_prices("together", "GET /prices", ASKED, {MODEL: {"hosting": 12.98, "base_input": 0.2}})
    (home / "prices.toml").write_text(f'[together."{MODEL}"]\nhosting = 9.0\nsource = "our contract"\n')
    assert price().hosting == 9.0
    assert price().source_of("hosting") == "our contract"
    assert price().source_of("base_input") == "GET /prices, asked on 2026-12-01"


def test_another_answer_replaces_the_one_before_and_leaves_other_services() -> None:
    write_live_prices("together", "GET /prices", ASKED, {MODEL: {"hosting": 1.0, "base_input": 0.1}})
    write_live_prices("nebius", "GET /n", ASKED, {"m": {"training": 0.0}})
    path = write_live_prices("together", "GET /prices", ASKED, {MODEL: {"hosting": 2.0}})
    assert path == live_price_path()
    assert read_live_prices(path, "together")[MODEL]["hosting"] == 2.0
    assert "base_input" not in read_live_prices(path, "together")[MODEL]
    assert read_live_prices(path, "nebius")["m"]["training"] == 0.0, "a price of zero is a price"
    assert read_live_prices(path, "openai") == {}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"together": 3}', '{"together": {"asked": "x", "page": "", "models": {}}}']
)
def test_a_broken_file_is_one_sentence_and_is_replaced_by_the_next_answer(text: str) -> None:
    live_price_path().write_text(text)
    with pytest.raises(InvalidSettings, match=r"live-prices.json: the prices that services answered cannot be read"):
        read_live_prices(live_price_path(), "together")
    write_live_prices("together", "GET /prices", ASKED, {MODEL: {"hosting": 2.0}})
    assert read_live_prices(live_price_path(), "together")[MODEL]["hosting"] == 2.0


def test_only_amounts_are_prices() -> None:
    odd = {
        "hosting": -1,
        "training": float("nan"),
        "input": True,
        "output": "3",
        "storage": 0,
        "colour": 4,
        "base_input": 1,
    }
    assert check_prices(odd) == {"storage": 0.0, "base_input": 1.0}
    assert check_prices(None) == {}
    assert json.loads(json.dumps(check_prices({"input": 1e300}))) == {"input": 1e300}
