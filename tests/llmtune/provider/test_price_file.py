"""The user's own prices: laid over the catalogue, with a sentence for every error."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from llmtune.config import price_file
from llmtune.errors import InvalidSettings
from llmtune.provider import catalog
from llmtune.provider.price_file import read_price_file

OURS = """
[default]
family = "big"

[models."big-1"]
family = "big"
price = { training = 25.0, input = 3.0, output = 9.0, source = "price page", checked = 2026-11-21 }
"""


def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    monkeypatch.setenv("LLMTUNE_PRICES", str(path))
    return path


def test_own_prices_lie_over_the_catalogue_and_ours_keep_their_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours.toml").write_text(OURS)
    write(
        tmp_path,
        monkeypatch,
        '[v."big-1"]\ntraining = 4.0\nsource = "our contract"\nchecked = 2026-10-01\n[v."own"]\ntraining = 1\n',
    )
    found = catalog.load("v", tmp_path / "ours.toml")
    price = found.models["big-1"].price
    assert (price.training, price.input, price.checked) == (4.0, 3.0, date(2026, 10, 1))
    assert (price.source_of("training"), price.source_of("input")) == ("our contract", "price page")
    assert found.models["own"].price.training == 1
    assert "your price file" in found.models["own"].price.source


def test_a_price_file_wins_over_a_catalogue_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.toml").write_text(OURS)
    (tmp_path / "catalog.toml").write_text('[v.models."big-1".price]\ntraining = 2.0\noutput = 1.0\n')
    monkeypatch.setenv("LLMTUNE_CATALOG", str(tmp_path / "catalog.toml"))
    write(tmp_path, monkeypatch, '[v."big-1"]\ntraining = 4.0\n')
    price = catalog.load("v", tmp_path / "ours.toml").models["big-1"].price
    assert (price.training, price.output, price.input) == (4.0, 1.0, 3.0)


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    (tmp_path / "ours.toml").write_text(OURS)
    path = write(tmp_path, monkeypatch, '[v."big-1"]\ntraining = 4.0\n')
    assert catalog.load("v", tmp_path / "ours.toml").models["big-1"].price.training == 4.0
    path.write_text('[v."big-1"]\ntraining = 5.0\n')
    os.utime(path, (1, 1))
    assert catalog.load("v", tmp_path / "ours.toml").models["big-1"].price.training == 5.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[v", "broken TOML"),
        ("v = 1", "v is no table"),
        ("[v]\nbig = 1", "v.big is no table"),
        ('[v."b"]\ntrainin = 1', "did you mean"),
        ('[v."b"]\ntraining = "four"', "training is 'four': write a number of at least 0"),
        ('[v."b"]\ntraining = true', "training is True: write a number"),
        ('[v."b"]\ninput = -1', "input is -1: write a number of at least 0"),
        ('[v."b"]\nhosting = nan', "hosting is nan: write a number"),
        ('[v."b"]\nsource = 3', "source is 3: write a text"),
        ('[v."b"]\ncurrency = "EUR"', "convert the prices to USD"),
        ('[v."b"]\nchecked = "2026-10-01"', "write the day without quotes"),
        ('[v."b"]\nchecked = 2999-01-01', "which is in the future"),
        ('[v."b"]\nbilled = ["lunch"]', "billed is ['lunch']"),
        ('[v."b"]\nby_method = { dpo = "x" }', "training prices by method"),
        ('[v."b"]\nsources = { lunch = "x" }', "write the page of a price"),
    ],
)
def test_each_error_is_a_sentence_that_says_where_and_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    path = write(tmp_path, monkeypatch, text)
    with pytest.raises(InvalidSettings) as caught:
        read_price_file(path)
    assert str(path) in caught.value.message
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message


def test_all_errors_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, monkeypatch, '[v."b"]\ntraining = "x"\ninput = "y"\noutput = "z"\n')
    with pytest.raises(InvalidSettings) as caught:
        read_price_file(path)
    assert str(caught.value.hint).count(str(path)) == 2


def test_the_file_is_named_by_variable_by_key_or_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMTUNE_PRICES")
    (tmp_path / "config.toml").write_text('prices = "ours/prices.toml"\n')
    monkeypatch.setenv("LLMTUNE_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.chdir(tmp_path)
    assert price_file() == tmp_path / "ours/prices.toml"
    (tmp_path / "config.toml").write_text("prices = 3\n")
    with pytest.raises(InvalidSettings, match="write the path of a file"):
        price_file()
    (tmp_path / "config.toml").write_text("")
    assert price_file().name == "prices.toml"
    monkeypatch.setenv("LLMTUNE_PRICES", "elsewhere.toml")
    assert price_file() == Path("elsewhere.toml")
