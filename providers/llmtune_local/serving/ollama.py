"""An Ollama Modelfile: the chat template in Go's language, what ends an answer, and the parameters of greedy answers.

Ollama does not read the chat template of a GGUF file. Ours is read by rendering probes: the text in front of, between
and behind the turns. What is written from these is rendered again for other conversations, and compared.
(github.com/ollama/ollama, docs/modelfile.mdx and docs/template.mdx, 2026-11.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.data.example import Message
from llmtune.errors import InvalidData, InvalidJob

if TYPE_CHECKING:
    from llmtune.data.rendering.tokenize import Renderer
    from llmtune_local.serving.dialogue import Dialogue

#: Ollama's own default is 4,096 tokens; more than this is memory that most conversations do not use.
_MOST_CONTEXT = 8192
_HINT = "use --format gguf: llama.cpp reads the model's own chat template"
_SYSTEM, _USER, _ANSWER, _LAST = "probe-system-7", "probe-user-7", "probe-answer-7", "probe-last-7"


@dataclass(frozen=True)
class TurnTexts:
    """The texts of a chat template around the turns of a conversation."""

    first: str
    """In front of the first user turn, where no system turn comes before it."""

    system: tuple[str, str] | None
    """In front of a system turn, and between it and the first user turn; None where the template takes none."""

    user: str
    """In front of every later user turn."""

    answer: str
    """Between a user turn and its answer."""

    end: str
    """Between an answer and what follows it."""

    start: str
    """Between the last user turn and the answer to be generated."""

    def render(self, messages: Sequence[Message]) -> str:
        """Render a conversation that ends with a user turn, as the Go template does."""
        turns = list(messages)
        system = turns.pop(0).words if turns[0].role == "system" else ""
        opening = self.system[0] + system + self.system[1] if system and self.system else self.first
        text = ""
        for index, turn in enumerate(turns):
            if turn.role == "user":
                text += (self.user if index else opening) + turn.words
                text += self.start if index == len(turns) - 1 else ""
            else:
                text += self.answer + turn.words + self.end
        return text

    def to_go(self) -> str:
        """Return the template in Go's language, over Ollama's `.System` and `.Messages`."""
        first = _literal(self.first)
        if self.system is not None:
            before, after = map(_literal, self.system)
            first = f"{{{{ if $.System }}}}{before}{{{{ $.System }}}}{after}{{{{ else }}}}{first}{{{{ end }}}}"
        return (
            "{{ $first := true }}{{ range $i, $message := .Messages }}"
            "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            '{{ if eq $message.Role "user" }}'
            f"{{{{ if $first }}}}{first}{{{{ $first = false }}}}{{{{ else }}}}{_literal(self.user)}{{{{ end }}}}"
            f"{{{{ $message.Content }}}}{{{{ if $last }}}}{_literal(self.start)}{{{{ end }}}}"
            '{{ else if eq $message.Role "assistant" }}'
            f"{_literal(self.answer)}{{{{ $message.Content }}}}{{{{ if not $last }}}}{_literal(self.end)}{{{{ end }}}}"
            "{{ end }}{{ end }}"
        )


def read_turn_texts(renderer: Renderer, dialogue: Dialogue) -> TurnTexts:
    """Read the texts around turns from probes.

    Raises:
        InvalidJob: the template does more than put texts around turns.
    """
    render = _without_beginning(renderer, dialogue)
    one = render([_turn("user", _LAST)])
    two = render([_turn("user", _USER), _turn("assistant", _ANSWER), _turn("user", _LAST)])
    first, start = _cut(one, _LAST)
    opening, answer, between, start_again = _cut(two, _USER, _ANSWER, _LAST)
    if (opening, start_again) != (first, start):
        raise InvalidJob("its chat template opens a conversation by what comes later", hint=_HINT)
    end, user = _split_turns(between, first)
    try:
        system: tuple[str, str] | None = _cut(render([_turn("system", _SYSTEM), _turn("user", _LAST)]), _SYSTEM, _LAST)[
            :2
        ]  # type: ignore[assignment]
    except InvalidData:
        system = None
    texts = TurnTexts(first, system, user, answer, end, start)
    for messages in _conversations(with_system=system is not None):
        if texts.render(messages) != render(messages):
            raise InvalidJob(
                f"its chat template does more than put texts around turns: it renders {len(messages)} turns of a"
                " conversation differently",
                hint=_HINT,
            )
    return texts


def write_modelfile(texts: TurnTexts, *, file: str, ends: Sequence[str], context: int | None) -> str:
    """Return the Modelfile for a GGUF file beside it; `ends` are the texts of the tokens that end an answer."""
    template = texts.to_go()
    if '"""' in template:
        raise InvalidJob('its chat template holds """, which a Modelfile cannot quote', hint=_HINT)
    parameters = [
        ("temperature", "0"),
        ("repeat_penalty", "1"),
        *([("num_ctx", str(min(context, _MOST_CONTEXT)))] if context else []),
        *(("stop", _quote(end)) for end in ends),
    ]
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""', "# Answers as they were measured: the likeliest token."]
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in parameters)]) + "\n"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _literal(text: str) -> str:
    """Return text as it stands in a Go template: braces would begin an action."""
    return text.replace("{{", '{{ "{{" }}')


def _turn(role: Any, text: str) -> Message:
    return Message(role=role, content=text)


def _without_beginning(renderer: Renderer, dialogue: Dialogue) -> Callable[[Sequence[Message]], str]:
    """Return what renders a conversation without the beginning token, which Ollama puts in front of it itself."""
    begin = str(renderer.tokenizer.bos_token) if dialogue.begins else ""

    def render(messages: Sequence[Message]) -> str:
        return renderer.render_prompt(messages).removeprefix(begin)

    return render


def _cut(text: str, *probes: str) -> tuple[str, ...]:
    """Return the texts between probes. Raises `InvalidJob` where one is missing, stands twice, or is out of order."""
    parts = []
    for probe in probes:
        before, mark, text = text.partition(probe)
        if not mark or probe in text:
            raise InvalidJob("its chat template leaves turns out or repeats them", hint=_HINT)
        parts.append(before)
    return (*parts, text)


def _split_turns(between: str, first: str) -> tuple[str, str]:
    """Split what is between an answer and the next user turn, where the latter begins as a conversation does."""
    for length in range(len(between), -1, -1):
        if first.endswith(between[len(between) - length :]):
            return between[: len(between) - length], between[len(between) - length :]
    return between, ""


def _conversations(*, with_system: bool) -> list[list[Message]]:
    """Return conversations that a template is compared on."""
    openings = [[], [_turn("system", "You are terse.\nAnswer in {{ words }}.")]] if with_system else [[]]
    texts = ("Hello there!", "Hi.", "What is 2 + 2?", "4\n\nIt is four.", "Thanks, <b>bye</b>")
    turns = [_turn(role, text) for role, text in zip(itertools.cycle(("user", "assistant")), texts, strict=False)]
    return [[*opening, *turns[:length]] for opening in openings for length in (1, 3, 5)]
