"""A fast tokenizer as the vocabulary of a GGUF file: tokens, merges, and the name of how text is cut into words.

llama.cpp cuts text by rules in its code, which a file names (`tokenizer.ggml.pre`). The name is chosen by reading
texts: the rule that cuts the fewest of them differently from the model's own tokenizer. What is read in other tokens
still is named.
(github.com/ggml-org/llama.cpp, src/llama-vocab.cpp, 2026-11.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llmtune.data.rendering.text_bank import all_texts, describe_differences
from llmtune.errors import InvalidJob
from llmtune_local.serving.dialogue import Dialogue

_HINT = "use --format merged, and serve the folder with vLLM or transformers"

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARKS_AND_BLANKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# What stands there for capitals and small letters: of the marks that published tokenizers count with them, none.
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CASED = r"[^\r\n\p{L}\p{N}]?"
_CASED_END = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Rule(NamedTuple):
    """How llama.cpp cuts text into words: by expressions, one after the other; and whether a word that is a token is
    taken whole, whatever the merges would give."""

    expressions: tuple[str, ...]
    whole_words: bool = False


#: Names of `tokenizer.ggml.pre` -> rule.
RULES: dict[str, Rule] = {
    "llama-bpe": Rule((rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS_AND_BLANKS}",), True),
    "smaug-bpe": Rule((rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS_AND_BLANKS}",)),
    "qwen2": Rule((rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS_AND_BLANKS}",)),
    "smollm": Rule((r"\p{N}", _GPT2)),
    "gpt-2": Rule((_GPT2,)),
    "tekken": Rule((rf"{_CASED}{_UPPER}*{_LOWER}+|{_CASED}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_END}",), True),
    "gpt-4o": Rule(
        (
            rf"{_CASED}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_CASED}{_UPPER}+{_LOWER}*{_CONTRACTION}?|\p{{N}}{{1,3}}"
            rf"|{_CASED_END}",
        )
    ),
}
#: Of the texts, the share that may differ under the best rule; beyond it no rule is the tokenizer's.
_MOST_DIFFERENT = 0.25

#: Families of tokens in `gguf.TokenType`.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
#: llama.cpp drops the blank behind special tokens where the model's name contains one of these, and in no other case.
_PHI = ("phi-3", "phi3")
#: Tokens behind which it does not, in those models; a file without one of them is not loaded under such a name.
_PHI_KEEPS = frozenset(("<unk>", "<s>", "<|endoftext|>"))
_PHI_NEEDS = _PHI_KEEPS | {"</s>"}


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a GGUF file, and where llama.cpp reads text differently in spite of it."""

    kind: str
    """gpt2 (bytes and merges) or llama (SentencePiece's pieces with scores)."""

    pre: str
    """The rule by which text is cut into words."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    settings: Mapping[str, bool | int | str] = field(default_factory=dict)
    """The header's other keys about the tokenizer."""

    differences: tuple[str, ...] = ()
    """What llama.cpp does differently, in sentences."""

    drops_blanks: bool = False
    """Whether blanks behind special tokens are dropped, which the model's name has to say."""

    def write(self, writer: Any) -> None:
        """Write it into a GGUF file's header."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for key, value in self.settings.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_string(key, value)

    def model_name(self, name: str) -> str:
        """Return a name for the model that gives its special tokens the right treatment of blanks."""
        if self.drops_blanks:
            return name if any(phi in name.lower() for phi in _PHI) else f"{name} (phi-3)"
        for phi in _PHI:
            while (at := name.lower().find(phi)) >= 0:
                name = f"{name[:at]}phi 3{name[at + len(phi) :]}"
        return name


def read_vocabulary(tokenizer: Any, size: int, dialogue: Dialogue) -> Vocabulary:
    """Return the vocabulary of a fast tokenizer for a model with `size` embeddings.

    Raises:
        InvalidJob: llama.cpp has no tokenizer of this kind, or cuts text too differently.
    """
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise InvalidJob(f"its tokenizer is of the kind {model['type']}, which cannot be written as GGUF", hint=_HINT)
    if len(tokenizer) > size:
        raise InvalidJob(f"its tokenizer has {len(tokenizer):,} tokens, and the model {size:,} embeddings")
    added = {entry["id"]: entry for entry in document["added_tokens"]}
    differences: list[str] = []
    if model.get("byte_fallback"):
        vocabulary = _read_pieces(document, added, size)
    else:
        vocabulary = _read_bytes(tokenizer, document, added, size)
    differences += vocabulary.differences
    drops, about_blanks = _blanks_dropped(added.values())
    settings, about_tokens = _special_tokens(tokenizer, dialogue)
    return Vocabulary(
        kind=vocabulary.kind,
        pre=vocabulary.pre,
        tokens=vocabulary.tokens,
        types=vocabulary.types,
        scores=vocabulary.scores,
        merges=vocabulary.merges,
        settings={**vocabulary.settings, **settings},
        differences=(*differences, *about_blanks, *about_tokens),
        drops_blanks=drops,
    )


def _token_table(
    document: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    """Return text and type of each token; embeddings without a token are unused ones."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [_UNUSED] * size
    for token, number in document["model"]["vocab"].items():
        tokens[number], types[number] = token, _NORMAL
    for number, entry in added.items():
        tokens[number], types[number] = entry["content"], _CONTROL if entry["special"] else _USER_DEFINED
    return tokens, types


def _read_bytes(
    tokenizer: Any, document: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], size: int
) -> Vocabulary:
    """Read a tokenizer over bytes, as GPT-2's is."""
    if "ByteLevel" not in _kinds(document["pre_tokenizer"]):
        raise InvalidJob("its tokenizer reads neither bytes nor pieces, and cannot be written as GGUF", hint=_HINT)
    pre, different = choose_rule(tokenizer)
    tokens, types = _token_table(document, added, size)
    differences = []
    if different:
        differences.append(f"llama.cpp reads some texts in other tokens: {describe_differences(different)}")
    return Vocabulary(
        kind="gpt2",
        pre=pre,
        tokens=tuple(tokens),
        types=tuple(types),
        merges=tuple(" ".join(pair) if not isinstance(pair, str) else pair for pair in document["model"]["merges"]),
        differences=tuple(differences),
    )


def choose_rule(tokenizer: Any) -> tuple[str, list[tuple[str, str]]]:
    """Return the name of the rule nearest to the tokenizer's, and the texts that it reads in other tokens, by kind.

    Nearest is the rule that cuts the fewest texts into other words: tokens alone would let a rule pass whose other cuts
    happen to give the same tokens in these texts. Raises `InvalidJob` where no rule comes near.
    """
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    texts = all_texts()
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    expected = _encode(backend, texts)
    cuts = _cut(backend.pre_tokenizer, texts)
    whole_words = bool(backend.model.ignore_merges)
    backend.normalizer = None  # llama.cpp has none
    splitters = {}
    for name, rule in RULES.items():
        splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in rule.expressions]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        splitters[name] = pre_tokenizers.Sequence([*splits, to_bytes])

    def distance(name: str) -> tuple[int, bool]:
        different = sum(new != old for new, old in zip(_cut(splitters[name], texts), cuts, strict=True))
        return different, RULES[name].whole_words != whole_words

    nearest = min(RULES, key=distance)
    backend.pre_tokenizer = splitters[nearest]
    backend.model.ignore_merges = RULES[nearest].whole_words
    encoded = _encode(backend, texts)
    different = [text for text, new, old in zip(texts, encoded, expected, strict=True) if new != old]
    if len(different) > _MOST_DIFFERENT * len(texts):
        raise InvalidJob(
            f"its tokenizer cuts text into words by a rule that llama.cpp does not have: by the nearest ({nearest}),"
            f" {len(different)} of {len(texts)} texts are read in other tokens",
            hint=_HINT,
        )
    return nearest, different


def _cut(splitter: Any, texts: Sequence[tuple[str, str]]) -> list[list[tuple[int, int]]]:
    """Return where a pre-tokenizer cuts each text."""
    return [[span for _, span in splitter.pre_tokenize_str(text)] for _, text in texts]


def _encode(backend: Any, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
    encodings = backend.encode_batch([text for _, text in texts], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _read_pieces(document: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], size: int) -> Vocabulary:
    """Read a tokenizer made of SentencePiece's pieces: blanks are ▁, and what is unknown is written in bytes."""
    blanks = _Blanks.read(document)
    tokens, types = _token_table(document, added, size)
    unknown = document["model"].get("unk_token")
    for number, token in enumerate(tokens):
        if types[number] == _USER_DEFINED:
            if added[number]["normalized"]:
                tokens[number] = token.replace("▁", " ")  # llama.cpp looks for it in the text as it is written
        elif token == unknown:
            types[number] = _UNKNOWN
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = _BYTE
    # llama.cpp merges what gives the piece of the highest score: the merges' order, from the first to the last.
    numbers = document["model"]["vocab"]
    scores = [-1e6 if type_ in (_NORMAL, _USER_DEFINED) else 0.0 for type_ in types]
    for rank, merge in enumerate(document["model"]["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        number = numbers.get("".join(pair))
        if number is not None and scores[number] == -1e6:
            scores[number] = -float(rank)
    return Vocabulary(
        kind="llama",
        pre="default",
        tokens=tuple(tokens),
        types=tuple(types),
        scores=tuple(scores),
        settings={"tokenizer.ggml.add_space_prefix": blanks.prefix},
        differences=blanks.differences,
    )


class _Blanks(NamedTuple):
    """How a tokenizer of pieces treats blanks: whether one is put in front of a text, and what cannot be written."""

    prefix: bool
    differences: tuple[str, ...] = ()

    @staticmethod
    def read(document: Mapping[str, Any]) -> _Blanks:
        """Read it from a tokenizer's normalizer and pre-tokenizer. Raises `InvalidJob` for others than these."""
        normalizers, splitters = _steps(document["normalizer"]), _steps(document["pre_tokenizer"])
        prefix, differences = False, []
        for step in normalizers:
            if step["type"] == "Prepend" and step["prepend"] == "▁":
                prefix = True
            elif step["type"] != "Replace" or step["pattern"] != {"String": " "} or step["content"] != "▁":
                raise InvalidJob(f"its tokenizer changes text by {step['type']}, which llama.cpp does not", hint=_HINT)
        for step in splitters:
            if step["type"] == "Metaspace" and step["replacement"] == "▁":
                prefix = step.get("prepend_scheme") == "always"
                if step.get("prepend_scheme") == "first":
                    differences.append(
                        "text that does not begin with a special token is read without the blank that the tokenizer"
                        " puts in front of it; conversations are not affected"
                    )
            elif step["type"] != "Split" or step["behavior"] != "MergedWithPrevious":
                raise InvalidJob(f"its tokenizer cuts text by {step['type']}, which llama.cpp does not", hint=_HINT)
        return _Blanks(prefix, tuple(differences))


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, one after the other."""
    if part is None:
        return []
    members = part.get("normalizers") or part.get("pretokenizers")
    return [step for member in members for step in _steps(member)] if members else [part]


def _kinds(part: Mapping[str, Any] | None) -> list[str]:
    return [step["type"] for step in _steps(part)]


def _blanks_dropped(added: Iterable[Mapping[str, Any]]) -> tuple[bool, list[str]]:
    """Return whether the tokenizer drops blanks behind its special tokens as Phi 3 does, and what it does else."""
    entries = list(added)
    special = [entry for entry in entries if entry["special"] and entry["content"] not in _PHI_KEEPS]
    drops = {entry["content"] for entry in entries} >= _PHI_NEEDS and all(
        entry["rstrip"] and not entry["lstrip"] for entry in special
    )
    strange = [] if drops else [entry["content"] for entry in special if entry["rstrip"] or entry["lstrip"]]
    if not strange:
        return drops, []
    return drops, [f"blanks beside {', '.join(strange[:3])} are dropped by the tokenizer and kept by llama.cpp"]


def _special_tokens(tokenizer: Any, dialogue: Dialogue) -> tuple[dict[str, bool | int | str], list[str]]:
    """Return the header's keys for special tokens and the chat template, and what they cannot say."""
    numbers: dict[str, int | None] = {
        "bos_token_id": tokenizer.bos_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    ends = list(dialogue.ends)
    if tokenizer.eos_token_id in ends:  # the end of text first, then those of turns
        ends.sort(key=lambda token: token != tokenizer.eos_token_id)
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    numbers |= dict(zip(names, ends, strict=False))
    settings: dict[str, bool | int | str] = {
        f"tokenizer.ggml.{name}": number for name, number in numbers.items() if number is not None
    }
    settings["tokenizer.ggml.add_bos_token"] = dialogue.begins
    settings["tokenizer.ggml.add_eos_token"] = False
    if dialogue.template is not None:
        settings["tokenizer.chat_template"] = dialogue.template
    differences = []
    if len(ends) > len(names):
        tokens = ", ".join(tokenizer.convert_ids_to_tokens(ends[len(names) :]))
        differences.append(f"llama.cpp can be told of {len(names)} tokens that end an answer, and not of {tokens}")
    return settings, differences
