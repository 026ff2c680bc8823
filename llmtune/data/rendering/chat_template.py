"""Rendering of conversations by a model's own chat template, with every turn's prompt and end checked.

A completion is everything from the end of the prompt that inference would send, up to and including the token that
ends the turn. So two texts are rendered for every trained assistant turn: the prompt (with the template's generation
prompt), and the conversation up to and including that turn. The first must be a prefix of the second, and the second
must end in a token that ends a turn. Completions are not found by searching for markers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from llmtune._safety.time_limit import TimeLimit, limit_time
from llmtune.data.example import Example, ImagePart, Message, OtherPart, Preference, TextPart
from llmtune.data.findings import error, invalid_data
from llmtune.data.rendering.images import ImageProblem, ImageReader
from llmtune.data.rendering.ready_templates import suggest_template

_FOLD = (
    "if it takes no system turns, put them into the first user turn: dataset.system: fold in a job, --system fold in"
    " `llmtune data`; or use another template (provider_options.local.chat_template)"
)
#: Reasoning at the beginning of an answer's text, in the marks that most models use.
_THINKING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
#: Seconds of computing in which a conversation must be rendered; one of 10,000 turns takes a tenth of it.
RENDER_SECONDS = 1.0
_PROBE = "llmtune probes the end of a turn"


class Turn(NamedTuple):
    """One trained turn: the prompt inference would send, the text through the turn, and the end index of its answer."""

    prompt: str
    through: str
    end: int

    @property
    def answer(self) -> str:
        """The text the model has to produce, including its end-of-turn token."""
        return self.through[len(self.prompt) : self.end]


class Conversation(NamedTuple):
    """One rendered row: its whole text, and its trained turns (none for plain text)."""

    example: Example
    text: str
    turns: tuple[Turn, ...]


class ChatTemplate:
    """A tokenizer's chat template. `options` are extra variables for it (`enable_thinking`).

    `images` reads the images of turns; without it they are refused. `file` is named in errors. Raises `InvalidData`
    with file, line and remedy.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        file: str | None = None,
        options: Mapping[str, Any] | None = None,
        images: ImageReader | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.file = file
        self.options = dict(options or {})
        self.images = images
        self._endless = isinstance(tokenizer.chat_template, str) and _has_power(tokenizer.chat_template)
        self._lists = images is not None and self._probe_lists()
        self.turn_end = self._probe_end()
        """The token with which the template ends an assistant turn, read from a probe; None where there is none."""
        special = {str(token) for token in tokenizer.all_special_tokens}
        special |= {str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}
        self.ends = special | ({self.turn_end} if self.turn_end else set())
        """Every token that may end a turn."""
        self.reasons = self._probe_reasoning()
        """Whether it is the template of a model that reasons: it renders reasoning, or contains the marks around it."""

    def render(self, example: Example) -> Conversation:
        """Render the row as text, with the prompt and the end of each trained turn. Raises `InvalidData`."""
        example = self.split_reasoning(example)
        if example.preference is not None:
            self.refuse(
                example,
                "preference_row",
                "this row holds a pair of answers, which only method 'dpo' trains on",
                "set method to dpo, or give rows with one answer",
            )
        if example.text is not None:
            return self._render_text(example)
        trained = [index for index, turn in enumerate(example.messages) if turn.trained]
        if not trained:
            self.refuse(
                example,
                "no_trained_turn",
                "nothing to learn: no assistant turn with a weight other than 0",
                "add an assistant turn, or give one weight 1",
            )
        if trained[0] == 0:
            self.refuse(
                example,
                "no_prompt",
                "the row begins with a trained assistant turn, so there is no prompt for it",
                "put a user turn before it, or give it weight 0",
            )
        payloads = self._make_payloads(example)
        text = self._apply(example, payloads)
        turns = []
        for index in trained:
            last = index == len(payloads) - 1
            through = text if last else self._apply(example, payloads[: index + 1])
            prompt = self._apply(example, payloads[:index], add_generation_prompt=True)
            turns.append(self._check_turn(example, payloads, index, prompt, through))
        self._check_complete(example, text, dict(zip(trained, turns, strict=True)))
        return Conversation(example, text, tuple(turns))

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generation_prompt: bool = True
    ) -> str:
        """Render the text inference sends: the conversation, and with `generation_prompt` the start of the assistant's
        turn."""
        example = self.split_reasoning(Example(messages=tuple(messages), tools=tuple(tools)))
        return self._apply(example, self._make_payloads(example), add_generation_prompt=generation_prompt)

    def refuse(self, example: Example, code: str, message: str, remedy: str) -> NoReturn:
        """Raise `InvalidData` that names the row."""
        raise invalid_data([error(code, message, remedy).at(self.file, example.line)])

    def split_reasoning(self, example: Example) -> Example:
        """Move a `<think>` at the beginning of answers to `reasoning`, where the template has other marks for it.

        Templates with these marks find them in the text themselves.
        """
        if not self.reasons or "</think>" in str(self.tokenizer.chat_template):
            return example
        pair = example.preference
        if pair is not None:
            pair = Preference(*(tuple(map(_split_thinking, answer)) for answer in pair))
        return example.replace(messages=tuple(map(_split_thinking, example.messages)), preference=pair)

    def _render_text(self, example: Example) -> Conversation:
        text = example.text or ""
        if not text.strip():
            self.refuse(example, "empty_text", "nothing to learn: the text is empty", "remove the row")
        self._expand(example, text, ())  # a mark of an image in it would stand for none
        ended = any(text.rstrip().endswith(end) for end in self.ends)  # a text that was rendered before has its end
        return Conversation(example, text if ended else text + (self.tokenizer.eos_token or ""), ())

    def _check_turn(
        self, example: Example, payloads: list[dict[str, Any]], index: int, prompt: str, through: str
    ) -> Turn:
        if not through.startswith(prompt):
            pairs = enumerate(zip(prompt, through, strict=False))
            at = next(
                (index for index, (prompt_char, through_char) in pairs if prompt_char != through_char), len(through)
            )
            self.refuse(
                example,
                "template_prompt_differs",
                f"the chat template's prompt for turn {index + 1} is not the beginning of the conversation it renders"
                f" (they differ at {prompt[at : at + 30]!r} and {through[at : at + 30]!r}), so the model would be"
                " trained on another text than it is asked",
                f"use a chat template whose generation prompt also begins each assistant turn; {self._suggest_ready()}",
            )
        body = through[len(prompt) :]
        closed = body.rstrip()
        if not any(closed.endswith(end) for end in self.ends):
            self.refuse(
                example,
                "template_no_end",
                f"the chat template does not end turn {index + 1} with an end-of-turn token (it ends in"
                f" {body[-20:]!r}), so the model would never learn to stop",
                "use a chat template that writes the end-of-text or end-of-turn token after each assistant turn;"
                f" {self._suggest_ready()}",
            )
        lead = body[: max(0, body.find(example.messages[index].words.strip()))]
        if any(end in lead for end in self.ends) and prompt == self._apply(example, payloads[:index]):
            self.refuse(
                example,
                "template_no_generation_prompt",
                "the chat template ignores add_generation_prompt, so inference would not begin the assistant's turn",
                "use a chat template that writes the assistant's header when add_generation_prompt is set;"
                f" {self._suggest_ready()}",
            )
        return Turn(prompt, through, len(prompt) + len(closed))

    def _check_complete(self, example: Example, text: str, turns: Mapping[int, Turn]) -> None:
        """Refuse the row where the template silently leaves out a part of it."""
        rendered = _remove_space(text)
        for index, message in enumerate(example.messages):
            trained = index in turns
            where = _remove_space(turns[index].answer) if trained else rendered
            missing = None
            # Tool results are often re-encoded, and untrained answers may lose their reasoning: not checked.
            texts = _texts(message)
            if (trained or message.role in ("system", "user")) and any(text not in where for text in texts):
                missing = "text"
            elif trained and _remove_space(message.reasoning or "") not in where:
                missing = "reasoning"
            elif any(call.name not in where for call in message.tool_calls):
                missing = "tool calls"
            if missing:
                self.refuse(
                    example,
                    "template_leaves_out",
                    f"the chat template leaves out the {missing} of turn {index + 1} (role {message.role})",
                    _FOLD
                    if message.role == "system"
                    else "use a model whose template renders it, or take it out of the rows",
                )
        for tool in example.tools:
            if str(tool.get("function", tool).get("name", "")) not in rendered:
                self.refuse(
                    example,
                    "template_leaves_out",
                    "the chat template leaves out the tools of this row",
                    "use a model whose template renders tools, or take them out of the rows",
                )

    def _make_payloads(self, example: Example) -> list[dict[str, Any]]:
        for index, message in enumerate(example.messages):
            parts = message.content if isinstance(message.content, tuple) else ()
            if any(
                isinstance(part, OtherPart) or (self.images is None and isinstance(part, ImagePart)) for part in parts
            ):
                self.refuse(
                    example,
                    "not_text",
                    "a turn holds an image or another part that is not text",
                    "this trains on text: take such rows out",
                )
            if message.images and message.role == "assistant":
                self.refuse(
                    example,
                    "image_answer",
                    f"turn {index + 1} is the assistant's and holds an image, which the model cannot produce",
                    "put the image into the user's turn",
                )
        images = [image for message in example.messages for image in message.images]
        if self.images is not None and images:
            try:
                self.images.check(images)
            except ImageProblem as problem:
                self.refuse(example, problem.code, problem.message, problem.remedy)
        return [_make_payload(message, lists=self._lists) for message in example.messages]

    def _apply(self, example: Example, payloads: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        if not self.tokenizer.chat_template:
            name = getattr(self.tokenizer, "name_or_path", "") or "this model"
            self.refuse(
                example,
                "template_missing",
                f"{name} has no chat template, so chat rows cannot be rendered",
                f"choose an instruction-tuned model, {self._suggest_ready()}, or use plain text rows",
            )
        try:
            text = self._run(
                payloads,
                tools=[dict(tool) for tool in example.tools] or None,
                add_generation_prompt=add_generation_prompt,
            )
        except TimeLimit:
            self.refuse(
                example,
                "template_endless",
                f"the chat template takes more than {RENDER_SECONDS:g} second, as one with an endless loop does",
                f"use another template: {self._suggest_ready()}",
            )
        except Exception as problem:  # noqa: BLE001  the template is the model's own program: it may raise anything
            self.refuse(
                example,
                "template_refuses",
                f"the model's chat template refuses this row: {problem}",
                _FOLD
                if any(turn.role == "system" for turn in example.messages)
                else "change the row to what the model's template takes (roles, their order)",
            )
        return self._expand(example, text, example.messages[: len(payloads)])

    def _expand(self, example: Example, text: str, messages: Sequence[Message]) -> str:
        """Replace the marks of images in a text by those that the model reads. Raises `InvalidData`."""
        if self.images is None:
            return text
        try:
            return self.images.expand(text, [image for message in messages for image in message.images])
        except ImageProblem as problem:
            self.refuse(example, problem.code, problem.message, problem.remedy)

    def _run(self, payloads: list[dict[str, Any]], **options: Any) -> str:
        """Run the template, which comes with the model or the job and may never end. Raises `TimeLimit`."""
        if self._endless:  # the next row would take as long
            raise TimeLimit
        try:
            with limit_time(RENDER_SECONDS):
                return str(self.tokenizer.apply_chat_template(payloads, tokenize=False, **options, **self.options))
        except TimeLimit:
            self._endless = True
            raise

    def _suggest_ready(self) -> str:
        name = suggest_template(self.tokenizer)
        return f"take a ready template (chat_template: {name} fits its tokens)"

    def _probe_reasoning(self) -> bool:
        template = self.tokenizer.chat_template
        if not template:
            return False
        if "<think>" in str(template) or "</think>" in str(template):
            return True
        probe = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes", "reasoning_content": _PROBE},
        ]
        try:
            return _PROBE in self._run(probe)
        except Exception:  # noqa: BLE001  a template that refuses the probe fails on the rows, with their line
            return False

    def _probe_lists(self) -> bool:
        """Return whether the template renders the content of turns only as lists of parts, as some with images do."""
        return not self._renders(_PROBE) and self._renders([{"type": "text", "text": _PROBE}])

    def _renders(self, content: Any) -> bool:
        """Return whether the template renders a user's turn with this content, which is the probe's."""
        try:
            return _PROBE in self._run([{"role": "user", "content": content}])
        except Exception:  # noqa: BLE001  a template that refuses the probe fails on the rows, with their line
            return False

    def _probe_end(self) -> str | None:
        if not self.tokenizer.chat_template:
            return None
        answer = [{"type": "text", "text": _PROBE}] if self._lists else _PROBE
        probe = [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}] if self._lists else "Hi"},
            {"role": "assistant", "content": answer},
        ]
        try:
            text = self._run(probe)
        except Exception:  # noqa: BLE001  a template that refuses the probe fails on the rows, with their line
            return None
        tail = str(text).rpartition(_PROBE)[2].strip()
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values())
        return max((token for token in added if tail.startswith(token)), key=len, default=None)


def _split_thinking(message: Message) -> Message:
    content = message.content
    thought = _THINKING.match(content) if message.role == "assistant" and isinstance(content, str) else None
    if thought is None or message.reasoning is not None or not isinstance(content, str):
        return message
    return message.replace(content=content[thought.end() :], reasoning=thought.group(1).strip() or None)


def _has_power(template: str) -> bool:
    """Return whether a template's code raises to a power: `9**9**9` is one operation, which nothing can interrupt."""
    code = " ".join(re.findall(r"\{[{%](.*?)[%}]\}", template, re.DOTALL))
    without_texts = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "''", code, flags=re.DOTALL)
    return re.search(r"[\w)\]'}]\s*\*\*", without_texts) is not None


def _texts(message: Message) -> list[str]:
    """Return the texts of a turn without white space: one, or those between its images."""
    if message.images and isinstance(message.content, tuple):
        return [_remove_space(part.text) for part in message.content if isinstance(part, TextPart)]
    return [_remove_space(message.words)]


def _make_payload(message: Message, *, lists: bool = False) -> dict[str, Any]:
    """Return the turn as templates expect it; its content is a list of parts with `lists`, or where it has images."""
    content: Any = message.words
    if message.images and isinstance(message.content, tuple):
        content = [
            {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
            for part in message.content
        ]
    elif lists:
        content = [{"type": "text", "text": content}] if content else []
    payload: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        payload["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _parse_arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        payload["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        payload["name"] = message.name
    if message.reasoning:
        payload["reasoning_content"] = message.reasoning
    return payload


def _parse_arguments(arguments: str) -> Any:
    """Parse a call's arguments: templates write them as JSON themselves, so they are given data and not JSON text."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _remove_space(text: str) -> str:
    """Remove white space, which templates trim differently."""
    return "".join(text.split())
