"""A model in hand: it answers, says how likely it finds given answers, and what its loss on given rows is.

Generation is a plain loop of our own, so that no setting a model ships with (its generation_config.json) silently
changes an answer. Labels are scored with the prompt computed once: all labels follow it in one sequence, each seeing
the prompt and itself.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from llmtune.data.example import Example, Message
from llmtune.errors import InvalidData
from llmtune.provider import Generation, GenerationRequest, TokenStats
from llmtune_local import model as models
from llmtune_local.process import share_cores
from llmtune_local.rundir import WorkerOptions

if TYPE_CHECKING:
    from torch import Tensor

    from llmtune.data.rendering import Renderer
    from llmtune_local.network import Network
    from llmtune_local.sampling import Sampler

#: Tokens in one forward pass, and answers generated side by side.
_TOKENS = 8192
_SIDE_BY_SIDE = 64
#: Longest sequence of prompt and labels: attention over it is one dense mask.
_DENSE = 768
_LONGEST_SHARED = 4096
MAX_TOKENS = 256


class LocalGenerator:
    """Base or tuned model on this machine, loaded when it is first asked. Use as a context manager.

    `model` is the base (an id, a folder or `tiny`), `artefact` the folder of an adapter or of a whole tuned model,
    `options` those of the worker (device, dtype, chat template, ...).
    """

    max_concurrency = 1

    def __init__(
        self,
        *,
        model: str,
        artefact: Path | None = None,
        revision: str | None = None,
        options: Mapping[str, Any] | WorkerOptions | None = None,
    ) -> None:
        self.model = model
        self.artefact = artefact
        self.revision = revision
        self.options = options if isinstance(options, WorkerOptions) else WorkerOptions.model_validate(options or {})
        self._network: Network | None = None
        self._renderer: Renderer | None = None
        share_cores()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        if self._network is None:
            return
        device = self._network.device
        self._network = self._renderer = None
        gc.collect()
        if device == "cuda":
            import torch

            torch.cuda.empty_cache()

    # answers

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """One answer per request, in order. Without `max_tokens` an answer has `MAX_TOKENS` at most.

        Raises `InvalidData` for a prompt that fills the model's context.
        """
        import torch

        network, renderer = self._load()
        prompts = [renderer.prompt_ids(request.messages, request.tools) for request in requests]
        limits = [self._room(request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        answers: dict[int, Generation] = {}
        with torch.no_grad(), network.arithmetic(), network.unpacked():
            for group in _groups([len(prompt) for prompt in prompts], limits):
                answers |= self._answer([(index, requests[index], prompts[index], limits[index]) for index in group])
        return [answers[index] for index in range(len(requests))]

    def _answer(
        self, group: list[tuple[int, GenerationRequest, tuple[int, ...], int]]
    ) -> Iterator[tuple[int, Generation]]:
        import torch

        from llmtune_local.sampling import Sampler

        network, renderer = self._load()
        began = time.perf_counter()
        device, stop = network.device, renderer.stop_ids
        longest = max(len(prompt) for _, _, prompt, _ in group)
        pad = next(iter(stop), 0)
        ids = torch.tensor([(pad,) * (longest - len(prompt)) + prompt for _, _, prompt, _ in group], device=device)
        lengths = torch.tensor([len(prompt) for _, _, prompt, _ in group], device=device)
        mask = (torch.arange(longest, device=device) >= (longest - lengths).unsqueeze(1)).long()
        going = [_Answer(index, Sampler(request), prompt, limit) for index, request, prompt, limit in group]
        cache: Any = None
        position = (mask.cumsum(1) - 1).clamp_min(0)
        while going:
            output = network.causal(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            chosen = [answer.sampler.next(row) for answer, row in zip(going, output.logits[:, -1], strict=True)]
            for answer, token in zip(going, chosen, strict=True):
                answer.add(token, stop)
            rest = [place for place, answer in enumerate(going) if answer.reason is None]
            for answer in going:
                if answer.reason is not None:
                    yield answer.index, answer.done(renderer.tokenizer, time.perf_counter() - began)
            if not rest:
                return
            ids = torch.tensor([[chosen[place]] for place in rest], device=device)
            keep = torch.tensor(rest, device=device)
            if len(rest) < len(going):
                cache.batch_select_indices(keep)
                going = [going[place] for place in rest]
            mask = torch.cat((mask[keep], torch.ones((len(rest), 1), dtype=mask.dtype, device=device)), dim=1)
            position = position[keep][:, -1:] + 1

    def _room(self, request: GenerationRequest, prompt: tuple[int, ...]) -> int:
        """Tokens this answer may have."""
        wanted = MAX_TOKENS if request.max_tokens is None else request.max_tokens
        context = self._context
        if context is None:
            return wanted
        if len(prompt) >= context:
            raise InvalidData(f"a prompt of {len(prompt)} tokens does not fit the model's context of {context}")
        return min(wanted, context - len(prompt))

    # likelihoods

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """Log-likelihood in nats of each label as the whole answer, its end-of-turn token included."""
        import torch

        network, renderer = self._load()
        answers = _Labels(renderer, labels)
        scores = [[0.0] * len(labels) for _ in requests]
        with torch.no_grad(), network.unpacked():
            for pieces in _chunks(requests, answers, context=self._context, shared=self._shared):
                inputs, select, targets, owners = _lay_out(pieces, network.device)
                nll = network.nll(inputs, select, targets).double().cpu()
                for value, (request, label) in zip(nll.tolist(), owners, strict=True):
                    scores[request][label] -= value
        return scores

    def token_stats(self, examples: Sequence[Example]) -> TokenStats:
        """Summed loss, count and hits over the trained tokens of these rows; of a preference row, over its preferred
        answer's. Raises `InvalidData`."""
        import torch

        from llmtune_local.batching import make_step
        from llmtune_local.rows import preferred, tokenise

        network, renderer = self._load()
        rows = tokenise(
            renderer.tokenizer,
            map(preferred, examples),
            limit=self._context,
            template_options=self.options.template_options,
        )
        step = make_step(
            [piece for row in rows.rows for piece in row],
            prompt_weight=0.0,
            packed=network.packed,
            token_budget=_TOKENS,
            pad=renderer.tokenizer.pad_token_id or 0,
        )
        loss, tokens, correct = 0.0, 0, 0
        with torch.no_grad():
            for batch in step.batches:
                sums = network.losses(batch.to(network.device))
                loss, tokens, correct = loss + float(sums.nll), tokens + sums.tokens, correct + int(sums.correct)
        return TokenStats(loss_sum=loss, tokens=tokens, correct=correct)

    # loading

    def _load(self) -> tuple[Network, Renderer]:
        if self._network is not None and self._renderer is not None:
            return self._network, self._renderer
        import torch

        from llmtune.data.rendering import Renderer
        from llmtune_local.network import Network

        options = self.options
        models.set_threads(options)
        device = models.check_device(options.device)
        dtype = models.choose_dtype(options.dtype, device, self.model, self.revision)
        adapter = self.artefact if self.artefact and (self.artefact / "adapter_config.json").exists() else None
        source = str(self.artefact) if self.artefact and adapter is None else self.model
        tokenizer = models.load_tokenizer(
            str(self.artefact) if self.artefact else self.model, self.revision, options.chat_template
        )
        revision = None if self.artefact and adapter is None else self.revision
        loaded: Any = models.load_base(source, revision, dtype=dtype, device=device)
        if adapter is not None:
            import peft

            loaded = peft.PeftModel.from_pretrained(loaded, adapter).eval()
            if dtype == torch.float32:  # in half precision the merged weights would be rounded
                loaded = loaded.merge_and_unload()
        self._context = models.context_length(loaded.config, tokenizer, None)
        self._renderer = Renderer(tokenizer, template_options=options.template_options)
        self._network = Network(loaded, device=device, dtype=dtype)
        self._shared = _shared_length(self._network)
        return self._network, self._renderer


class _Answer:
    """One answer as it grows."""

    def __init__(self, index: int, sampler: Sampler, prompt: tuple[int, ...], limit: int) -> None:
        self.index = index
        self.sampler = sampler
        self.prompt = prompt
        self.limit = limit
        self.tokens: list[int] = []
        self.reason: Literal["stop", "length"] | None = None

    def add(self, token: int, stop: frozenset[int]) -> None:
        self.tokens.append(token)
        if token in stop:
            self.reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.reason = "length"

    def done(self, tokenizer: Any, seconds: float) -> Generation:
        return Generation(
            text=tokenizer.decode(self.tokens, skip_special_tokens=True).strip(),
            finish_reason=self.reason or "unknown",
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.tokens),
            seconds=seconds,
        )


class _Labels:
    """The tokens of each label as an answer. Rendered for each prompt once, and for all labels where that differs."""

    def __init__(self, renderer: Renderer, labels: Sequence[str]) -> None:
        self.renderer = renderer
        self.labels = labels
        self._known: list[tuple[int, ...]] | None = None

    def after(self, request: GenerationRequest) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """The prompt's tokens and each label's."""
        prompt, first = self._render(request, self.labels[0])
        # What a template writes around an answer is the same whatever the answer: one label tells for all.
        if self._known is None or self._known[0] != first:
            self._known = [first] + [self._render(request, label)[1] for label in self.labels[1:]]
        return prompt, self._known

    def _render(self, request: GenerationRequest, label: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        asked = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in request.messages)
        example = Example(messages=(*asked, Message("assistant", label)), tools=request.tools)
        (row,) = self.renderer.render(example)
        span = row.spans[-1]
        return row.ids[: span.first], row.ids[span.first : span.stop]


#: One prompt with answers that follow it: (request, prompt, [(label, answer)]).
_Piece = tuple[int, tuple[int, ...], list[tuple[int, tuple[int, ...]]]]


def _chunks(
    requests: Sequence[GenerationRequest], labels: _Labels, *, context: int | None, shared: int
) -> Iterator[list[_Piece]]:
    """Prompts and labels in portions for one forward pass each. Rows longer than `shared` go alone."""
    portion: list[_Piece] = []
    size = 0
    for index, request in enumerate(requests):
        prompt, answers = labels.after(request)
        rest = list(enumerate(answers))
        longest = len(prompt) + max(len(answer) for answer in answers)
        if context is not None and longest > context:
            raise InvalidData(f"a prompt and answer of {longest} tokens do not fit the model's context of {context}")
        if longest > shared:
            yield from ([(index, prompt, [pair])] for pair in rest)
            continue
        while rest:
            take, length = 1, len(prompt) + len(rest[0][1])
            while take < len(rest) and length + len(rest[take][1]) <= max(_DENSE, 2 * len(prompt)):
                length += len(rest[take][1])
                take += 1
            if portion and size + length > _DENSE:
                yield portion
                portion, size = [], 0
            portion.append((index, prompt, rest[:take]))
            size += length
            rest = rest[take:]
    if portion:
        yield portion


def _lay_out(pieces: list[_Piece], device: str) -> tuple[dict[str, Any], Tensor, Tensor, list[tuple[int, int]]]:
    """One sequence: each prompt followed by its answers, and the mask that lets each answer see its prompt and itself.

    Answers go in without their last token, which is only ever predicted. One answer alone needs no mask.
    """
    import torch

    ids: list[int] = []
    positions: list[int] = []
    select: list[int] = []
    targets: list[int] = []
    owners: list[tuple[int, int]] = []
    spans: list[tuple[int, int, int, int]] = []
    for request, prompt, answers in pieces:
        start = len(ids)
        end = start + len(prompt)
        ids += prompt
        positions += range(len(prompt))
        spans.append((start, end, start, end))
        for label, answer in answers:
            at = len(ids)
            ids += answer[:-1]
            positions += range(len(prompt), len(prompt) + len(answer) - 1)
            spans.append((at, len(ids), start, end))
            select += [end - 1, *range(at, len(ids))]
            targets += answer
            owners += [(request, label)] * len(answer)
    inputs = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "use_cache": False,
    }
    found = (torch.tensor(select, device=device), torch.tensor(targets, device=device), owners)
    if len(spans) == 2:
        return inputs, *found
    total = len(ids)
    at_ = torch.arange(total)
    see = torch.zeros((total, total), dtype=torch.bool)
    for first, stop, start, end in spans:
        own = at_[first:stop]
        see[first:stop, first:stop] = own.unsqueeze(1) >= own
        if first != start:
            see[first:stop, start:end] = True
    mask = torch.zeros(see.shape).masked_fill_(~see, torch.finfo(torch.float32).min)
    inputs["attention_mask"] = mask[None, None].to(device)
    return inputs, *found


def _shared_length(network: Network) -> int:
    """Longest prompt and answer for which answers may follow one prompt in one sequence; 0 where they may not.

    Whether they get the same likelihood as each behind its own prompt is tried on a few tokens.
    """
    import torch

    config = network.causal.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    longest = min([window for window in windows if window] + [_LONGEST_SHARED])
    vocabulary = int(network.causal.get_input_embeddings().weight.shape[0])
    prompt = tuple(token % vocabulary for token in (5, 3, 8, 2))
    answers = [tuple(token % vocabulary for token in answer) for answer in ((7, 1, 4), (9, 6), (2, 2, 3, 1))]
    both: _Piece = (0, prompt, list(enumerate(answers)))
    apart: list[_Piece] = [(0, prompt, [pair]) for pair in enumerate(answers)]
    with torch.no_grad(), network.unpacked():
        try:
            inputs, select, targets, _ = _lay_out([both, both], network.device)
            together = network.nll(inputs, select, targets)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return 0
        one_by_one = []
        for piece in apart:
            inputs, select, targets, _ = _lay_out([piece], network.device)
            one_by_one.append(network.nll(inputs, select, targets))
    expected = torch.cat(one_by_one * 2).float()
    tolerance = 1e-3 if network.dtype == torch.float32 else 0.05
    same = (together.float() - expected).abs() <= tolerance * expected.abs().clamp_min(1.0)
    return longest if bool(same.all()) else 0


def _groups(lengths: Sequence[int], limits: Sequence[int]) -> Iterator[list[int]]:
    """Requests of like length, as many side by side as the token budget allows."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        size = max(lengths[each] + limits[each] for each in (*group, index)) * (len(group) + 1)
        if group and (size > _TOKENS * 4 or len(group) >= _SIDE_BY_SIDE):
            yield group
            group = []
        group.append(index)
    if group:
        yield group
