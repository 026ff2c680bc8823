"""Likelihoods of given answers: every label after every prompt, with nothing computed twice.

The labels are a tree of their tokens: a prefix of several labels is in it once. The tree follows the prompt in the same
sequence, each node seeing the prompt and the nodes above it, so that one pass over prompt and tree gives the likelihood
of each label. Prompts of similar length are scored side by side, and a prefix that all share is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmtune.data.example import Example, Message, ToolCall
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

    predictions: tuple[tuple[int, int, int], ...]
    """(node, token to predict there, label) for every token of every answer."""


def build_tree(answers: Sequence[tuple[int, Answer]]) -> Tree:
    """Build the tree of (label, answer) pairs."""
    nodes: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    predictions: list[tuple[int, int, int]] = []
    for label, answer in answers:
        at = -1
        for depth, token in enumerate(answer):
            predictions.append((at, token, label))
            if depth == len(answer) - 1:
                break
            if (at, token) not in nodes:
                nodes[at, token] = len(tokens)
                parents.append(at)
                tokens.append(token)
                depths.append(depth)
            at = nodes[at, token]
    see = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            see[node] |= see[parent]
    return Tree(tuple(label for label, _ in answers), tuple(tokens), tuple(depths), see, tuple(predictions))


def build_trees(answers: Sequence[Answer]) -> list[Tree]:
    """Arrange all answers in as few trees as `NODES` allows; neighbours in sorted order share most."""
    trees: list[Tree] = []
    portion: list[tuple[int, Answer]] = []
    size = 0
    for label in sorted(range(len(answers)), key=lambda label: answers[label]):
        answer = answers[label]
        new = len(answer) - 1 - (_common_length(portion[-1][1][:-1], answer[:-1]) if portion else 0)
        if portion and size + new > NODES:
            trees.append(build_tree(portion))
            portion, size, new = [], 0, len(answer) - 1
        portion.append((label, answer))
        size += new
    return [*trees, build_tree(portion)] if portion else trees


def _common_length(first: Answer, second: Answer) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


class Answers:
    """Labels as tokens of answers, rendered once per prompt, and for all labels where a prompt changes them."""

    def __init__(self, renderer: Renderer, labels: Sequence[str]) -> None:
        self.renderer = renderer
        self.labels = labels
        self._label_tokens: list[Answer] | None = None

    def after(self, request: GenerationRequest) -> tuple[Answer, tuple[Answer, ...]]:
        """Return the prompt's tokens and each label's."""
        prompt, first = self._render(request, self.labels[0])
        # What a template writes around an answer does not depend on the answer: one label is compared for all.
        if self._label_tokens is None or self._label_tokens[0] != first:
            self._label_tokens = [first] + [self._render(request, label)[1] for label in self.labels[1:]]
        return prompt, tuple(self._label_tokens)

    def _render(self, request: GenerationRequest, label: str) -> tuple[Answer, Answer]:
        return render_answer(self.renderer, request, label)


def render_answer(
    renderer: Renderer, request: GenerationRequest, text: str, calls: Sequence[ToolCall] = ()
) -> tuple[Answer, Answer]:
    """Return the tokens of a request's prompt, and those of an answer to it up to its end-of-turn token.

    Raises `InvalidData` where the template does not render the answer.
    """
    turns = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in request.messages)
    reply = Message("assistant", text or None if calls else text, tool_calls=tuple(calls))
    (row,) = renderer.render(Example(messages=(*turns, reply), tools=request.tools))
    span = row.spans[-1]
    return row.ids[: span.first], row.ids[span.first : span.stop]


@dataclass(frozen=True)
class ScoringMethod:
    """Which of the faster ways a model supports; found by trying them."""

    longest: int
    """Longest prompt and answer behind which a tree may stand; longer ones take each answer alone."""

    prefix: bool
    """Whether a shared beginning may be kept."""


def score(
    network: Network,
    answers: Answers,
    requests: Sequence[GenerationRequest],
    *,
    context: int | None,
    method: ScoringMethod,
) -> list[list[float]]:
    """Return the log-likelihood in nats of each label after each prompt, [requests][labels].

    Raises `InvalidData` for a prompt that does not fit the context.
    """
    scores = [[0.0] * len(answers.labels) for _ in requests]
    together: dict[tuple[Answer, ...], list[tuple[int, Answer]]] = {}
    alone: list[tuple[int, Answer, tuple[Answer, ...]]] = []
    for index, request in enumerate(requests):
        prompt, label_tokens = answers.after(request)
        longest = len(prompt) + max(map(len, label_tokens))
        if context is not None and longest > context:
            raise InvalidData(f"a prompt and answer of {longest} tokens do not fit the model's context of {context}")
        if longest > method.longest:
            alone.append((index, prompt, label_tokens))
        else:
            together.setdefault(label_tokens, []).append((index, prompt))
    for label_tokens, rows in together.items():
        begin = prefix.shared_prefix([prompt for _, prompt in rows]) if method.prefix else 0
        cached_prefix = Prefix(network, rows[0][1][:begin]) if begin else None
        behind = [(index, prompt[begin:]) for index, prompt in rows]
        for tree in build_trees(label_tokens):
            for batch in _batches(behind, len(tree.tokens), begin):
                _add_scores(scores, network, batch, tree, cached_prefix)
    for index, prompt, label_tokens in alone:
        for label, answer in enumerate(label_tokens):
            _add_scores(scores, network, [(index, prompt)], build_tree([(label, answer)]), None, plain=True)
    return scores


def _batches(rows: Sequence[tuple[int, Answer]], nodes: int, begin: int) -> Iterator[list[tuple[int, Answer]]]:
    """Batch prompts of similar length, as many as fit one pass."""
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


def _add_scores(
    scores: list[list[float]],
    network: Network,
    batch: Sequence[tuple[int, Answer]],
    tree: Tree,
    cached_prefix: Prefix | None,
    *,
    plain: bool = False,
) -> None:
    inputs, select, targets = tree_layout(
        [prompt for _, prompt in batch], tree, cached_prefix, network.device, plain=plain
    )
    nll = network.nll(inputs, select, targets).double().cpu().view(len(batch), -1)
    labels = [label for _, _, label in tree.predictions]
    for (index, _), values in zip(batch, nll.tolist(), strict=True):
        for label, value in zip(labels, values, strict=True):
            scores[index][label] -= value


def tree_layout(
    prompts: Sequence[Answer], tree: Tree, cached_prefix: Prefix | None, device: str, *, plain: bool = False
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Lay out rows of one width: padding, a prompt (what of it follows `cached_prefix`), the tree.

    Returns the model's inputs, the flat positions at which tokens are predicted, and these tokens, prompt by prompt in
    the order of `tree.predictions`. `plain` is for one prompt and one answer, which need no mask.
    """
    begin = cached_prefix.length if cached_prefix is not None else 0
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
    if cached_prefix is not None:
        inputs |= {"past_key_values": cached_prefix.rows(len(prompts)), "use_cache": True}
    if not plain:
        mask = torch.zeros(see.shape).masked_fill_(~see, torch.finfo(torch.float32).min)
        inputs["attention_mask"] = mask.unsqueeze(1).to(device)
    where = torch.tensor([longest + node if node >= 0 else longest - 1 for node, _, _ in tree.predictions])
    select = (where + width * torch.arange(len(prompts)).unsqueeze(1)).flatten()
    targets = torch.tensor([token for _, token, _ in tree.predictions]).repeat(len(prompts))
    return inputs, select.to(device), targets.to(device)


def choose_method(network: Network) -> ScoringMethod:
    """Try on a few tokens which faster ways give the same likelihoods: trees after a prompt, and a cached prefix."""
    config = network.causal.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    longest = min([window for window in windows if window] + [LONGEST])
    vocabulary = int(network.causal.get_input_embeddings().weight.shape[0])

    def tokens(*ids: int) -> Answer:
        return tuple(token % vocabulary for token in ids)

    prompts = [tokens(5, 3, 8, 2), tokens(4, 6)]
    answers = [tokens(7, 1, 4), tokens(7, 1, 9, 6), tokens(2, 2, 3, 1)]

    def probe() -> tuple[Tensor, Tensor]:
        together = network.nll(*tree_layout(prompts, build_tree(list(enumerate(answers))), None, network.device))
        alone = [
            network.nll(*tree_layout([prompt], build_tree([(0, answer)]), None, network.device, plain=True))
            for prompt in prompts
            for answer in answers
        ]
        return together, torch.cat(alone)

    with torch.no_grad(), network.unpacked():
        trees = network.ways_agree(probe)
    return ScoringMethod(longest=longest if trees else 0, prefix=prefix.supports_prefix_cache(network))
