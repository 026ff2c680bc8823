"""What stands against a release is found: in the changelog, in a wheel, in a model's card, between two builds."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARD = """\
# small

- Licence: Apache-2.0

| Source | Version | Licence | Files |
|---|---|---|---|
| a handbook | 1.2 | MIT | 3 |
| another | 2.0 | BSD-3-Clause | 4 |
"""
SOUND = {
    "llmtune/__init__.py": "",
    "llmtune/py.typed": "",
    "llmtune/report/vendor/chart/LICENSE": "MIT",
    "llmtune_local/small/model.safetensors": "",
    "llmtune_local/small/MODEL_CARD.md": CARD,
    "llmtune_sdk-1.0.dist-info/METADATA": "Name: llmtune-sdk\nVersion: 1.0\n",
    "llmtune_sdk-1.0.dist-info/licenses/LICENSE": "",
    "llmtune_sdk-1.0.dist-info/licenses/NOTICE": "",
    "llmtune_sdk-1.0.dist-info/licenses/llmtune/report/vendor/chart/LICENSE": "MIT",
}


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import release

    return release


def wheel(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "llmtune_sdk-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def faults(release: ModuleType, folder: Path, files: dict[str, str]) -> list[str]:
    return list(release.wheel_faults(wheel(folder, files), "1.0"))


def test_a_sound_wheel_has_no_fault(release: ModuleType, tmp_path: Path) -> None:
    assert faults(release, tmp_path, SOUND) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tests/test_it.py", ""),
        ("llmtune/tests/test_it.py", ""),
        ("llmtune/__pycache__/x.pyc", ""),
        ("llmtune/store.db", ""),
        ("numbers/__init__.py", ""),
        ("llmtune/.hidden", ""),
    ],
)
def test_what_does_not_belong_into_a_wheel_is_named(release: ModuleType, tmp_path: Path, name: str, text: str) -> None:
    assert faults(release, tmp_path, SOUND | {name: text}) == [f"llmtune_sdk-1.0-py3-none-any.whl holds {name}"]


def test_a_licence_that_is_bundled_and_not_listed_is_named(release: ModuleType, tmp_path: Path) -> None:
    files = SOUND | {"llmtune/web/vendor/font/LICENCE.txt": "OFL"}
    (fault,) = faults(release, tmp_path, files)
    assert fault.endswith("llmtune/web/vendor/font/LICENCE.txt is not among the license-files")
    without = {name: text for name, text in SOUND.items() if not name.endswith("licenses/NOTICE")}
    (fault,) = faults(release, tmp_path, without)
    assert fault.endswith("NOTICE is not among the license-files")


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        (None, "is missing"),
        (CARD.replace("- Licence: Apache-2.0", ""), "names no licence of the model"),
        (CARD.partition("| Source")[0], "has no table of sources"),
        (CARD.replace("| MIT |", "| unknown |"), "a handbook has no version or no licence"),
        (CARD.replace("| 2.0 |", "|  |"), "another has no version or no licence"),
    ],
)
def test_a_models_card_says_what_it_was_trained_on(release: ModuleType, card: str | None, fault: str) -> None:
    (message,) = release.card_faults("small/MODEL_CARD.md", card)
    assert fault in message


def test_the_cards_of_the_models_in_the_package_are_sound(release: ModuleType) -> None:
    cards = sorted((ROOT / "providers").glob("*/*/MODEL_CARD.md"))
    assert len(cards) >= 2
    for card in cards:
        assert list(release.card_faults(card.name, card.read_text(encoding="utf-8"))) == []


def test_a_wheel_of_another_version_is_named(release: ModuleType, tmp_path: Path) -> None:
    (fault,) = release.wheel_faults(wheel(tmp_path, SOUND), "1.1")
    assert "says that it is 1.0, and llmtune/_version.py 1.1" in fault


@pytest.mark.parametrize(
    ("changelog", "fault"),
    [
        ("# Changelog\n\n## 1.0 (2027-02-01)\n\n- It is there.\n", None),
        ("# Changelog\n\n## 1.0 (unreleased)\n\n- It is there.\n", "has no date but 'unreleased'"),
        ("# Changelog\n\n## 0.9 (2027-01-01)\n\n- It was there.\n", "is not `## 1.0 (YYYY-MM-DD)`"),
        ("# Changelog\n\n## 1.0 (2027-02-01)\n\n## 0.9 (2027-01-01)\n\n- It was there.\n", "is empty"),
    ],
)
def test_the_changelog_has_a_dated_section_of_the_version(
    release: ModuleType, changelog: str, fault: str | None
) -> None:
    messages = list(release.changelog_faults("1.0", changelog))
    assert len(messages) == (fault is not None)
    assert fault is None or fault in messages[0]


def test_the_notes_are_the_section_of_the_version(release: ModuleType) -> None:
    changelog = "# Changelog\n\n## 1.0 (2027-02-01)\n\n- New.\n\n## 0.9 (2027-01-01)\n\n- Old.\n"
    assert release.section_of("1.0", changelog).strip() == "- New."
    assert release.section_of("0.9", changelog).strip() == "- Old."


def test_two_builds_that_differ_are_named(release: ModuleType, tmp_path: Path) -> None:
    builds = []
    for folder, text in (("one", "a"), ("two", "b")):
        (tmp_path / folder).mkdir()
        builds.append([wheel(tmp_path / folder, SOUND | {"llmtune/x.py": text})])
    assert list(release.reproducible_faults(*builds)) == ["two builds of llmtune_sdk-1.0-py3-none-any.whl differ"]
    assert list(release.reproducible_faults(builds[0], builds[0])) == []


def test_the_version_is_read_where_it_is_written(release: ModuleType) -> None:
    import llmtune

    assert release.version_of(ROOT) == llmtune.__version__
