"""How likely a model finds given answers: every label after every prompt, with nothing computed twice.

The labels are a tree of their tokens: what several begin with stands once. The tree follows the prompt in the same
sequence, each node seeing the prompt and the nodes above it, so that one pass over prompt and tree gives the
likelihood of each label. Prompts of like length go side by side, and a beginning that all share is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmtune.data.example import Example, Message
from llmtune.errors import InvalidData
from llmtune_local.inference import prefix_cache as prefix
from llmtune_local.inference.prefix_cache import Prefix

if TYPE_CHECKING:
    from torch import Tensor

    from llmtune.data.rendering.tokenize import Renderer
    from llmtune.provider import GenerationRequest
    from llmtune_local.models.model_runner import Network

#: Tokens in one pass, and cells of its attention mask.
TOKENS = 8192
CELLS = 1 << 24
#: Nodes of one tree at most: attention over prompt and tree is one dense mask.
NODES = 512
#: Longest prompt and answer for which a tree may follow a prompt.
LONGEST = 4096

#: One answer as tokens.
Answer = tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Answers as a tree of their tokens. Node -1 is the end of the prompt; a last token is only ever predicted."""

    labels: tuple[int, ...]
    tokens: tuple[int, ...]
    """Of each node, a parent before its children."""

    depths: tuple[int, ...]
    """Of each node; 0 follows the prompt."""

    see: Tensor
    """Which nodes each node sees, bool [nodes, nodes]."""

    asked: tuple[tuple[int, int, int], ...]
    """(node, token to predict there, label) for every token of every answer."""


def tree_of(answers: Sequence[tuple[int, Answer]]) -> Tree:
    """The tree of (label, answer) pairs."""
    known: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    asked: list[tuple[int, int, int]] = []
    for label, answer in answers:
        at = -1
        for place, token in enumerate(answer):
            asked.append((at, token, label))
            if place == len(answer) - 1:
                break
            if (at, token) not in known:
                known[at, token] = len(tokens)
                parents.append(at)
                tokens.append(token)
                depths.append(place)
            at = known[at, token]
    see = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            see[node] |= see[parent]
    return Tree(tuple(label for label, _ in answers), tuple(tokens), tuple(depths), see, tuple(asked))


def trees_of(answers: Sequence[Answer]) -> list[Tree]:
    """All answers in as few trees as `NODES` allows; neighbours in the alphabet share most."""
    found: list[Tree] = []
    portion: list[tuple[int, Answer]] = []
    size = 0
    for label in sorted(range(len(answers)), key=lambda label: answers[label]):
        answer = answers[label]
        new = len(answer) - 1 - (_common(portion[-1][1][:-1], answer[:-1]) if portion else 0)
        if portion and size + new > NODES:
            found.append(tree_of(portion))
            portion, size, new = [], 0, len(answer) - 1
        portion.append((label, answer))
        size += new
    return [*found, tree_of(portion)] if portion else found


def _common(one: Answer, other: Answer) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Answers:
    """The tokens of each label as an answer. Rendered for each prompt once, and for all labels where that differs."""

    def __init__(self, renderer: Renderer, labels: Sequence[str]) -> None:
        self.renderer = renderer
        self.labels = labels
        self._known: list[Answer] | None = None

    def after(self, request: GenerationRequest) -> tuple[Answer, tuple[Answer, ...]]:
        """The prompt's tokens and each label's."""
        prompt, first = self._render(request, self.labels[0])
        # What a template writes around an answer is the same whatever the answer: one label tells for all.
        if self._known is None or self._known[0] != first:
            self._known = [first] + [self._render(request, label)[1] for label in self.labels[1:]]
        return prompt, tuple(self._known)

    def _render(self, request: GenerationRequest, label: str) -> tuple[Answer, Answer]:
        asked = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in request.messages)
        example = Example(messages=(*asked, Message("assistant", label)), tools=request.tools)
        (row,) = self.renderer.render(example)
        span = row.spans[-1]
        return row.ids[: span.first], row.ids[span.first : span.stop]


@dataclass(frozen=True)
class Way:
    """What of the above a model can do; found by trying."""

    longest: int
    """Longest prompt and answer behind which a tree may stand; longer ones take each answer alone."""

    prefix: bool
    """Whether a shared beginning may be kept."""


def score(
    network: Network, answers: Answers, requests: Sequence[GenerationRequest], *, context: int | None, way: Way
) -> list[list[float]]:
    """Log-likelihood in nats of each label after each prompt, [requests][labels]. Raises `InvalidData` for a prompt
    that does not fit."""
    scores = [[0.0] * len(answers.labels) for _ in requests]
    together: dict[tuple[Answer, ...], list[tuple[int, Answer]]] = {}
    alone: list[tuple[int, Answer, tuple[Answer, ...]]] = []
    for index, request in enumerate(requests):
        prompt, said = answers.after(request)
        longest = len(prompt) + max(map(len, said))
        if context is not None and longest > context:
            raise InvalidData(f"a prompt and answer of {longest} tokens do not fit the model's context of {context}")
        if longest > way.longest:
            alone.append((index, prompt, said))
        else:
            together.setdefault(said, []).append((index, prompt))
    for said, rows in together.items():
        begin = prefix.shared([prompt for _, prompt in rows]) if way.prefix else 0
        kept = Prefix(network, rows[0][1][:begin]) if begin else None
        behind = [(index, prompt[begin:]) for index, prompt in rows]
        for tree in trees_of(said):
            for batch in _batches(behind, len(tree.tokens), begin):
                _add(scores, network, batch, tree, kept)
    for index, prompt, said in alone:
        for label, answer in enumerate(said):
            _add(scores, network, [(index, prompt)], tree_of([(label, answer)]), None, plain=True)
    return scores


def _batches(rows: Sequence[tuple[int, Answer]], nodes: int, begin: int) -> Iterator[list[tuple[int, Answer]]]:
    """Prompts of like length, as many as fit one pass."""
    batch: list[tuple[int, Answer]] = []
    width = 0
    for row in sorted(rows, key=lambda row: -len(row[1])):
        width = width or len(row[1]) + nodes
        count = len(batch) + 1
        if batch and (count * width > TOKENS or count * width * (width + begin) > CELLS):
            yield batch
            batch, width = [], len(row[1]) + nodes
        batch.append(row)
    if batch:
        yield batch


def _add(
    scores: list[list[float]],
    network: Network,
    batch: Sequence[tuple[int, Answer]],
    tree: Tree,
    kept: Prefix | None,
    *,
    plain: bool = False,
) -> None:
    inputs, select, targets = lay_out([prompt for _, prompt in batch], tree, kept, network.device, plain=plain)
    nll = network.nll(inputs, select, targets).double().cpu().view(len(batch), -1)
    labels = [label for _, _, label in tree.asked]
    for (index, _), values in zip(batch, nll.tolist(), strict=True):
        for label, value in zip(labels, values, strict=True):
            scores[index][label] -= value


def lay_out(
    prompts: Sequence[Answer], tree: Tree, kept: Prefix | None, device: str, *, plain: bool = False
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Rows of one width: padding, a prompt (what of it follows `kept`), the tree. With the flat positions at which
    tokens are predicted, and these tokens, prompt by prompt in the order of `tree.asked`.

    `plain` is for one prompt and one answer, which need no mask.
    """
    begin = kept.length if kept is not None else 0
    longest, nodes = max(map(len, prompts)), len(tree.tokens)
    width = longest + nodes
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    positions = torch.zeros((len(prompts), width), dtype=torch.long)
    see = torch.zeros((len(prompts), width, begin + width), dtype=torch.bool)
    at = torch.arange(width)
    depths = torch.tensor(tree.depths, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        pad = longest - len(prompt)
        ids[row, pad:longest] = torch.tensor(prompt)
        ids[row, longest:] = torch.tensor(tree.tokens, dtype=torch.long)
        positions[row, pad:longest] = begin + torch.arange(len(prompt))
        positions[row, longest:] = begin + len(prompt) + depths
        see[row, pad:, :begin] = True
        see[row, pad:, begin + pad : begin + longest] = True
    causal = at[:longest].unsqueeze(1) >= at[:longest]
    see[:, :longest, begin : begin + longest] &= causal
    see[:, longest:, begin + longest :] = tree.see
    see[:, at, begin + at] = True  # padding sees itself, so that there is something to see
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "position_ids": positions.to(device), "use_cache": False}
    if kept is not None:
        inputs |= {"past_key_values": kept.rows(len(prompts)), "use_cache": True}
    if not plain:
        mask = torch.zeros(see.shape).masked_fill_(~see, torch.finfo(torch.float32).min)
        inputs["attention_mask"] = mask.unsqueeze(1).to(device)
    where = torch.tensor([longest + node if node >= 0 else longest - 1 for node, _, _ in tree.asked])
    select = (where + width * torch.arange(len(prompts)).unsqueeze(1)).flatten()
    targets = torch.tensor([token for _, token, _ in tree.asked]).repeat(len(prompts))
    return inputs, select.to(device), targets.to(device)


def find_way(network: Network) -> Way:
    """Whether a tree behind a prompt gives the likelihoods that each answer has behind its own prompt, and whether a
    shared beginning may be kept: tried on a few tokens."""
    config = network.causal.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    longest = min([window for window in windows if window] + [LONGEST])
    vocabulary = int(network.causal.get_input_embeddings().weight.shape[0])

    def tokens(*given: int) -> Answer:
        return tuple(token % vocabulary for token in given)

    prompts = [tokens(5, 3, 8, 2), tokens(4, 6)]
    answers = [tokens(7, 1, 4), tokens(7, 1, 9, 6), tokens(2, 2, 3, 1)]

    def probe() -> tuple[Tensor, Tensor]:
        together = network.nll(*lay_out(prompts, tree_of(list(enumerate(answers))), None, network.device))
        alone = [
            network.nll(*lay_out([prompt], tree_of([(0, answer)]), None, network.device, plain=True))
            for prompt in prompts
            for answer in answers
        ]
        return together, torch.cat(alone)

    with torch.no_grad(), network.unpacked():
        trees = network.holds(probe)
    return Way(longest=longest if trees else 0, prefix=prefix.possible(network))
