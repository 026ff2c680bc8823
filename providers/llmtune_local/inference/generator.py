"""A causal language model in use: it generates answers, scores labels and measures its loss on given rows.

Generation is a plain loop of our own, so that no setting a model ships with (its generation_config.json) silently
changes an answer. Prompts of similar length are generated side by side, finished answers leave the batch, and a prefix
that all prompts share is computed once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmtune.data.example import Example
from llmtune.errors import InvalidData
from llmtune.provider import AnswerLikelihood, Generation, GenerationRequest, TokenStats
from llmtune_local.images.reader import ModelImages
from llmtune_local.inference.base import LocalModel
from llmtune_local.inference.tool_call_parser import with_calls
from llmtune_local.models import loading as models
from llmtune_local.models.hardware import resolve_device, set_threads
from llmtune_local.models.hub import LOADING, split_adapter
from llmtune_local.models.memory_estimate import check_answering

if TYPE_CHECKING:
    import torch

    from llmtune.data.rendering.images import ImageReader
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.images.reader import RowImage
    from llmtune_local.inference.prefix_cache import Prefix
    from llmtune_local.inference.sampling import Sampler
    from llmtune_local.models.model_runner import Network

#: Tokens in one forward pass, and answers generated side by side.
_TOKENS = 8192
_MAX_BATCH = 64
MAX_TOKENS = 256


class LocalGenerator(LocalModel):
    """Base or tuned model that generates answers, loaded at its first use. Use as a context manager."""

    _network: Network | None = None
    _renderer: Renderer | None = None
    _images: ImageReader | None = None

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
        """Generate one answer per request, in order. Without `max_tokens` an answer has `MAX_TOKENS` at most.

        Raises `InvalidData` for a prompt that fills the model's context.
        """
        return self._generate(requests, None)

    def stream(self, requests: Sequence[GenerationRequest], tell: Callable[[int, str], bool]) -> Sequence[Generation]:
        """Generate as `generate` does, and pass each new piece of text to `tell`; where that returns False the answer
        ends."""
        return self._generate(requests, tell)

    def _generate(
        self, requests: Sequence[GenerationRequest], tell: Callable[[int, str], bool] | None
    ) -> Sequence[Generation]:
        import torch

        from llmtune_local.inference import prefix_cache

        network, renderer = self._load()
        questions = []
        for index, request in enumerate(requests):
            prompt = renderer.prompt_ids(request.messages, request.tools)
            limit = self._max_new_tokens(request, prompt)
            questions.append(Question(index, request, prompt, limit, self._place_images(request, prompt)))
        texts = [question for question in questions if not question.images]
        answers: dict[int, Generation] = {}
        with torch.no_grad(), network.autocast(), network.unpacked():
            prompts = [question.prompt for question in texts]
            begin = prefix_cache.shared_prefix(prompts) if self._method.prefix else 0
            prefix = prefix_cache.Prefix(network, prompts[0][:begin]) if begin else None
            for group in group_prompts([len(prompt) for prompt in prompts], [question.limit for question in texts]):
                answers |= answer_batch(network, renderer, [texts[index] for index in group], prefix, tell)
            for question in questions:
                if question.images:
                    answers |= answer_batch(network, renderer, [question], tell=tell)
        return [with_calls(answers[index], request) for index, request in enumerate(requests)]

    def _place_images(self, request: GenerationRequest, prompt: Sequence[int]) -> tuple[RowImage, ...]:
        images = [image for message in request.messages for image in message.images]
        return self._images.place(images, prompt) if images and isinstance(self._images, ModelImages) else ()

    def _max_new_tokens(self, request: GenerationRequest, prompt: tuple[int, ...]) -> int:
        """Return how many tokens this answer may have."""
        limit = MAX_TOKENS if request.max_tokens is None else request.max_tokens
        context = self._context
        if context is None:
            return limit
        if len(prompt) >= context:
            raise InvalidData(f"a prompt of {len(prompt)} tokens does not fit the model's context of {context}")
        return min(limit, context - len(prompt))

    # likelihoods

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """Return the log-likelihood in nats of each label as the whole answer, its end-of-turn token included."""
        import torch

        from llmtune_local.inference import label_scoring

        network, renderer = self._load()
        answers = label_scoring.Answers(renderer, labels)
        with_images = [any(message.images for message in request.messages) for request in requests]
        texts = [request for request, has_images in zip(requests, with_images, strict=True) if not has_images]
        with torch.no_grad(), network.unpacked():
            scores = iter(
                label_scoring.score(network, answers, texts, context=self._context, method=self._method)
                if texts
                else ()
            )
        return [
            self._score_labels_of_images(request, labels) if has_images else next(scores)
            for request, has_images in zip(requests, with_images, strict=True)
        ]

    def _score_labels_of_images(self, request: GenerationRequest, labels: Sequence[str]) -> list[float]:
        likelihoods = self.score_answers([request] * len(labels), [Generation(text=label) for label in labels])
        return [sum(likelihood.logprobs) for likelihood in likelihoods]

    def token_stats(self, examples: Sequence[Example]) -> TokenStats:
        """Return summed loss, count and correct predictions over the trained tokens of these rows.

        Of a preference row, those of its preferred answer. Raises `InvalidData`.
        """
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
            images=self._images,
        )
        step = make_step(
            [piece for row in rows.rows for piece in row],
            prompt_weight=0.0,
            packed=network.packed and not any(piece.images for row in rows.rows for piece in row),
            token_budget=_TOKENS,
            pad=renderer.tokenizer.pad_token_id or 0,
        )
        loss, tokens, correct = 0.0, 0, 0
        with torch.no_grad():
            for batch in step.batches:
                sums = network.losses(batch.to(network.device))
                loss, tokens, correct = loss + float(sums.nll), tokens + int(sums.tokens), correct + int(sums.correct)
        return TokenStats(loss_sum=loss, tokens=tokens, correct=correct)

    def score_answers(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Generation]
    ) -> list[AnswerLikelihood]:
        """Return the likelihood of each answer to its request, its end-of-turn token included.

        Raises `InvalidData` for an answer that the template does not render, or that does not fit the context.
        """
        import torch

        from llmtune_local.inference.label_scoring import render_answer

        network, renderer = self._load()
        likelihoods = []
        with torch.no_grad(), network.autocast(), network.unpacked():
            for request, answer in zip(requests, answers, strict=True):
                prompt, tokens = render_answer(renderer, request, answer.text, answer.tool_calls)
                length = len(prompt) + len(tokens)
                if self._context is not None and length > self._context:
                    raise InvalidData(
                        f"a prompt and answer of {length} tokens do not fit the model's context of {self._context}"
                    )
                ids = torch.tensor([prompt + tokens[:-1]], device=network.device)
                inputs = _image_inputs(network, ids, self._place_images(request, prompt))
                output = network.causal(input_ids=ids, use_cache=False, **inputs)
                logits = output.logits[0, len(prompt) - 1 :].float()
                likely = torch.log_softmax(logits, dim=-1)
                chosen = likely.gather(1, torch.tensor(tokens, device=network.device).unsqueeze(1)).squeeze(1)
                gaps = likely.max(dim=-1).values - chosen
                likelihoods.append(AnswerLikelihood(tuple(chosen.tolist()), tuple(gaps.tolist())))
        return likelihoods

    # loading

    def _load(self) -> tuple[Network, Renderer]:
        if self._network is None or self._renderer is None:
            with LOADING:
                return self._load_once()
        return self._network, self._renderer

    def _load_once(self) -> tuple[Network, Renderer]:
        if self._network is not None and self._renderer is not None:  # another thread was faster
            return self._network, self._renderer
        import torch

        from llmtune.data.rendering.tokenize import Renderer
        from llmtune_local.inference.label_scoring import choose_method
        from llmtune_local.models.image_runner import ImageNetwork
        from llmtune_local.models.model_runner import Network

        options = self.options
        set_threads(options)
        device = resolve_device(options.device)
        dtype = models.choose_dtype(options.dtype, device, self.model, self.revision)
        adapter = self.artefact if self.artefact and (self.artefact / "adapter_config.json").exists() else None
        if self.artefact is None:  # the base may itself be an earlier run's adapter
            _, adapter = split_adapter(self.model)
        source = str(self.artefact) if self.artefact and adapter is None else self.model
        tokenizer = models.load_tokenizer(
            str(self.artefact) if self.artefact else self.model, self.revision, options.chat_template
        )
        revision = None if self.artefact and adapter is None else self.revision
        check_answering(source, revision, device, str(dtype).removeprefix("torch."))
        loaded: Any = models.load_base(source, revision, dtype=dtype, device=device)
        if adapter is not None:
            import peft

            loaded = peft.PeftModel.from_pretrained(loaded, adapter).eval()
            if dtype == torch.float32:  # in half precision the merged weights would be rounded
                loaded = loaded.merge_and_unload()
        self._context = models.context_length(loaded.config, tokenizer, None)
        self._images = models.load_images(self.model, self.revision, tokenizer, max_pixels=options.image_max_pixels)
        self._renderer = Renderer(tokenizer, template_options=options.template_options, images=self._images)
        if isinstance(self._images, ModelImages):
            self._network = ImageNetwork(loaded, images=self._images, device=device, dtype=dtype, pack=True)
        else:
            self._network = Network(loaded, device=device, dtype=dtype)
        self._method = choose_method(self._network)
        return self._network, self._renderer


class Question(NamedTuple):
    """A prompt as tokens, with how it is to be answered, the tokens that the answer may have, and the images that some
    tokens of the prompt stand for."""

    number: int
    request: GenerationRequest
    prompt: tuple[int, ...]
    limit: int
    images: tuple[RowImage, ...] = ()


def answer_batch(
    network: Network,
    renderer: Renderer,
    group: Sequence[Question],
    prefix: Prefix | None = None,
    tell: Callable[[int, str], bool] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Generate the answers of a group side by side; yield each with its question's number when it is finished.

    The model must be unpacked, and no gradient be recorded. `tell` is as in `LocalGenerator.stream`.
    """
    began = time.perf_counter()
    for answer in answer_tokens(network, renderer, group, prefix, tell):
        yield answer.index, answer.done(renderer.tokenizer, time.perf_counter() - began)


def answer_tokens(
    network: Network,
    renderer: Renderer,
    group: Sequence[Question],
    prefix: Prefix | None = None,
    tell: Callable[[int, str], bool] | None = None,
    *,
    copies: int = 1,
    after_token: Callable[[], None] | None = None,
) -> Iterator[GeneratedAnswer]:
    """Generate as `answer_batch` does, and yield each finished answer with its tokens.

    With `copies`, so many questions that follow one another have the same prompt, which is computed once for them; only
    of a model that takes a cached prefix. `after_token` is called each time all answers have grown by a token. Prompts
    with images are answered one by one, so that nothing is padded: the model itself knows where tokens stand.
    """
    import torch

    from llmtune_local.inference.sampling import Sampler

    images = group[0].images
    if len(group) > 1 and any(question.images for question in group):
        for question in group:
            yield from answer_tokens(network, renderer, [question], None, tell)
        return
    device, stop = network.device, renderer.stop_ids
    begin = prefix.length if prefix is not None else 0
    prompts = [question.prompt for question in group[::copies]]
    longest = max(map(len, prompts)) - begin
    pad = next(iter(stop), 0)
    ids = torch.tensor([(pad,) * (longest + begin - len(prompt)) + prompt[begin:] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    # What all share, padding, the rest of the prompt.
    at = torch.arange(begin + longest, device=device)
    mask = ((at < begin) | (at >= (begin + longest - (lengths - begin)).unsqueeze(1))).long()
    growing = [
        GeneratedAnswer(question.number, Sampler(question.request), question.prompt, question.limit)
        for question in group
    ]
    cache: Any = prefix.rows(len(prompts)) if prefix is not None else None
    position = (mask.cumsum(1) - 1).clamp_min(0)[:, begin:]
    extra = _image_inputs(network, ids, images)
    while growing:
        output = network.causal(
            input_ids=ids,
            attention_mask=None if images else mask,
            position_ids=None if images else position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **extra,
        )
        extra = {}  # the cache has seen them
        cache = output.past_key_values
        logits = output.logits[:, -1]
        if len(logits) < len(growing):  # the prompts were just computed, once for all copies
            cache.batch_repeat_interleave(copies)
            logits, mask, position = (tensor.repeat_interleave(copies, 0) for tensor in (logits, mask, position))
        likeliest = logits.argmax(dim=1).tolist()
        chosen = [
            token if answer.sampler.greedy else answer.sampler.next(row)
            for answer, row, token in zip(growing, logits, likeliest, strict=True)
        ]
        for answer, token in zip(growing, chosen, strict=True):
            answer.add(token, stop)
            if tell is not None and not tell(answer.index, answer.take_new_text(renderer.tokenizer)):
                answer.reason = answer.reason or "stop"
        if after_token is not None:
            after_token()
        unfinished = [slot for slot, answer in enumerate(growing) if answer.reason is None]
        for answer in growing:
            if answer.reason is not None:
                yield answer
        if not unfinished:
            return
        ids = torch.tensor([[chosen[slot]] for slot in unfinished], device=device)
        keep = torch.tensor(unfinished, device=device)
        if len(unfinished) < len(growing):
            cache.batch_select_indices(keep)
            growing = [growing[slot] for slot in unfinished]
        mask = torch.cat((mask[keep], torch.ones((len(unfinished), 1), dtype=mask.dtype, device=device)), dim=1)
        position = position[keep][:, -1:] + 1


def _image_inputs(network: Network, ids: torch.Tensor, images: Sequence[RowImage]) -> dict[str, Any]:
    """Return what the model takes beside the tokens for these images, which only an `ImageNetwork` has."""
    from llmtune_local.models.image_runner import ImageNetwork

    return network.image_inputs(ids, images) if isinstance(network, ImageNetwork) else {}


class GeneratedAnswer:
    """One answer while it is generated: its `prompt` and its `tokens`, with the one that ended it, if any.

    `reason` is why it ended, None before that.
    """

    def __init__(self, index: int, sampler: Sampler, prompt: tuple[int, ...], limit: int) -> None:
        self.index = index
        self.sampler = sampler
        self.prompt = prompt
        self.limit = limit
        self.tokens: list[int] = []
        self.reason: Literal["stop", "length"] | None = None
        self._streamed = 0

    def add(self, token: int, stop: frozenset[int]) -> None:
        self.tokens.append(token)
        if token in stop:
            self.reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.reason = "length"

    def text(self, tokenizer: Any) -> str:
        return str(tokenizer.decode(self.tokens, skip_special_tokens=True)).strip()

    def take_new_text(self, tokenizer: Any) -> str:
        """Return the text since the last call: without half a character, and without space that may be its end."""
        text = self.text(tokenizer)
        if self.reason is None:
            text = text.rstrip("\ufffd")
        addition = text[self._streamed :]
        self._streamed += len(addition)
        return addition

    def done(self, tokenizer: Any, seconds: float) -> Generation:
        return Generation(
            text=self.text(tokenizer),
            finish_reason=self.reason or "unknown",
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.tokens),
            seconds=seconds,
        )


def group_prompts(lengths: Sequence[int], limits: Sequence[int], copies: int = 1) -> Iterator[list[int]]:
    """Group prompts of similar length, as many side by side as the token budget allows with `copies` answers each."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        count = (len(group) + 1) * copies
        size = max(lengths[member] + limits[member] for member in (*group, index)) * count
        if group and (size > _TOKENS * 4 or count > _MAX_BATCH):
            yield group
            group = []
        group.append(index)
    if group:
        yield group
