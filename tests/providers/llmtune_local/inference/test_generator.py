"""A model in hand: its answers, its likelihoods, its loss; against plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.data.example import Example, Message, chat
from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData
from llmtune.provider.generation import GenerationRequest, LabelScorer, TokenScorer
from llmtune_local.inference import label_scoring, prefix_cache
from llmtune_local.inference.generator import LocalGenerator
from llmtune_local.inference.sampling import Sampler

LABELS = ["odd", "even", "neither of the two", "one"]


def ask(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),), **settings)


REQUESTS = [ask("one"), ask("one two three four five six"), ask("two three"), ask("four " * 20)]


@pytest.fixture(scope="module")
def families_on_disk(
    tmp_path_factory: pytest.TempPathFactory, random_model: Callable[..., Any], tokenizers: Callable[[str], Any]
) -> Callable[[str], Path]:
    def save(name: str, template: str = "chatml", **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp(name)
        tokenizer = tokenizers(template)
        shape = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id} | settings
        random_model(name, **shape).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def reference_score(folder: Path, request: GenerationRequest, label: str) -> float:
    """Row by row through the plain model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    example = Example(messages=(*request.messages, Message("assistant", label)))
    (row,) = Renderer(AutoTokenizer.from_pretrained(folder)).render(example)
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        likely = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    per_token = likely.gather(1, ids[0, 1:, None]).squeeze(1)
    return float(per_token[torch.tensor(row.completion_mask[1:])].sum())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mistral", "gpt2"])
def test_label_scores_are_the_models_own(family: str, families_on_disk: Callable[..., Path]) -> None:
    extra = {"sliding_window": 8} if family == "mistral" else {}
    folder = families_on_disk(family, **extra)
    with LocalGenerator(model=str(folder)) as model:
        assert isinstance(model, LabelScorer)
        scores = model.score_labels(REQUESTS, LABELS)
        assert model._method.longest == {"mistral": 8}.get(family, 4096)
        assert model._method.prefix == (family not in ("mistral", "gemma2"))
    for request, row in zip(REQUESTS, scores, strict=True):
        assert row == pytest.approx([reference_score(folder, request, label) for label in LABELS], rel=1e-4)


SYSTEM = "You are asked whether a number is odd or even, again and again and again."


def behind(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("system", SYSTEM), Message("user", text)), **settings)


@pytest.mark.slow
def test_portions_never_change_a_score(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [*LABELS, "odd and even", "neither", "one two three", "one two"]
    with LocalGenerator(model=str(base_folder)) as model:
        expected = model.score_labels(REQUESTS, many)
        for nodes, tokens, longest in ((1, 8192, 4096), (3, 40, 4096), (500, 1, 4096), (500, 8192, 0), (4, 90, 30)):
            monkeypatch.setattr(label_scoring, "NODES", nodes)
            monkeypatch.setattr(label_scoring, "TOKENS", tokens)
            model._method = label_scoring.ScoringMethod(longest=longest, prefix=longest > 0)
            for scores, row in zip(model.score_labels(REQUESTS, many), expected, strict=True):
                assert scores == pytest.approx(row, rel=1e-4)
    assert model._network is None  # closed


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_beginning_that_all_share_is_computed_once(
    family: str, families_on_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = families_on_disk(family)
    texts = ["one", "one two three four five six", "two three", "four " * 20]
    requests = [behind(text, max_tokens=10) for text in texts]
    lengths: list[int] = []
    begin = prefix_cache.Prefix.__init__
    monkeypatch.setattr(
        prefix_cache.Prefix,
        "__init__",
        lambda self, network, ids: (lengths.append(len(ids)), begin(self, network, ids))[1],
    )
    with LocalGenerator(model=str(folder)) as model:
        model._load()
        lengths.clear()
        together = model.generate(requests)
        scores = model.score_labels(requests, LABELS)
        assert len(lengths) == 2
        assert min(lengths) >= prefix_cache.LEAST
        apart = [model.generate([request])[0] for request in requests]
        assert len(lengths) == 2
    assert [answer.text for answer in together] == [answer.text for answer in apart]
    assert [answer.completion_tokens for answer in together] == [answer.completion_tokens for answer in apart]
    for request, row in zip(requests, scores, strict=True):
        assert row == pytest.approx([reference_score(folder, request, label) for label in LABELS], rel=1e-4)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=25)
def test_whatever_the_lengths_and_labels_scores_and_answers_stay(base_folder: Path, data: st.DataObject) -> None:
    vocabulary = st.sampled_from(["one", "two", "three", "four", "five", "six", "odd", "even"])
    text = st.lists(vocabulary, min_size=1, max_size=7).map(" ".join)
    texts = data.draw(st.lists(text, min_size=1, max_size=5))
    chosen = data.draw(st.lists(text, min_size=1, max_size=6, unique=True))
    make = data.draw(st.sampled_from([ask, behind]))
    requests = [make(text, max_tokens=4) for text in texts]
    model = _model_at(base_folder)
    together = model.score_labels(requests, chosen)
    for request, row in zip(requests, together, strict=True):
        alone = [model.score_labels([request], [label])[0][0] for label in chosen]
        assert row == pytest.approx(alone, rel=1e-4)
    assert [answer.text for answer in model.generate(requests)] == [
        model.generate([answer])[0].text for answer in requests
    ]


@cache
def _model_at(folder: Path) -> LocalGenerator:
    return LocalGenerator(model=str(folder))


def test_answers_that_begin_alike_stand_in_one_tree() -> None:
    answers = [(1, 2, 9), (1, 2, 3, 9), (1, 9), (4, 9), (9,)]
    (tree,) = label_scoring.build_trees(answers)
    assert sorted(tree.tokens) == [1, 2, 3, 4]
    assert len(tree.predictions) == sum(map(len, answers))
    assert sorted(tree.depths) == [0, 0, 1, 2]
    node = tree.tokens.index(3)
    assert [tree.tokens[at] for at in tree.see[node].nonzero().flatten().tolist()] == [1, 2, 3]


def test_label_answers_are_rendered_anew_where_the_prompt_matters(
    families_on_disk: Callable[..., Path],
) -> None:
    """A history turn that the template rewrites, and several turns, do not disturb the scores."""
    folder = families_on_disk("llama", "thinking")
    request = GenerationRequest(
        messages=(Message("user", "one"), Message("assistant", "odd"), Message("user", "one two"))
    )
    with LocalGenerator(model=str(folder)) as model:
        (scores,) = model.score_labels([request], LABELS)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    example = Example(messages=(*request.messages, Message("assistant", "odd")))
    assert "<think>" not in Renderer(tokenizer).render_prompt(request.messages)
    last = Renderer(tokenizer).render(example)[-1]
    assert tokenizer.decode(last.ids).endswith("<think>\n\n</think>\n\nodd<|im_end|>")
    ids = torch.tensor([last.ids])
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        likely = AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=ids).logits[0, :-1].log_softmax(-1)
    per_token = likely.gather(1, ids[0, 1:, None]).squeeze(1)[last.spans[0].first - 1 :]
    assert scores[0] == pytest.approx(float(per_token.sum()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_greedy_answers_are_transformers_own(family: str, families_on_disk: Callable[..., Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = families_on_disk(family)
    with LocalGenerator(model=str(folder)) as model:
        answers = model.generate([ask(request.messages[0].words, max_tokens=12) for request in REQUESTS])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    for request, answer in zip(REQUESTS, answers, strict=True):
        prompt = torch.tensor([Renderer(tokenizer).prompt_ids(request.messages)])
        out = plain.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )[0, prompt.shape[1] :]
        assert answer.text == tokenizer.decode(out, skip_special_tokens=True).strip()
        assert answer.prompt_tokens == prompt.shape[1]
        assert answer.completion_tokens == len(out)
        assert answer.finish_reason == ("stop" if out[-1] == tokenizer.eos_token_id else "length")
        assert answer.seconds > 0  # type: ignore[operator]


@pytest.mark.slow
def test_a_tuned_model_answers_what_it_learned(train: Callable[..., Any], data: dict[str, str]) -> None:
    from llmtune.data.io.reading import load

    trainer = train({"adapter": "full"}, epochs=20, learning_rate=3e-3)
    examples = load(data["validation"])
    requests = [GenerationRequest(messages=example.prompt(), max_tokens=8) for example in examples]
    truth = [example.completion() for example in examples]

    def right(model: LocalGenerator) -> tuple[int, int, float]:
        with model:
            assert isinstance(model, TokenScorer)
            answers = [answer.text for answer in model.generate(requests)]
            scores = model.score_labels(requests, ["odd", "even"])
            stats = model.token_stats(examples)
        likely = [("odd", "even")[row.index(max(row))] for row in scores]
        good = sum(a == b for a, b in zip(answers, truth, strict=True))
        return good, sum(a == b for a, b in zip(likely, truth, strict=True)), stats.loss_sum / stats.tokens

    base = str(trainer.request.model)
    tuned = right(LocalGenerator(model=base, artefact=trainer.folder.model))
    plain = right(LocalGenerator(model=base))
    assert tuned[:2] == (12, 12)
    assert plain[0] == 0
    result = trainer.folder.read_result()
    assert tuned[2] == pytest.approx(result.validation_loss, rel=1e-4)
    assert plain[2] == pytest.approx(result.base_validation_loss, rel=1e-4)
    checkpoint = max(trainer.folder.checkpoints().items())[1] / "model"
    assert right(LocalGenerator(model=base, artefact=checkpoint)) == tuned
    # An adapter on top of it: the base says the right thing, the tuned one has unlearned it.
    swapped = {"train": data["train"] + ".swapped", "validation": data["validation"]}
    text = Path(data["train"]).read_text().replace('"odd"', '"new"').replace('"even"', '"odd"')
    Path(swapped["train"]).write_text(text.replace('"new"', '"even"'))
    second = train({"model": str(trainer.folder.model), "files": swapped}, epochs=30, learning_rate=2e-2)
    adapted = right(LocalGenerator(model=str(trainer.folder.model), artefact=second.folder.adapter))
    assert adapted[:2] == (0, 0)
    assert adapted[2] == pytest.approx(second.folder.read_result().validation_loss, rel=1e-4)
    saved = max(second.folder.checkpoints().items())[1] / "adapter"
    assert right(LocalGenerator(model=str(trainer.folder.model), artefact=saved)) == adapted


def test_stops_at_the_end_of_a_turn(families_on_disk: Callable[..., Path]) -> None:
    """The template's end-of-turn token stops an answer though the tokenizer's end of text is another."""
    folder = families_on_disk("llama", "headers")
    with LocalGenerator(model=str(folder)) as model:
        network, renderer = model._load()
        assert len(renderer.stop_ids) == 2
        request = ask("one", max_tokens=9)
        assert model.generate([request])[0].completion_tokens == 9
        end = renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>")
        with torch.no_grad(), network.unpacked():
            prompt = torch.tensor([renderer.prompt_ids(request.messages)])
            last = network.decoder(input_ids=prompt).last_hidden_state[0, -1]
        network.causal.get_output_embeddings().weight.data[end] = 9 * last
        (answer,) = model.generate([request])
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("", "stop", 1)


def test_a_seed_gives_the_same_answer_in_any_company(base_folder: Path) -> None:
    with LocalGenerator(model=str(base_folder)) as model:
        one = ask("one two", temperature=1.0, seed=3, max_tokens=10)
        (alone,) = model.generate([one])
        companions = [ask("three " * 9, temperature=1.0, seed=seed, max_tokens=10) for seed in range(5)]
        among = model.generate([*companions[:2], one, *companions[2:]])
        assert among[2].text == alone.text
        assert model.generate([one])[0].text == alone.text
        assert len({answer.text for answer in among}) > 1
        assert model.generate([ask("one two", temperature=1.0, top_k=1, max_tokens=10)])[0].text == (
            model.generate([ask("one two", max_tokens=10)])[0].text
        )


def test_sampling_settings_shape_what_is_drawn_from() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])

    def drawn(**settings: Any) -> list[float]:
        return Sampler(ask("x", **settings)).probabilities(logits).tolist()  # type: ignore[no-any-return]

    plain = logits.softmax(0).tolist()
    assert drawn(temperature=1.0) == pytest.approx(plain)
    assert drawn(temperature=2.0) == pytest.approx((logits / 2).softmax(0).tolist())
    assert drawn(temperature=1.0, top_k=2) == pytest.approx([*logits[:2].softmax(0).tolist(), 0, 0])
    assert drawn(temperature=1.0, top_p=0.7) == pytest.approx([*logits[:2].softmax(0).tolist(), 0, 0])
    assert drawn(temperature=1.0, top_p=1e-9) == pytest.approx([1, 0, 0, 0])
    assert drawn(temperature=1.0, top_p=1.0, top_k=9) == pytest.approx(plain)
    sampler = Sampler(ask("x", temperature=1.0, seed=0))
    counts = torch.bincount(torch.tensor([sampler.next(logits) for _ in range(4000)]), minlength=4) / 4000
    assert counts.tolist() == pytest.approx(plain, abs=0.03)


@pytest.mark.slow
def test_limits(base_folder: Path) -> None:
    with LocalGenerator(model=str(base_folder)) as model:
        (answer,) = model.generate([ask("one", max_tokens=3)])
        assert answer.completion_tokens <= 3  # type: ignore[operator]
        with pytest.raises(InvalidData, match="does not fit the model's context of 128"):
            model.generate([ask("one " * 200)])
        with pytest.raises(InvalidData, match="do not fit the model's context of 128"):
            model.score_labels([ask("one " * 200)], LABELS)
        long = model.generate([ask("one " * 60)])[0]
        assert long.prompt_tokens + long.completion_tokens <= 128  # type: ignore[operator]
        assert model.generate([]) == []


@pytest.mark.slow
def test_a_templates_options_hold(families_on_disk: Callable[..., Path]) -> None:
    folder = families_on_disk("llama", "thinking")
    quiet = LocalGenerator(model=str(folder), options={"template_options": {"enable_thinking": False}})
    with quiet as model, LocalGenerator(model=str(folder)) as loud:
        (short,), (long,) = model.score_labels([ask("one")], ["odd"]), loud.score_labels([ask("one")], ["odd"])
        assert short[0] > long[0]  # the empty thought is prompt there and answer here
    overridden = LocalGenerator(model=str(folder), options={"chat_template": "{{ 'x' }}"})
    with overridden as model, pytest.raises(InvalidData, match=r"no trained|leaves out|not end"):
        model.token_stats([chat(("user", "a"), ("assistant", "b"))])
