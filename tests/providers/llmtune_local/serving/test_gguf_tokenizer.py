"""The vocabulary in a GGUF file: llama.cpp reads text as the tokenizer does, and what it reads otherwise is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.data.rendering.text_bank import all_texts
from llmtune.errors import InvalidJob
from llmtune_local.serving import families, gguf_model, llama_cpp
from llmtune_local.serving.dialogue import Dialogue
from llmtune_local.serving.gguf_tokenizer import RULES, Vocabulary, choose_rule, read_vocabulary

NO_DIALOGUE = Dialogue(None, False, ())

#: Tokenizers as families publish them: name of the rule -> expression, digits one by one, whole words first.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PUBLISHED: dict[str, tuple[str | None, bool, bool]] = {
    "llama-bpe": (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}", False, True),
    "smaug-bpe": (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}", False, False),
    "qwen2": (rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}", False, False),
    "smollm": (None, True, False),
    "gpt-2": (None, False, False),
}


def build_tokenizer(expression: str | None, *, digits: bool = False, whole_words: bool = False) -> Any:
    """Train a tokenizer over bytes on the texts of the bank, so that every cut between words matters."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if expression is not None:
        steps.append(pre_tokenizers.Split(Regex(expression), "isolated"))
    core = Tokenizer(models.BPE(ignore_merges=whole_words))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=expression is None)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([text for _, text in all_texts()] * 2, trainer)
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    core.add_tokens([AddedToken("<plain>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def read_by_llama_cpp(vocabulary: Vocabulary, texts: list[str], path: Path) -> list[tuple[int, ...]]:
    """Return the tokens that llama.cpp reads, from a file with this vocabulary and a small random model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(vocabulary.tokens),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    family = families.FAMILIES["llama"]
    network = AutoModelForCausalLM.from_config(config)
    name = vocabulary.model_name("small")
    gguf_model.write_model(path, network, family, vocabulary, precision="f32", name=name)
    with llama_cpp.serve(path, context=256) as server:
        return [server.tokens(text, add_beginning=False) for text in texts]


def different_texts(tokenizer: Any, vocabulary: Vocabulary, path: Path, texts: list[str]) -> list[str]:
    read = read_by_llama_cpp(vocabulary, texts, path)
    expected = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    return [text for text, ids, tokens in zip(texts, read, expected, strict=True) if ids != tokens]


def test_published_tokenizers_are_recognised() -> None:
    for name, (expression, digits, whole_words) in PUBLISHED.items():
        tokenizer = build_tokenizer(expression, digits=digits, whole_words=whole_words)
        rule, different = choose_rule(tokenizer)
        assert (rule, different) == (name, [])


def test_the_nearest_rule_of_tiny_and_what_it_reads_otherwise() -> None:
    from llmtune_local.models.loading import load_tokenizer

    rule, different = choose_rule(load_tokenizer("tiny"))
    assert rule == "qwen2"
    assert {kind for kind, _ in different} == {"contractions in capitals"}
    vocabulary = read_vocabulary(load_tokenizer("tiny"), 4096, NO_DIALOGUE)
    assert "contractions in capitals" in vocabulary.differences[0]


def test_a_tokenizer_that_cuts_by_no_known_rule_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"by a rule that llama\.cpp does not have"):
        choose_rule(build_tokenizer(r"[^e]+|e"))


def test_other_kinds_of_tokenizers_are_refused(tokenizers: Callable[[str], Any]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InvalidJob, match="of the kind WordLevel"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=core), 2, NO_DIALOGUE)
    with pytest.raises(InvalidJob, match="and the model 100 embeddings"):
        read_vocabulary(tokenizers("chatml"), 100, NO_DIALOGUE)


def test_more_embeddings_than_tokens_are_unused_ones(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("chatml")
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 5, NO_DIALOGUE)
    assert vocabulary.tokens[-1] == f"[PAD{len(tokenizer) + 4}]"
    assert len(vocabulary.tokens) == len(vocabulary.types) == len(tokenizer) + 5


def test_tokens_that_end_answers(tokenizers: Callable[[str], Any]) -> None:
    tokenizer = tokenizers("headers")
    eos, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")
    settings = read_vocabulary(tokenizer, len(tokenizer), Dialogue("t", True, (turn, eos))).settings
    assert settings["tokenizer.ggml.eos_token_id"] == eos
    assert settings["tokenizer.ggml.eot_token_id"] == turn
    assert settings["tokenizer.ggml.add_bos_token"] is True
    assert settings["tokenizer.chat_template"] == "t"
    many = read_vocabulary(tokenizer, len(tokenizer), Dialogue(None, False, (eos, turn, 5, 6)))
    assert many.differences[-1].endswith(f"not of {tokenizer.convert_ids_to_tokens(6)}")


def test_the_name_of_the_model_decides_whether_blanks_are_dropped() -> None:
    plain = Vocabulary("gpt2", "qwen2", (), ())
    assert plain.model_name("my-Phi-3-mini phi3") == "my-phi 3-mini phi 3"
    # The names of that model's tokens stand in llama.cpp's code, which does not load a file without them.
    dropping = Vocabulary("llama", "default", (), (), drops_blanks=True)
    assert dropping.model_name("mini") == "mini (phi-3)"
    assert dropping.model_name("Phi-3-mini") == "Phi-3-mini"


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_llama_cpp_reads_the_bank_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    expression, digits, whole_words = PUBLISHED[name]
    tokenizer = build_tokenizer(expression, digits=digits, whole_words=whole_words)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer), NO_DIALOGUE)
    texts = [*(text for _, text in all_texts()), "a<plain>b <plain> c", "x<|end|>y"]
    assert different_texts(tokenizer, vocabulary, tmp_path / "model.gguf", texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_the_rules_here_are_those_of_llama_cpp(name: str, tmp_path: Path) -> None:
    """With a rule's own expressions as the tokenizer, nothing differs."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from tokenizers import Regex, pre_tokenizers

    rule = RULES[name]
    tokenizer = build_tokenizer(r"\s+|\S+", whole_words=rule.whole_words)
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in rule.expressions]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    vocabulary = read_vocabulary(tokenizer, len(tokenizer), NO_DIALOGUE)
    texts = [text for _, text in all_texts()]
    assert different_texts(tokenizer, vocabulary, tmp_path / "model.gguf", texts) == []


@pytest.mark.slow
@pytest.mark.parametrize("blanks", ["prefix", "first", "gemma"])
def test_pieces_are_read_as_the_tokenizer_does(blanks: str, new_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    import json

    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = new_tokenizer(None, ("<turn>",), "<s>", "</s>", sentencepiece=True)
    if blanks == "gemma":  # runs of blanks and lines are tokens of the user's, and the first merges
        document = json.loads(tokenizer.backend_tokenizer.to_str())
        merges = (("▁▁▁▁", ["▁▁", "▁▁"]), ("▁▁", ["▁", "▁"]))
        size = len(document["model"]["vocab"])
        document["added_tokens"] = [entry for entry in document["added_tokens"] if entry["id"] < size]
        for number, (piece, pair) in enumerate(merges, start=size):
            document["model"]["vocab"] |= {piece: number}
            document["model"]["merges"].insert(0, pair)
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
            document["added_tokens"].append({"id": number, "content": piece, **flags})
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(document)), bos_token="<s>", eos_token="</s>"
        )
    backend = tokenizer.backend_tokenizer
    if blanks == "prefix":  # as Llama 2 and Phi 3 are published
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
    elif blanks == "gemma":
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    vocabulary = read_vocabulary(tokenizer, len(tokenizer), NO_DIALOGUE)
    assert vocabulary.settings["tokenizer.ggml.add_space_prefix"] is (blanks == "prefix")
    texts = [text for _, text in all_texts()]
    if blanks == "first":  # behind a special token nothing is put in front of a text
        assert "does not begin with a special token" in vocabulary.differences[0]
        texts = [f"<turn>{text}<turn>" for text in texts]
    assert different_texts(tokenizer, vocabulary, tmp_path / "model.gguf", texts) == []


@pytest.mark.slow
def test_blanks_behind_special_tokens_are_dropped_where_the_tokenizer_drops_them(
    new_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    document = json.loads(
        new_tokenizer(
            None, ("<|end|>", "</s>", "<|endoftext|>"), "<s>", "<|user|>", sentencepiece=True
        ).backend_tokenizer.to_str()
    )
    document["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    document["pre_tokenizer"] = None
    # The bytes are no special tokens in published tokenizers.
    document["added_tokens"] = [entry for entry in document["added_tokens"] if not entry["content"].startswith("<0x")]
    for entry in document["added_tokens"]:
        entry["rstrip"] = entry["content"] in ("<|end|>", "<|user|>", "</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)), bos_token="<s>", unk_token="<unk>"
    )
    vocabulary = read_vocabulary(tokenizer, len(tokenizer), NO_DIALOGUE)
    assert vocabulary.drops_blanks
    texts = ["<|user|>\nWhat is it?<|end|>\n<|user|> so", "<s> a"]
    assert different_texts(tokenizer, vocabulary, tmp_path / "model.gguf", texts) == []
