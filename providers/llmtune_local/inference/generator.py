"""A model in hand: it answers, says how likely it finds given answers, and what its loss on given rows is.

Generation is a plain loop of our own, so that no setting a model ships with (its generation_config.json) silently
changes an answer. Prompts of like length go side by side, finished answers leave, and a beginning that all prompts
share is computed once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llmtune.data.example import Example
from llmtune.errors import InvalidData
from llmtune.provider import Generation, GenerationRequest, TokenStats
from llmtune_local.inference.base import LocalModel
from llmtune_local.inference.tool_call_parser import with_calls
from llmtune_local.models import loading as models
from llmtune_local.models.hardware import check_device, set_threads
from llmtune_local.models.hub import adapter_of

if TYPE_CHECKING:
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.inference.prefix_cache import Prefix
    from llmtune_local.inference.sampling import Sampler
    from llmtune_local.models.model_runner import Network

#: Tokens in one forward pass, and answers generated side by side.
_TOKENS = 8192
_SIDE_BY_SIDE = 64
MAX_TOKENS = 256


class LocalGenerator(LocalModel):
    """Base or tuned model that answers, loaded when it is first asked. Use as a context manager."""

    _network: Network | None = None
    _renderer: Renderer | None = None

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
        return self._generate(requests, None)

    def stream(self, requests: Sequence[GenerationRequest], tell: Callable[[int, str], bool]) -> Sequence[Generation]:
        """As `generate`, each piece of text told as it comes; an answer whose rest is not wanted ends there."""
        return self._generate(requests, tell)

    def _generate(
        self, requests: Sequence[GenerationRequest], tell: Callable[[int, str], bool] | None
    ) -> Sequence[Generation]:
        import torch

        from llmtune_local.inference import prefix_cache

        network, renderer = self._load()
        prompts = [renderer.prompt_ids(request.messages, request.tools) for request in requests]
        limits = [self._room(request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        answers: dict[int, Generation] = {}
        with torch.no_grad(), network.arithmetic(), network.unpacked():
            begin = prefix_cache.shared(prompts) if self._way.prefix else 0
            kept = prefix_cache.Prefix(network, prompts[0][:begin]) if begin else None
            for group in _groups([len(prompt) for prompt in prompts], limits):
                asked = [(index, requests[index], prompts[index], limits[index]) for index in group]
                answers |= self._answer(asked, kept, tell)
        return [with_calls(answers[index], request) for index, request in enumerate(requests)]

    def _answer(
        self,
        group: list[tuple[int, GenerationRequest, tuple[int, ...], int]],
        kept: Prefix | None,
        tell: Callable[[int, str], bool] | None,
    ) -> Iterator[tuple[int, Generation]]:
        import torch

        from llmtune_local.inference.sampling import Sampler

        network, renderer = self._load()
        began = time.perf_counter()
        device, stop = network.device, renderer.stop_ids
        begin = kept.length if kept is not None else 0
        longest = max(len(prompt) for _, _, prompt, _ in group) - begin
        pad = next(iter(stop), 0)
        ids = torch.tensor(
            [(pad,) * (longest + begin - len(prompt)) + prompt[begin:] for _, _, prompt, _ in group], device=device
        )
        lengths = torch.tensor([len(prompt) for _, _, prompt, _ in group], device=device)
        # What all share, padding, the rest of the prompt.
        at = torch.arange(begin + longest, device=device)
        mask = ((at < begin) | (at >= (begin + longest - (lengths - begin)).unsqueeze(1))).long()
        going = [_Answer(index, Sampler(request), prompt, limit) for index, request, prompt, limit in group]
        cache: Any = kept.rows(len(group)) if kept is not None else None
        position = (mask.cumsum(1) - 1).clamp_min(0)[:, begin:]
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
            logits = output.logits[:, -1]
            likeliest = logits.argmax(dim=1).tolist()
            chosen = [
                token if answer.sampler.greedy else answer.sampler.next(row)
                for answer, row, token in zip(going, logits, likeliest, strict=True)
            ]
            for answer, token in zip(going, chosen, strict=True):
                answer.add(token, stop)
                if tell is not None and not tell(answer.index, answer.news(renderer.tokenizer)):
                    answer.reason = answer.reason or "stop"
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

        from llmtune_local.inference import label_scoring as trees

        network, renderer = self._load()
        answers = trees.Answers(renderer, labels)
        with torch.no_grad(), network.unpacked():
            return trees.score(network, answers, requests, context=self._context, way=self._way)

    def token_stats(self, examples: Sequence[Example]) -> TokenStats:
        """Summed loss, count and hits over the trained tokens of these rows; of a preference row, over its preferred
        answer's. Raises `InvalidData`."""
        import torch

        from llmtune_local.batching.packing import make_step
        from llmtune_local.batching.token_rows import preferred, tokenise

        network, renderer = self._load()
        rows = tokenise(
            renderer.tokenizer,
            map(preferred, examples),
            limit=self._context,
            template_options=self.options.template_options,
            mask_empty_thinking=self.options.mask_empty_thinking,
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
                loss, tokens, correct = loss + float(sums.nll), tokens + int(sums.tokens), correct + int(sums.correct)
        return TokenStats(loss_sum=loss, tokens=tokens, correct=correct)

    # loading

    def _load(self) -> tuple[Network, Renderer]:
        if self._network is not None and self._renderer is not None:
            return self._network, self._renderer
        import torch

        from llmtune.data.rendering.tokenize import Renderer
        from llmtune_local.inference.label_scoring import find_way
        from llmtune_local.models.model_runner import Network

        options = self.options
        set_threads(options)
        device = check_device(options.device)
        dtype = models.choose_dtype(options.dtype, device, self.model, self.revision)
        adapter = self.artefact if self.artefact and (self.artefact / "adapter_config.json").exists() else None
        if self.artefact is None:  # a model that a run went on with is one too, and is asked with its adapter
            _, adapter = adapter_of(self.model)
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
        self._way = find_way(self._network)
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
        self._told = 0

    def add(self, token: int, stop: frozenset[int]) -> None:
        self.tokens.append(token)
        if token in stop:
            self.reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.reason = "length"

    def text(self, tokenizer: Any) -> str:
        return str(tokenizer.decode(self.tokens, skip_special_tokens=True)).strip()

    def news(self, tokenizer: Any) -> str:
        """What of the text has not been told: without half a character, and without space that may be its end."""
        text = self.text(tokenizer)
        if self.reason is None:
            text = text.rstrip("\ufffd")
        found = text[self._told :]
        self._told += len(found)
        return found

    def done(self, tokenizer: Any, seconds: float) -> Generation:
        return Generation(
            text=self.text(tokenizer),
            finish_reason=self.reason or "unknown",
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.tokens),
            seconds=seconds,
        )


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
