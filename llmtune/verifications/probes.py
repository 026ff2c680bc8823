"""Questions beside the rows: whether a server samples, streams, keeps to max_tokens, and ends at stop texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmtune.data.example import Message
from llmtune.errors import InvalidData, TransientError, VendorError
from llmtune.provider.chat import FINISH_REASONS
from llmtune.provider.generation import AnswerScorer, Generation, GenerationRequest
from llmtune.verifications.answers import AnswerPair, same_answer
from llmtune.verifications.endpoint import Server, ServerAnswer
from llmtune.verifications.results import Difference

#: How much likelier than a token its rival may be where rounding decides between them, in nats.
TIE = 0.1

#: Rows that are asked once more, and for a stream.
REPEATED, STREAMED = 4, 3

#: Open questions, on which a model that samples says something else each time, and how often each is asked.
OPEN_QUESTIONS = ("Write one sentence about anything you like.", "Name some things.", "Tell me a story.")
TIMES, OPEN_TOKENS = 3, 24

#: Tokens that an answer may have in the check of max_tokens, and the characters of one that is long enough for it.
FEW_TOKENS, LONG_ENOUGH = 2, 16

#: Settings that change nothing; a penalty that a server applies by itself is off with them.
NEUTRAL = {
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "min_p": 0.0,
}
NEUTRAL_STANDARD = {name: NEUTRAL[name] for name in ("top_p", "presence_penalty", "frequency_penalty")}


@dataclass
class Findings:
    """What the questions showed: differences, and notes on what could not be checked."""

    differences: list[Difference]
    notes: list[str]


def is_tie(scorer: AnswerScorer | None, request: GenerationRequest, expected: Generation, got: ServerAnswer) -> bool:
    """Return whether the model itself finds each token of an answer about as likely as the likeliest one.

    False where it cannot be told: nothing scores answers, or the template does not render this one. A tool call that is
    written as text may be the same tokens, and is none.
    """
    if scorer is None or got.finish_reason == "length" or bool(expected.tool_calls) != bool(got.tool_calls):
        return False
    answer = Generation(text=got.text.strip(), tool_calls=got.tool_calls)
    try:
        (likelihood,) = scorer.score_answers([request], [answer])
    except InvalidData:
        return False
    return max(likelihood.gaps, default=0.0) <= TIE


def check_repeats(endpoint: Server, pairs: Sequence[AnswerPair], findings: Findings) -> None:
    """Ask rows and open questions again: greedy answers are the same each time.

    One question with two answers may be rounding, which differs with the load of a server; two are sampling.
    """
    unstable = 0
    example: tuple[str, str] | None = None
    for pair in pairs[:REPEATED]:
        again = _ask(endpoint, pair.request)
        first = pair.alone or pair.got
        if again is None or first is None or same_answer(first.generation, again):
            continue
        unstable, example = unstable + 1, example or (first.text, again.text)
    for question in OPEN_QUESTIONS:
        request = GenerationRequest(messages=(Message("user", question),), max_tokens=OPEN_TOKENS)
        answers = [answer for _ in range(TIMES) if (answer := _ask(endpoint, request)) is not None]
        texts = list(dict.fromkeys(answer.text.strip() for answer in answers))
        if len(texts) > 1:
            unstable, example = unstable + 1, example or (texts[0], texts[1])
    if unstable >= 2 and example is not None:
        first_text, second_text = (text.strip()[:40] for text in example)
        says = f"sampling is on: the same question twice gives two answers ({first_text!r} and {second_text!r})"
        findings.differences.append(Difference(kind="sampling_on", says=says))
    elif unstable:
        findings.notes.append("one question was answered in two ways, as rounding may do under load")


def _ask(endpoint: Server, request: GenerationRequest, **settings: object) -> ServerAnswer | None:
    """Ask; return None where the server refuses or is unavailable, for then the check cannot be made."""
    try:
        return endpoint.ask(request, **settings)  # type: ignore[arg-type]
    except VendorError:
        return None


def check_streams(endpoint: Server, pairs: Sequence[AnswerPair], findings: Findings) -> None:
    """Ask rows for a stream: it has the text of the whole answer."""
    differing: list[AnswerPair] = []
    texts: list[str] = []
    streamed = 0
    for pair in pairs[:STREAMED]:
        if pair.got is None:
            continue
        try:
            answer = endpoint.stream(pair.request)
        except TransientError:
            continue
        except VendorError as error:
            if error.code == "no_answer":
                says = f"an answer that is asked for as a stream cannot be read: {error.message}"
                findings.differences.append(Difference(kind="stream_broken", says=says))
            else:
                findings.notes.append(f"streams were not checked: {error.message[:200]}")
            return
        if not answer.streamed:
            says = "an answer that is asked for as a stream comes whole, as one piece of JSON"
            findings.differences.append(Difference(kind="stream_broken", says=says))
            return
        streamed += 1
        if not same_answer(pair.got.generation, answer):
            unstreamed = _ask(endpoint, pair.request)
            if unstreamed is not None and not same_answer(unstreamed.generation, answer):
                differing.append(pair)
                texts.append(answer.text.strip()[:40])
    if differing:
        says = f"a stream has another text than the whole answer: {texts[0]!r} ({len(differing)} of {streamed} streams)"
        findings.differences.append(
            Difference(kind="stream_differs", says=says, rows=tuple(pair.row for pair in differing))
        )


def check_limits(endpoint: Server, pairs: Sequence[AnswerPair], findings: Findings) -> None:
    """Ask for a few tokens, and for an end at a stop text, where an answer is long enough to tell."""
    candidates = [pair for pair in pairs if pair.same and pair.got is not None and not pair.got.tool_calls]
    pair = max(candidates, key=lambda pair: len(pair.got.text) if pair.got else 0, default=None)
    if pair is None or pair.got is None or len(pair.got.text.strip()) < LONG_ENOUGH:
        findings.notes.append("max_tokens and stop texts were not checked: no answer is right and long enough")
        return
    full = pair.got.text.strip()
    short = _ask(endpoint, replace(pair.request, max_tokens=FEW_TOKENS))
    if short is None:
        findings.notes.append("max_tokens was not checked: the question was refused")
    elif len(short.text.strip()) >= len(full):
        findings.differences.append(
            Difference(kind="max_tokens_ignored", says=f"max_tokens {FEW_TOKENS} is ignored: the answer comes whole")
        )
    elif FINISH_REASONS.get(str(short.finish_reason)) == "stop":
        says = f"finish_reason is {short.finish_reason!r} of an answer that was cut at max_tokens {FEW_TOKENS}"
        findings.differences.append(Difference(kind="finish_reason_differs", says=says))
    middle = _choose_stop(full)
    ended = _ask(endpoint, pair.request, stop=[middle])
    if ended is None:
        findings.notes.append("stop texts were not checked: the question was refused")
    elif len(ended.text.strip()) >= len(full) and middle in ended.text:
        says = f"stop texts of a request are ignored: an answer goes on behind {middle!r}"
        findings.differences.append(Difference(kind="stop_ignored", says=says))


def _choose_stop(text: str) -> str:
    """Return a piece from the middle of a text, a word of it where there is one."""
    middle = text[len(text) // 3 :].split()
    return next(
        (piece for piece in middle if 0 < text.find(piece) < len(text) - len(piece)), text[len(text) // 2 :][:4]
    )


def check_settings(
    endpoint: Server,
    pairs: Sequence[AnswerPair],
    agrees: Callable[[AnswerPair, ServerAnswer], bool],
    findings: Findings,
) -> bool:
    """Ask rows again with settings that change nothing; return whether that makes the answers right."""
    questions = right = 0
    for pair in pairs[:REPEATED]:
        answer = _ask(endpoint, pair.request, extra=NEUTRAL) or _ask(endpoint, pair.request, extra=NEUTRAL_STANDARD)
        if answer is not None:
            questions, right = questions + 1, right + agrees(pair, answer)
    if not right or right * 2 < questions:
        return False
    says = (
        "the server's own settings, such as a penalty on repetition, change greedy answers: with settings that switch"
        f" them off, {right} of {questions} answers are as they should be"
    )
    rows = tuple(pair.row for pair in pairs)
    findings.differences.append(Difference(kind="sampling_settings", says=says, rows=rows))
    return True
