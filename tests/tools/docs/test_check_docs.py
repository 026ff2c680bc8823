"""A page that types what is not there is found out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    import check_docs

    return check_docs


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("llmtune tune job.yaml --provider local,openai --budget 5", None),
        ("llmtune runs show RUN [--json]", None),
        ("llmtune COMMAND --help", None),
        ("llmtune plan job.yaml -p local", None),
        ("llmtune sweep job.yaml -s learning_rate=1e-4..1e-2", None),
        ("llmtune train job.yaml", "there is no command `llmtune train`"),
        ("llmtune runs shew RUN", "there is no command `llmtune runs shew`"),
        ("llmtune tune job.yaml --provder local", "`llmtune tune` has no option --provder"),
        ("llmtune runs show RUN [--jsn]", "`llmtune runs show` has no option --jsn"),
        ("llmtune plan job.yaml --dataset=x", "`llmtune plan` has no option --dataset"),
    ],
)
def test_commands_and_options_are_those_of_the_code(docs: ModuleType, text: str, fault: str | None) -> None:
    assert docs.command_fault(text) == fault


PAGE = """
# A page about `llmtune runs list`

```sh
export A=1
LLMTUNE_TODAY=2027-01-07 llmtune plan \\
  job.yaml        # llmtune nothing
cat x | llmtune data check - && llmtune ui
```

```python
from llmtune import tune, tuner
from llmtune.provider import Nothing
from elsewhere import anything
```

`llmtune/errors.py` `providers/llmtune_NAME/rows.py` `llmtune_openai/rows.py` `llmtune/erors.py` `tools/docs/nothing/`
`llmtune.errors.LlmtuneError` `llmtune.TuningJob.name` `llmtune.formats` `llmtune.toml`
`llmtune.eror` `llmtune_openai.nothing`

[here](#a-page-about-llmtune-runs-list) [there](#nowhere) [a file](no-such.md) [out](https://example.com/x#y)
"""


def test_a_page_is_read_as_people_read_it(docs: ModuleType, tmp_path: Path) -> None:
    assert [" ".join(command.split()) for command in docs.typed(PAGE)] == [
        "llmtune plan job.yaml",
        "llmtune data check -",
        "llmtune ui",
        "llmtune runs list",
    ]
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    assert docs.faults(path) == [
        "there is no llmtune/erors.py",
        "there is no tools/docs/nothing/",
        "there is no llmtune.eror",
        "there is no llmtune_openai.nothing",
        "llmtune has no tuner",
        "llmtune.provider has no Nothing",
        "#nowhere: there is no such heading",
        "the link to no-such.md leads nowhere",
    ]


def test_a_block_of_python_must_be_python(docs: ModuleType) -> None:
    assert ["cannot be read" in message for message in docs.import_faults("```python\nx = = 1\n```\n")] == [True]


def test_our_pages_are_sound(docs: ModuleType) -> None:
    assert [fault for path in docs.pages() for fault in docs.faults(path)] == []
