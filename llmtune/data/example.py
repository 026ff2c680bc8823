"""The canonical form that every row format is read into and written from.

The classes are named tuples: immutable, comparable, cheap to pickle, and created about three times faster than frozen
dataclasses, which decides how long a large file takes to check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

#: Who speaks in a turn.
Role = Literal["system", "user", "assistant", "tool"]
ROLES: frozenset[str] = frozenset(("system", "user", "assistant", "tool"))


class TextPart(NamedTuple):
    """A piece of text inside a message that has several parts."""

    text: str


class ImagePart(NamedTuple):
    """An image inside a message, named and never opened.

    `url` is http(s)://, gs://, s3://, a data: URL or a path, as the row gave it. `media_type` is such as
    "image/png" where the row said so; `detail` is the resolution hint some formats carry, `bucket_owner` the account
    that an s3:// address belongs to where it is not the caller's.
    """

    url: str
    media_type: str | None = None
    detail: str | None = None
    bucket_owner: str | None = None


class OtherPart(NamedTuple):
    """A part that is neither text nor image (sound, video, a document), kept as it was read.

    `kind` is its type as the row names it, `raw` the whole part.
    """

    kind: str
    raw: Mapping[str, Any]


Part = TextPart | ImagePart | OtherPart

#: What a turn says: a text, several parts, or nothing where it only calls tools.
Content = str | tuple[TextPart | ImagePart | OtherPart, ...] | None


class ToolCall(NamedTuple):
    """A call the assistant makes. `arguments` is JSON text, as chat rows carry it."""

    id: str
    name: str
    arguments: str


class Message(NamedTuple):
    """One turn.

    `role` is system, user, assistant or tool. `weight` is 1 (learn from it), 0 (do not) or None (the default:
    learn from assistant turns only). `raw_role` keeps another name the row used for the role ("developer");
    `extra` keeps the keys that have no place here.

    `content` is text, a list of parts, or None where the turn only calls tools. `tool_calls` are those calls;
    `tool_call_id` names the call that a tool's turn answers. `reasoning` is what the assistant thought before it
    answered, under whatever name the row has for it.
    """

    role: str
    content: Content = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: int | None = None
    raw_role: str | None = None
    extra: Mapping[str, Any] | None = None
    reasoning: str | None = None

    @property
    def key_fields(self) -> tuple[Any, ...]:
        """The fields in keys of what is stored by content: one that came later counts only where it is set."""
        return tuple(self) if self.reasoning is not None else tuple(self)[:-1]

    def __repr__(self) -> str:
        """Return the turn as text; keys of stored data are made of it too, so it must not change."""
        fields = zip(self._fields, self.key_fields, strict=False)
        return f"Message({', '.join(f'{name}={value!r}' for name, value in fields)})"

    @property
    def words(self) -> str:
        """The text of the turn: its content, or its text parts joined by newlines; empty when it has none."""
        content = self.content
        if content is None or isinstance(content, str):
            return content or ""
        return "\n".join(part.text for part in content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the turn, in order."""
        if self.content is None or isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ImagePart))

    @property
    def is_empty(self) -> bool:
        """Whether the turn has neither content nor tool calls."""
        content = self.content
        if content is None or isinstance(content, str):
            return not (content or "").strip() and not self.tool_calls
        return not content

    @property
    def listed(self) -> int:
        """How many turns of the row's own list of turns this one was made from."""
        return 1

    @property
    def trained(self) -> bool:
        """Whether the loss is taken on this turn: an assistant turn whose weight is not 0."""
        return self.role == "assistant" and self.weight != 0

    def replace(self, **changes: Any) -> Message:
        """Return a copy of the turn with `changes` to some fields."""
        return self._replace(**changes)


class UnlistedMessage(Message):
    """A turn that is not in the row's own list of turns: a system prompt under a key beside the list, or a further
    answer from one turn. It equals the plain `Message`; findings on other turns do not count it."""

    __slots__ = ()

    @property
    def listed(self) -> int:
        return 0


class FoldedMessage(Message):
    """A turn with the text of the turns before it. It equals the plain `Message`; findings name it by its own index in
    the row's list of turns."""

    before: int = 0

    @property
    def listed(self) -> int:
        return 1 + self.before


def unlisted(message: Message) -> UnlistedMessage:
    """Mark a turn as one that the row's own list of turns does not count."""
    return UnlistedMessage._make(message)


def folded(message: Message, before: Iterable[Message]) -> FoldedMessage:
    """Mark a turn as one that has the text of those before it, too."""
    turn = FoldedMessage._make(message)
    turn.before = sum(earlier.listed for earlier in before)
    return turn


class Preference(NamedTuple):
    """Two answers to one prompt: learn to give `preferred` rather than `rejected`."""

    preferred: tuple[Message, ...]
    rejected: tuple[Message, ...]


class Example(NamedTuple):
    """One training row in canonical form.

    A chat row has `messages`; a plain-text row has `text` and no messages; a preference row has the prompt in
    `messages` and the two answers in `preference`; a classification row has `label` (or several labels), and
    its answer turn says the same. `line` is the 1-based line of the file, or the row number where rows are
    not lines. `group` is the value of the spec's `group_by` key. `extra` keeps every key of the row that has
    no place here.

    `tools` are the JSON schemas of the functions that the row offers.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    label: str | tuple[str, ...] | None = None
    preference: Preference | None = None
    text: str | None = None
    line: int | None = None
    group: str | None = None
    extra: Mapping[str, Any] | None = None

    def prompt(self) -> tuple[Message, ...]:
        """Return the turns before the answer: the input of the model."""
        if self.preference is not None:
            return self.messages
        index = _find_answer(self.messages)
        return self.messages if index is None else self.messages[:index]

    def completion(self) -> str:
        """Return the text a model should answer with: that of `answer`, or the plain text.

        Empty when there is no such turn, or when it only calls tools.
        """
        if self.text is not None:
            return self.text
        answer = self.answer()
        return answer.words if answer is not None else ""

    def answer(self) -> Message | None:
        """Return the last assistant turn that is learned from (of the preferred answer in a preference row), or None.

        Where none is learned from, it is the last assistant turn.
        """
        turns = self.messages if self.preference is None else self.preference.preferred
        index = _find_answer(turns)
        return None if index is None else turns[index]

    def replace(self, **changes: Any) -> Example:
        """Return a copy of the row with `changes` to some fields."""
        return self._replace(**changes)


def _find_answer(turns: tuple[Message, ...]) -> int | None:
    """Return the index of the last assistant turn that is learned from, or of the last one where none is."""
    last = None
    for index in range(len(turns) - 1, -1, -1):
        if turns[index].role == "assistant":
            if turns[index].weight != 0:
                return index
            last = index if last is None else last
    return last


def chat(*turns: tuple[str, str], **fields: Any) -> Example:
    """Build an example from (role, text) pairs: `chat(("user", "Hi"), ("assistant", "Hello"))`."""
    return Example(tuple(Message(role, text) for role, text in turns), **fields)
