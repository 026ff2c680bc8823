"""Looking at tokens, and writing them: what is learned, what is masked, made once and found again."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Example, Message, Preference, chat
from llmtune.data.rendering.prepared import IGNORED, SIDES, PrepareOptions, load_prepared, prepare
from llmtune.data.rendering.preview import as_html, as_text, preview
from llmtune.data.rendering.token_count import Counter, Tokenizer, load_tokenizer
from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData, MissingExtra

transformers = pytest.importorskip("transformers")
np = pytest.importorskip("numpy")

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(["the quick brown fox asks and answers the question again"] * 5, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


ROWS = [
    chat(("system", "the fox"), ("user", "the question?"), ("assistant", "naïve 🎉 answer"), line=1),
    Example(
        (
            Message("user", "one"),
            Message("assistant", "no", weight=0),
            Message("user", "two"),
            Message("assistant", "yes"),
        ),
        line=2,
    ),
    chat(("user", "a\nb"), ("assistant", "<b>&\tdone"), line=5),
]
PAIRS = [
    Example(
        (Message("user", "which?"),),
        preference=Preference((Message("assistant", "this"),), (Message("assistant", "that one"),)),
        line=3,
    )
]


def test_peek_shows_every_token_and_which_are_learned(tokenizer: Any) -> None:
    previews = list(preview(ROWS, tokenizer))
    assert [token_preview.line for token_preview in previews] == [1, 2, 5]
    for token_preview, row in zip(previews, ROWS, strict=True):
        (rendered,) = Renderer(tokenizer).render(row)
        assert [token for piece in token_preview.tokens for token in piece.ids] == list(rendered.ids)
        assert [piece.trained for piece in token_preview.tokens for _ in piece.ids] == list(rendered.completion_mask)
        assert "".join(piece.text for piece in token_preview.tokens) == rendered.text
        assert "\ufffd" not in rendered.text
    learned = "".join(piece.text for piece in previews[0].tokens if piece.trained)
    assert learned == "naïve 🎉 answer<|im_end|>"
    learned = "".join(piece.text for piece in previews[1].tokens if piece.trained)
    assert learned == "yes<|im_end|>"


def test_peek_in_the_terminal_and_on_a_page(tokenizer: Any) -> None:
    previews = list(preview(ROWS, tokenizer))
    text = as_text(previews[2])
    assert "↵" in text.plain
    assert any("underline" in str(span.style) for span in text.spans)
    page = as_html(previews, "rows & <more>")
    assert "<title>rows &amp; &lt;more&gt;</title>" in page
    shown_text = html.unescape(re.sub(r"<[^>]*>", "", page.split("</p>")[1]))
    assert "<b>&→\tdone" in shown_text
    assert "<b>" not in page
    assert page.count("<article>") == 3
    assert "http" not in page
    assert "<script" not in page
    learned = "".join(re.findall(r"<span class=t [^>]*>([^<]*)</span>", page))
    assert "naïve 🎉 answer" in learned


def test_peek_of_a_pair(tokenizer: Any) -> None:
    preferred, rejected = preview(PAIRS, tokenizer)
    assert (preferred.name, rejected.name) == ("preferred", "rejected")
    assert "".join(piece.text for piece in rejected.tokens if piece.trained) == "that one<|im_end|>"


@pytest.mark.parametrize("container", ["safetensors", "arrow"])
def test_prepared_rows_come_back(container: Any, tokenizer: Any, tmp_path: Path) -> None:
    if container == "arrow":
        pytest.importorskip("pyarrow")
    done = prepare(ROWS, tokenizer, tmp_path, PrepareOptions(prompt_loss_weight=0.25), container=container)
    assert done.made
    rows = list(load_prepared(done.path))
    assert (done.rows, done.tokens) == (3, sum(len(row.ids) for row in rows))
    for prepared, row in zip(rows, ROWS, strict=True):
        (rendered,) = Renderer(tokenizer).render(row)
        mask = np.array(rendered.completion_mask)
        assert prepared.ids.tolist() == list(rendered.ids)
        assert (prepared.labels == np.where(mask, prepared.ids, IGNORED)).all()
        assert prepared.weights[0] == 0
        assert prepared.weights[1:].tolist() == [1.0 if learned else 0.25 for learned in mask[1:]]
        assert prepared.positions.tolist() == list(range(len(rendered.ids)))
        assert prepared.line == row.line
        assert SIDES[prepared.side] == ""
    assert done.trained == sum(int((row.labels != IGNORED).sum()) for row in rows)


def test_prepared_once_then_found_again(tokenizer: Any, tmp_path: Path) -> None:
    first = prepare(ROWS, tokenizer, tmp_path)
    assert first.made
    again = prepare(list(ROWS), tokenizer, tmp_path)
    assert not again.made
    assert again._replace(made=True) == first
    variants = [
        prepare(ROWS[:2], tokenizer, tmp_path),
        prepare(ROWS, tokenizer, tmp_path, PrepareOptions(prompt_loss_weight=0.5)),
        prepare(ROWS, tokenizer, tmp_path, PrepareOptions(limit=500)),
    ]
    assert len({first.path, *(variant.path for variant in variants)}) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {first.path.name, *(variant.path.name for variant in variants)}
    )


def test_long_rows_are_refused_cut_or_dropped(tokenizer: Any, tmp_path: Path) -> None:
    rows = [*ROWS, chat(("user", "long " * 50), ("assistant", "short"), line=8)]
    with pytest.raises(InvalidData, match="8"):
        prepare(rows, tokenizer, tmp_path, PrepareOptions(limit=60), file="rows.jsonl")
    assert list(tmp_path.iterdir()) == []
    dropped = prepare(rows, tokenizer, tmp_path, PrepareOptions(limit=60, on_too_long="drop"))
    assert (dropped.rows, dropped.dropped) == (3, 1)
    cut = prepare(rows, tokenizer, tmp_path, PrepareOptions(limit=60, on_too_long="truncate"))
    assert (cut.rows, cut.truncated) == (4, 1)
    assert max(len(row.ids) for row in load_prepared(cut.path)) == 60


def test_pairs_are_two_sequences(tokenizer: Any, tmp_path: Path) -> None:
    done = prepare(PAIRS, tokenizer, tmp_path)
    first, second = load_prepared(done.path)
    assert (SIDES[first.side], SIDES[second.side]) == ("preferred", "rejected")
    assert tokenizer.decode(second.labels[second.labels != IGNORED]) == "that one<|im_end|>"
    with pytest.raises(InvalidData):
        prepare([*PAIRS, ROWS[0]], tokenizer, tmp_path)


def test_many_rows_fill_several_shards(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtune.data.rendering.prepared.SHARD_TOKENS", 200)
    rows = [
        chat(("user", f"question {number}"), ("assistant", f"answer {number}"), line=number) for number in range(60)
    ]
    done = prepare(rows, tokenizer, tmp_path)
    assert len(done.shards) > 3
    assert [row.line for row in load_prepared(done.path)] == list(range(60))


def test_tokens_are_counted_with_a_real_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    assert isinstance(tokenizer, Tokenizer)
    counter = Counter(tokenizer)
    assert counter.exact
    assert counter.text("the quick brown fox") == len(tokenizer.encode("the quick brown fox"))
    path = tmp_path / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(path))
    assert Counter(load_tokenizer(str(path))).text("the quick brown fox") == counter.text("the quick brown fox")


def test_a_missing_backend_for_tokenizers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    with pytest.raises(MissingExtra) as missing:
        load_tokenizer("some/model")
    assert missing.value.hint == "pip install 'llmtune-sdk[local]'"
