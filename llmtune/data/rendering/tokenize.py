"""Tokenisation of rows, with a mask of the tokens that the model has to produce.

`llmtune.data.rendering.chat_template` defines a completion. Here the same must hold for tokens: those before a trained
turn are exactly those inference would send; otherwise the row is rendered in pieces. One rendering cannot train all
turns where a template renders an earlier turn differently once a later one follows (it drops old reasoning,
closes the last turn with another token, or moves the tools), or where a token would span the end of the prompt and
the beginning of the answer. Such a row becomes one piece per trained turn, each rendered as inference would see it.

The tokenizer is an object with the interface of a transformers fast tokenizer; nothing here imports one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llmtune.data.example import Example, ImagePart, Message
from llmtune.data.rendering.chat_template import ChatTemplate, Conversation
from llmtune.data.rendering.images import ImageReader

#: The empty reasoning that templates of models that reason write before an answer without any.
EMPTY_THINKING = re.compile(r"\s*<think>\s*</think>\s*")

OnTooLong = Literal["error", "truncate", "drop"]

_BATCH = 256


class Span(NamedTuple):
    """One completion: characters `start` to `end` of the text, tokens `first` to `stop` of the ids (ends excluded)."""

    start: int
    end: int
    first: int
    stop: int


class RenderedRow(NamedTuple):
    """One row as tokens.

    `ids` and `completion_mask` have one entry per token; the mask is True on the tokens to be produced, never on the
    first token, which nothing predicts. `text` is what was rendered (also where `fit` has cut the tokens), `spans`
    the completions. `line` is the row's line in its file; `piece` counts from 0 where a row had to be rendered in
    several pieces (see the module). `images` are those that the text has marks of, in order.
    """

    ids: tuple[int, ...]
    completion_mask: tuple[bool, ...]
    text: str
    spans: tuple[Span, ...]
    line: int | None = None
    piece: int = 0
    images: tuple[ImagePart, ...] = ()

    @property
    def trained_tokens(self) -> int:
        """The number of tokens of the row that are completion."""
        return sum(self.completion_mask)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The tokens before the last completion: the input of inference."""
        return self.ids[: self.spans[-1].first]


class RenderedPair(NamedTuple):
    """A preference row: the same prompt with the preferred and with the rejected answer."""

    preferred: RenderedRow
    rejected: RenderedRow
    line: int | None = None


class Renderer:
    """A renderer of rows with one tokenizer and its chat template.

    `file` is named in errors. `template_options` are extra variables for the template (`enable_thinking`), the
    same for training and inference. With `mask_empty_thinking` the empty `<think></think>` that the template of a model
    that reasons puts before an answer without reasoning is not learned. `images` reads the images of turns; without it
    they are refused. Raises `InvalidData` with file, line and remedy.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        file: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        mask_empty_thinking: bool = False,
        images: ImageReader | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.mask_empty_thinking = mask_empty_thinking
        self.template = ChatTemplate(tokenizer, file=file, options=template_options, images=images)

    def render(self, example: Example) -> tuple[RenderedRow, ...]:
        """Tokenise a row: into one `RenderedRow`, or several where the template needs pieces (see the module)."""
        return next(self.render_all([example]))

    def render_all(self, examples: Iterable[Example]) -> Iterator[tuple[RenderedRow, ...]]:
        """Tokenise many rows in batches; yield one tuple as of `render` per example, in order."""
        batch: list[Conversation] = []
        for example in examples:
            batch.append(self.template.render(example))
            if len(batch) == _BATCH:
                yield from self._tokenise(batch)
                batch = []
        yield from self._tokenise(batch)

    def render_pair(self, example: Example) -> RenderedPair:
        """Tokenise both answers of a preference row, each after the prompt. Only the answers are completion."""
        if example.preference is None:
            self.template.refuse(
                example, "not_a_preference", "this row has no pair of answers", "give preferred and rejected"
            )
        prompt = tuple(turn.replace(weight=0) if turn.role == "assistant" else turn for turn in example.messages)
        sides = []
        for answer in (example.preference.preferred, example.preference.rejected):
            pieces = self.render(example.replace(messages=prompt + answer, preference=None))
            if len(pieces) > 1:
                self.template.refuse(
                    example,
                    "template_rewrites_history",
                    "an answer of several assistant turns cannot be rendered in one piece by this chat template",
                    "keep one assistant turn in each answer",
                )
            sides.append(pieces[0])
        return RenderedPair(sides[0], sides[1], example.line)

    def render_prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Render the text inference sends: the conversation, and the start of the assistant's turn."""
        return self.template.prompt(messages, tools)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Tokenise the text of `render_prompt`."""
        return self._encode(self.template.prompt(messages, tools))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer: the tokenizer's end of text, and the template's end of a turn."""
        ids = {self.tokenizer.eos_token_id}
        if self.template.turn_end:
            ids.add(self.tokenizer.convert_tokens_to_ids(self.template.turn_end))
        return frozenset(token for token in ids if token is not None)

    def check_against_inference(self, example: Example) -> None:
        """Check that every trained turn follows exactly the tokens inference would send. Raises `InvalidData`.

        `render` guarantees it; this verifies it with renderings and encodings of its own.
        """
        training_prompts = [row.ids[: span.first] for row in self.render(example) for span in row.spans]
        inference_prompts = [
            self.prompt_ids(example.messages[:index], example.tools)
            for index, turn in enumerate(example.messages)
            if turn.trained
        ]
        if training_prompts != inference_prompts:
            self.template.refuse(
                example,
                "template_prompt_differs",
                "the chat template renders this row differently for training than for inference",
                "use a chat template whose prompt is the beginning of the whole conversation",
            )

    def fit(self, row: RenderedRow, limit: int, on_too_long: OnTooLong) -> RenderedRow | None:
        """Return the row within `limit` tokens, or None where it is dropped.

        error: raises `InvalidData` with the row, its length and the limit. drop: None. truncate: tokens after the
        last answer are removed first, then the oldest ones (a leading beginning-of-text token stays), so that answers
        keep their end-of-turn token; a turn cut in two is no longer trained, and a row whose last answer does not
        fit with at least one token of its prompt is refused. Plain text is cut at its end instead.
        """
        length = len(row.ids)
        if length <= limit:
            return row
        if on_too_long == "drop":
            return None
        where = Example(line=row.line)
        if on_too_long == "error":
            self.template.refuse(
                where,
                "too_long",
                f"this row has {length} tokens and the limit is {limit}",
                "raise max_sequence_length (up to the model's context), or set on_too_long to truncate or drop",
            )
        if row.images:
            self.template.refuse(
                where,
                "too_long",
                f"this row has {length} tokens and the limit is {limit}, and a row with images is not truncated",
                "raise max_sequence_length, make its images smaller, or set on_too_long to drop",
            )
        answer = row.spans[-1]
        if answer.start == 0:
            return row._replace(
                ids=row.ids[:limit],
                completion_mask=row.completion_mask[:limit],
                spans=(answer._replace(stop=limit),),
            )
        bos = 1 if row.ids[0] == self.tokenizer.bos_token_id else 0
        cut = max(0, answer.stop - limit + bos)
        if cut >= answer.first:
            self.template.refuse(
                where,
                "answer_too_long",
                f"the last answer alone has {answer.stop - answer.first} tokens, which leaves no room for its prompt"
                f" within {limit}",
                "raise max_sequence_length, or set on_too_long to drop",
            )
        if cut <= bos:
            cut = bos = 0
        mask = list(row.completion_mask[: answer.stop])
        for span in row.spans:
            if span.first < cut:
                mask[span.first : span.stop] = [False] * (span.stop - span.first)
        moved = bos - cut
        return row._replace(
            ids=row.ids[:bos] + row.ids[cut : answer.stop],
            completion_mask=(False,) * bos + tuple(mask[cut:]),
            spans=tuple(
                span._replace(first=span.first + moved, stop=span.stop + moved)
                for span in row.spans
                if span.first >= cut
            ),
        )

    def _tokenise(self, batch: Sequence[Conversation]) -> Iterator[tuple[RenderedRow, ...]]:
        chats = [conversation for conversation in batch if conversation.turns]
        rendered = iter(self._encode_all([chat.text for chat in chats]))
        prompts = iter(self._encode_prompts([turn.prompt for chat in chats for turn in chat.turns]))
        texts = iter(self._encode_texts([text.text for text in batch if not text.turns]))
        for conversation in batch:
            if not conversation.turns:
                yield (self._make_text_row(conversation, next(texts)),)
                continue
            ids, offsets = next(rendered)
            prompt_ids = [next(prompts) for _ in conversation.turns]
            row = self._render_in_one(conversation, ids, offsets, prompt_ids)
            yield (row,) if row is not None else self._render_in_pieces(conversation, prompt_ids)

    def _render_in_one(
        self,
        conversation: Conversation,
        ids: list[int],
        offsets: list[tuple[int, int]],
        prompts: list[list[int]],
    ) -> RenderedRow | None:
        """Return the row in one rendering, or None where some turn would differ from what inference renders."""
        example, text = conversation.example, conversation.text
        mask = [False] * len(ids)
        spans = []
        for turn, prompt in zip(conversation.turns, prompts, strict=True):
            first = len(prompt)
            if not text.startswith(turn.through[: turn.end]) or ids[:first] != prompt:
                return None
            # The end-of-turn token is an added token, so no other token can span the end of the answer.
            stop = first
            while stop < len(ids) and offsets[stop][0] < turn.end:
                stop += 1
            self._check_end(example, ids[first:stop])
            ignored = self._measure_empty_thinking(turn.answer)
            for token in range(first, stop):
                mask[token] = ignored == 0 or offsets[token][1] > len(turn.prompt) + ignored
            spans.append(Span(len(turn.prompt), turn.end, first, stop))
        images = _images(example.messages)
        return RenderedRow(tuple(ids), tuple(mask), text, tuple(spans), example.line, images=images)

    def _render_in_pieces(self, conversation: Conversation, prompts: list[list[int]]) -> tuple[RenderedRow, ...]:
        """Return one rendering per trained turn: the prompt's own tokens, then the tokens of the answer."""
        example = conversation.example
        rows = []
        trained = [index for index, message in enumerate(example.messages) if message.trained]
        for piece, (turn, prompt) in enumerate(zip(conversation.turns, prompts, strict=True)):
            text = turn.through[: turn.end]
            ids = self._encode(text)
            first, cut = len(prompt), 0
            if ids[:first] != tuple(prompt):
                # A token spans the end of the prompt. Inference cuts there, so the answer is tokenised by itself.
                answer = self._encode(turn.answer)
                if self.tokenizer.decode(answer) != turn.answer:
                    self.template.refuse(
                        example,
                        "template_border",
                        "one token covers the end of the prompt and the beginning of the answer"
                        f" ({turn.prompt[-10:]!r}, {turn.answer[:10]!r}), and this tokenizer cannot separate them",
                        "use a chat template whose generation prompt ends in a special token or a newline",
                    )
                ids, cut = (*prompt, *answer), len(turn.prompt)
            self._check_end(example, ids[first:])
            mask = [False] * first + [True] * (len(ids) - first)
            if ignored := self._measure_empty_thinking(turn.answer):
                ((_, offsets),) = self._encode_all([text[cut:]])
                ends = [stop + cut for _, stop in offsets[-(len(ids) - first) :]]
                mask[first:] = [end > len(turn.prompt) + ignored for end in ends]
            span = Span(len(turn.prompt), turn.end, first, len(ids))
            images = _images(example.messages[: trained[piece]])
            rows.append(RenderedRow(tuple(ids), tuple(mask), text, (span,), example.line, piece, images))
        return tuple(rows)

    def _measure_empty_thinking(self, answer: str) -> int:
        """Return the length, in characters, of the empty reasoning at the beginning of an answer to be masked."""
        empty = EMPTY_THINKING.match(answer) if self.mask_empty_thinking else None
        return empty.end() if empty is not None else 0

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        """Tokenise plain texts with the tokenizer's own beginning; one that was rendered before has it already."""
        bos = self.tokenizer.bos_token
        begun = [bool(bos) and text.lstrip().startswith(bos) for text in texts]
        encoded: list[list[int]] = [[] for _ in texts]
        for has_beginning in set(begun):
            numbers = [number for number, flag in enumerate(begun) if flag == has_beginning]
            ids = self.tokenizer(
                [texts[number] for number in numbers],
                add_special_tokens=not has_beginning,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]
            for number, row in zip(numbers, ids, strict=True):
                encoded[number] = row
        return encoded

    def _make_text_row(self, conversation: Conversation, encoded: list[int]) -> RenderedRow:
        example, text = conversation.example, conversation.text
        ids = tuple(encoded)
        if len(ids) < 2:
            self.template.refuse(example, "empty_text", "nothing to learn: the text is one token", "remove the row")
        mask = (False,) + (True,) * (len(ids) - 1)
        return RenderedRow(ids, mask, text, (Span(0, len(text), 0, len(ids)),), example.line)

    def _check_end(self, example: Example, answer: Sequence[int]) -> None:
        last = self.tokenizer.convert_ids_to_tokens(answer[-1]) if answer else None
        if last not in self.template.ends:
            self.template.refuse(
                example,
                "template_no_end",
                f"the answer's last token is {last!r}, which does not end a turn",
                "use a tokenizer in which the template's end-of-turn token is one token",
            )

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(
            self.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        )

    def _encode_prompts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _encode_all(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        if not texts:
            return []
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def _images(messages: Iterable[Message]) -> tuple[ImagePart, ...]:
    return tuple(image for message in messages for image in message.images)


def render_prompt(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Render the text inference sends to a model with this tokenizer, as `Renderer.render_prompt` does."""
    return Renderer(tokenizer).render_prompt(messages, tools)
