"""Answers to a few validation rows while a run trains, to look at: the same rows each time, greedy and short.

The rows are chosen by a hash of their content, so a resumed run asks the same ones. Nothing that is trained depends on
them: no random number is drawn, and the model is left as it was.
"""

from __future__ import annotations

import heapq
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch

from llmtune.data.example import Example
from llmtune.data.formats.registry import detect
from llmtune.data.hashing import shown_text, turn_text
from llmtune.data.io.reading import read_rows
from llmtune.data.rendering.tokenize import Renderer
from llmtune.errors import InvalidData
from llmtune.provider import GenerationRequest
from llmtune.redaction.secrets import scrub
from llmtune_local.images.reader import ModelImages
from llmtune_local.inference.generator import Question, answer_batch
from llmtune_local.models import fused_lora
from llmtune_local.run_state.schema import SampleLine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmtune_local.images.reader import RowImage
    from llmtune_local.models.model_runner import Network

#: Rows that are asked where the job does not say, and the share of the time in steps that their answers may then take:
#: the first and the last time they are asked whatever that takes.
ROWS = 3
SHARE = 0.03

#: Tokens of an answer, and of plain text that is to be continued.
ANSWER_TOKENS = 64
TEXT_TOKENS = 32

#: Characters of a text that are kept.
_SHOWN = 500

#: The clock, for tests.
clock = time.monotonic


class SampleAnswers:
    """The rows of a run that are asked again and again. `rows` may be fewer than `count`: those that there are, and fit
    the context."""

    def __init__(self, network: Network, renderer: Renderer, path: str, *, count: int, context: int | None) -> None:
        self._network, self._renderer = network, renderer
        self._questions: list[tuple[str, str, Question]] = []
        request = GenerationRequest(messages=(), max_tokens=ANSWER_TOKENS)
        for example in choose_rows(path, 4 * count):
            if len(self._questions) == count:
                break
            try:
                prompt, expected, ids = self._ask(example)
                images = self._place_images(example, ids)
            except InvalidData:  # its template takes no prompt that ends there
                continue
            free_tokens = ANSWER_TOKENS if context is None else context - len(ids)
            if ids and free_tokens > 0:
                question = Question(len(self._questions), request, ids, min(ANSWER_TOKENS, free_tokens), images)
                self._questions.append((prompt, expected, question))
        self.last_seconds = 0.0
        """Seconds of the last answers."""

    @property
    def rows(self) -> int:
        """Return the number of rows that are asked."""
        return len(self._questions)

    def is_affordable(self, spent: float, trained: float) -> bool:
        """Return whether the answers, with `spent` seconds so far, stay below their share of `trained` seconds."""
        return spent + self.last_seconds <= SHARE * trained

    def answer(self, step: int, proceed: Callable[[], bool]) -> list[SampleLine]:
        """Return the answers of the model as it is, with no gradient recorded; none where `proceed`, asked at each
        token, ends them. The model must be in evaluation mode."""
        began = clock()
        group = [question for _, _, question in self._questions]
        stopped = False

        def tell(_index: int, _text: str) -> bool:
            nonlocal stopped
            fused_lora.clear_cache()
            stopped = stopped or not proceed()
            return not stopped

        try:
            with torch.no_grad(), self._network.autocast(), self._network.unpacked():
                answers = dict(answer_batch(self._network, self._renderer, group, tell=tell))
        finally:
            fused_lora.clear_cache()  # the weights change before the model runs again
            self.last_seconds = clock() - began
        if stopped:
            return []
        return [
            SampleLine(step=step, number=index + 1, prompt=prompt, expected=expected, answer=_cut(answers[index].text))
            for index, (prompt, expected, _) in enumerate(self._questions)
        ]

    def _ask(self, example: Example) -> tuple[str, str, tuple[int, ...]]:
        """Return the last turn of a row's prompt, its reference answer, and the tokens that are answered.

        Of plain text that is the beginning, and what follows it.
        """
        if example.text is not None:
            ids = self._renderer.render(example)[0].ids
            begin = min(TEXT_TOKENS, len(ids) // 2)
            following = ids[begin : begin + ANSWER_TOKENS]
            return self._decode(ids[:begin]), self._decode(following), tuple(ids[:begin])
        prompt, answer = example.prompt(), example.answer()
        if not prompt:
            return "", "", ()
        expected = "" if answer is None else turn_text(answer)
        return _cut(shown_text(prompt[-1])), _cut(expected), self._renderer.prompt_ids(prompt, example.tools)

    def _place_images(self, example: Example, ids: Sequence[int]) -> tuple[RowImage, ...]:
        reader = self._renderer.template.images
        images = [image for message in example.prompt() for image in message.images]
        return reader.place(images, ids) if images and isinstance(reader, ModelImages) else ()

    def _decode(self, ids: Sequence[int]) -> str:
        tokenizer: Any = self._renderer.tokenizer
        return _cut(str(tokenizer.decode(list(ids), skip_special_tokens=True)))


def choose_rows(path: str, count: int) -> list[Example]:
    """Return up to `count` different rows of a canonical dataset file, chosen by a hash of their content; the order is
    that of the hashes. Rows that cannot be read are left out."""
    with Path(path).open("rb") as file:
        chosen = dict.fromkeys(heapq.nsmallest(2 * count, (_hash_line(line) for line in file if line.strip())))
    lines: dict[bytes, bytes] = {}
    with Path(path).open("rb") as file:
        for line in file:
            if (key := _hash_line(line)) in chosen:
                lines[key] = line
    examples: list[Example] = []
    for key in chosen:
        row = orjson.loads(lines[key])
        row_format = detect(row)
        if row_format is not None:
            examples += [read for read in read_rows([(0, row)], row_format) if isinstance(read, Example)]
    return examples[:count]


def _hash_line(line: bytes) -> bytes:
    return blake2b(line.strip(), digest_size=8).digest()


def _cut(text: str) -> str:
    text = scrub(text)  # before it is cut: half a secret is not recognised any more
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\u2026"
