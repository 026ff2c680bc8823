"""What a server gives its model, compared with what the tuned model was given: token by token, or by their numbers.

Each possible cause predicts a prompt. One that predicts what the server shows, in every conversation, is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmtune.data.example import Message
from llmtune.errors import LlmtuneError
from llmtune.provider.abilities import PromptRenderer
from llmtune.provider.generation import GenerationRequest
from llmtune.verifications.results import Difference, DifferenceKind

#: Characters of a prompt that are quoted.
_QUOTED = 60

#: By how many tokens another template's prompts may differ at the borders of turns, where marks join the text.
_BORDERS = 3

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class SeenPrompt:
    """One conversation: what the model should be given, and what the server shows of what it gives.

    `row` is the number of its row from 1; 0 for a conversation that is asked for this comparison alone. `tokens` and
    `text` are the server's, None where it does not show them; `count` is how many tokens it counted.
    """

    row: int
    request: GenerationRequest
    expected: Tokens
    tokens: Tokens | None = None
    text: str | None = None
    count: int | None = None

    @property
    def shown(self) -> bool:
        """Whether the server shows anything of this prompt."""
        return self.tokens is not None or self.count is not None

    @property
    def same(self) -> bool:
        """Whether what the server shows is what should be."""
        return self.fits(self.expected)

    @property
    def difference(self) -> int:
        """How many tokens more the server has than should be."""
        length = len(self.tokens) if self.tokens is not None else self.count or 0
        return length - len(self.expected)

    def fits(self, tokens: Tokens) -> bool:
        """Return whether what the server shows could be these tokens."""
        if self.tokens is not None:
            return self.tokens == tokens
        return self.count == len(tokens)


#: Conversations whose numbers of tokens tell causes apart that a dataset's own rows, all of one shape, do not.
PROBES: tuple[tuple[Message, ...], ...] = (
    (Message("user", "Hello."),),
    (Message("system", "Answer briefly."), Message("user", "Hello.")),
    (Message("user", "Hello."), Message("assistant", "Good morning."), Message("user", "What is the time?")),
    (Message("user", "  One line,\n\n\tanother line, and the end.  \n"),),
)


def explain_prompts(prompts: Sequence[SeenPrompt], renderer: PromptRenderer) -> list[Difference]:
    """Return what is different about the prompts, named by its cause; nothing where they are the same."""
    compared = [prompt for prompt in prompts if prompt.shown]
    wrong = [prompt for prompt in compared if not prompt.same]
    if not wrong:
        return []
    rows = tuple(prompt.row for prompt in wrong if prompt.row)
    for cause in _causes(renderer, compared):
        predicted = [_predict(cause.predict, prompt) for prompt in compared]
        if all(tokens is not None and prompt.fits(tokens) for prompt, tokens in zip(compared, predicted, strict=True)):
            return [Difference(kind=cause.kind, says=f"{cause.says} ({_count(wrong, compared)})", rows=rows)]
    with_tokens = [prompt for prompt in wrong if prompt.tokens is not None]
    kind, says = _explain_tokens(with_tokens, renderer) if with_tokens else _explain_counts(compared)
    return [Difference(kind=kind, says=f"{says} ({_count(wrong, compared)})", rows=rows)]


def _count(wrong: Sequence[SeenPrompt], compared: Sequence[SeenPrompt]) -> str:
    return f"{len(wrong)} of {len(compared)} prompts"


# --- causes that predict the whole prompt ----------------------------------------------------------------------------
Predict = Callable[[SeenPrompt], Tokens]


class _Cause(NamedTuple):
    kind: DifferenceKind
    says: str
    predict: Predict


def _predict(predict: Predict, prompt: SeenPrompt) -> Tokens | None:
    """Return the predicted prompt; None where the template does not render it so."""
    try:
        return predict(prompt)
    except LlmtuneError:
        return None


def _causes(renderer: PromptRenderer, prompts: Sequence[SeenPrompt]) -> Iterator[_Cause]:
    begin = renderer.begin_token

    def render(request: GenerationRequest, messages: Sequence[Message], *, generation_prompt: bool = True) -> Tokens:
        return renderer.render(messages, request.tools, generation_prompt=generation_prompt).tokens

    def begins(prompt: SeenPrompt) -> bool:
        return begin is not None and prompt.expected[:1] == (begin,)

    if begin is not None and all(map(begins, prompts)):
        yield _Cause(
            "beginning_token_twice",
            f"the beginning token {renderer.decode([begin])!r} stands twice",
            lambda prompt: (begin, *prompt.expected),
        )
        yield _Cause(
            "beginning_token_missing",
            f"the beginning token {renderer.decode([begin])!r} is missing",
            lambda prompt: prompt.expected[1:],
        )
    first = {prompt.tokens[0] for prompt in prompts if prompt.tokens}
    if len(first) <= 1:
        added = next(iter(first), -1)
        name = f"the token {renderer.decode([added])!r}" if first else "one token"
        yield _Cause(
            "beginning_token_added",
            f"{name} stands in front of every prompt, which the template does not write",
            lambda prompt: (added, *prompt.expected),
        )
    yield _Cause(
        "generation_prompt_missing",
        "the template's generation prompt is missing: the answer's turn is not begun",
        lambda prompt: render(prompt.request, prompt.request.messages, generation_prompt=False),
    )
    yield _Cause(
        "system_turn_dropped",
        "the server leaves out the system turn",
        lambda prompt: render(prompt.request, without_system(prompt.request.messages)),
    )
    yield _Cause(
        "system_turn_in_user",
        "the server writes the system turn into the user's",
        lambda prompt: render(prompt.request, system_in_user(prompt.request.messages)),
    )
    yield _Cause(
        "earlier_turns_dropped",
        "only the last turn of a conversation reaches the model",
        lambda prompt: render(prompt.request, prompt.request.messages[-1:]),
    )
    yield _Cause(
        "earlier_turns_dropped",
        "of a conversation only the system turn and the last one reach the model",
        lambda prompt: render(prompt.request, last_turn(prompt.request.messages)),
    )
    yield _Cause(
        "tools_not_rendered",
        "the tools of a request do not reach the model",
        lambda prompt: renderer.render(prompt.request.messages).tokens,
    )
    yield _Cause(
        "blanks_changed",
        "blanks and line ends around the text of turns are taken away",
        lambda prompt: render(prompt.request, [strip_turn(turn) for turn in prompt.request.messages]),
    )
    yield _Cause(
        "special_tokens_as_text",
        "the marks of turns are read as plain text, not as the tokens they are",
        lambda prompt: renderer.tokenize(
            renderer.render(prompt.request.messages, prompt.request.tools).text, special_tokens=False
        ),
    )
    yield from _cuts(prompts)


def _cuts(prompts: Sequence[SeenPrompt]) -> Iterator[_Cause]:
    """Yield that all prompts of more than some number of tokens have that number."""
    lengths = {
        len(prompt.tokens) if prompt.tokens is not None else prompt.count or 0 for prompt in prompts if not prompt.same
    }
    limit = max(lengths)
    if len(lengths) != 1 or not all(prompt.same or len(prompt.expected) > limit for prompt in prompts):
        return
    says = f"prompts are cut at {limit} tokens"
    yield _Cause("prompt_cut", says, lambda prompt: prompt.expected if prompt.same else prompt.expected[-limit:])
    yield _Cause("prompt_cut", says, lambda prompt: prompt.expected if prompt.same else prompt.expected[:limit])


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation without its system turns."""
    return [turn for turn in messages if turn.role != "system"]


def last_turn(messages: Sequence[Message]) -> list[Message]:
    """Return the last turn of a conversation, behind its system turns."""
    return [*(turn for turn in messages[:-1] if turn.role == "system"), messages[-1]]


def system_in_user(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with its system turn at the beginning of the first user turn."""
    system = "\n\n".join(turn.words for turn in messages if turn.role == "system")
    turns = without_system(messages)
    if system and turns and turns[0].role == "user":
        turns[0] = turns[0].replace(content=f"{system}\n\n{turns[0].words}")
    return turns


def strip_turn(turn: Message) -> Message:
    """Return a turn without blanks around its text."""
    return turn.replace(content=turn.words.strip()) if turn.content else turn


# --- causes with something unknown in them ---------------------------------------------------------------------------
def _explain_tokens(wrong: Sequence[SeenPrompt], renderer: PromptRenderer) -> tuple[DifferenceKind, str]:
    """Explain prompts whose tokens are shown, by the first of them."""
    texts = [(renderer.decode(prompt.expected), renderer.decode(prompt.tokens or ())) for prompt in wrong]
    if all(expected == text for expected, text in texts):
        return "tokenizer_differs", "the same text is read as other tokens"
    begin = renderer.decode([renderer.begin_token]) if renderer.begin_token is not None else ""
    bare = [(expected.removeprefix(begin), text.removeprefix(begin)) for expected, text in texts]
    inserted = [_find_insertion(expected, text) for expected, text in bare]
    if all(
        insertion is not None and insertion[0] <= _first_question(prompt, expected)
        for insertion, prompt, (expected, _) in zip(inserted, wrong, bare, strict=True)
    ):
        added = inserted[0][1] if inserted[0] is not None else ""
        return "system_turn_added", f"the server puts a system turn in front: {_quote(added)}"
    if all(text.startswith(expected) for expected, text in texts):
        added = texts[0][1].removeprefix(texts[0][0])
        return (
            "generation_prompt_differs",
            f"the answer's turn begins with {_quote(added)}, which the template does not write",
        )
    if all(expected.startswith(text) for expected, text in texts):
        lost = texts[0][0].removeprefix(texts[0][1])
        return "generation_prompt_missing", f"the end of the prompt is missing: {_quote(lost)}"
    if all("".join(expected.split()) == "".join(text.split()) for expected, text in texts):
        return "blanks_changed", f"blanks and line ends are changed: {_describe_change(*texts[0])}"
    if all(_is_system_changed(prompt, text, renderer) for prompt, (_, text) in zip(wrong, texts, strict=True)):
        return (
            "system_turn_changed",
            f"another system turn stands in the request's place: {_describe_change(*texts[0])}",
        )
    return "template_differs", f"another chat template is used: {_describe_change(*texts[0])}"


def _find_insertion(expected: str, text: str) -> tuple[int, str] | None:
    """Return where something was put into a text, and what it is; None where that does not explain the difference."""
    if len(text) <= len(expected):
        return None
    pairs = zip(reversed(expected), reversed(text), strict=False)
    suffix = next((index for index, (a, b) in enumerate(pairs) if a != b), len(expected))
    at = len(expected) - suffix
    return (at, text[at : len(text) - suffix]) if text.startswith(expected[:at]) else None


def _first_question(prompt: SeenPrompt, expected: str) -> int:
    """Return where the text of the first user turn stands in a prompt; 0 where it is not found."""
    question = next((turn.words.strip() for turn in prompt.request.messages if turn.role == "user"), "")
    return max(0, expected.find(question))


def _is_system_changed(prompt: SeenPrompt, text: str, renderer: PromptRenderer) -> bool:
    """Return whether the prompt of a row with a system turn ends as it should behind that turn."""
    messages = prompt.request.messages
    if not any(turn.role == "system" for turn in messages):
        return False
    try:
        rest_of_prompt = renderer.render(without_system(messages), prompt.request.tools).text
    except LlmtuneError:
        return False
    begin = renderer.decode([renderer.begin_token]) if renderer.begin_token is not None else ""
    return text.endswith(rest_of_prompt.removeprefix(begin))


def _explain_counts(prompts: Sequence[SeenPrompt]) -> tuple[DifferenceKind, str]:
    """Explain prompts of which only the numbers of tokens are known."""
    with_system = {prompt.difference for prompt in prompts if _has_system(prompt)}
    without = {prompt.difference for prompt in prompts if not _has_system(prompt)}
    if with_system <= {0} and len(without) == 1 and (extra := next(iter(without))) > 0:
        return (
            "system_turn_added",
            f"the server puts a system turn of {extra} tokens in front, where a request has none",
        )
    if len(with_system | without) == 1:
        extra = next(iter(with_system | without))
        if extra < 0:
            return "template_differs", f"another chat template is used: every prompt has {-extra} tokens too few"
        return (
            "generation_prompt_differs",
            f"every prompt has {extra} tokens too many, whatever its turns: the answer's turn begins otherwise, or a"
            " fixed text stands in front",
        )
    by_shape: dict[tuple[str, ...], set[int]] = {}
    for prompt in prompts:
        shape = (*(turn.role for turn in prompt.request.messages), str(len(prompt.request.tools)))
        by_shape.setdefault(shape, set()).add(prompt.difference)
    if any(max(differences) - min(differences) > _BORDERS for differences in by_shape.values()):
        return "tokenizer_differs", "texts are read as other numbers of tokens: another tokenizer, or changed texts"
    low, high = min(with_system | without), max(with_system | without)
    return (
        "template_differs",
        f"another chat template is used: prompts have {low:+d} to {high:+d} tokens, by their turns",
    )


def _has_system(prompt: SeenPrompt) -> bool:
    return any(turn.role == "system" for turn in prompt.request.messages)


def _quote(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}\u2026")


def _describe_change(expected: str, text: str) -> str:
    """Quote where two texts differ first."""
    pairs = enumerate(zip(expected, text, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(expected), len(text)))
    start = max(0, at - 12)
    return f"{_quote(text[start : start + _QUOTED])} in the place of {_quote(expected[start : start + _QUOTED])}"
