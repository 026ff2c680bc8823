"""A bank of servers: wrong ones, each named by the kind of its fault, and sound ones, none of which is blamed."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from llmtune._retry import RetryPolicy
from llmtune.data.example import Message
from llmtune.verifications.endpoint import Endpoint
from llmtune.verifications.prompts import last_turn, strip_turn, system_in_user, without_system
from llmtune.verifications.results import KINDS, Verification
from llmtune.verifications.verify import verify_endpoint
from tests.llmtune.verifications.conftest import World
from tests.llmtune.verifications.serving import Body, Made, Model, ModelServer, Refused

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("verified")]

QUICK = RetryPolicy(tries=4, first=0.01, most=0.02)

Turns = Sequence[Message]
Tools = Sequence[Mapping[str, Any]]


def verify(world: World, server: ModelServer) -> Verification:
    with server.running() as address:
        endpoint = Endpoint(address)
        endpoint.choose_model("tuned")
        return verify_endpoint(endpoint, world.reference, patience=QUICK)


def showing(kind: str, server: type[ModelServer]) -> type[ModelServer]:
    """The same server, which shows this of its prompts."""
    return type(f"{server.__name__}Showing{kind.title()}", (server,), {"shows": kind})


# --- wrong in what the model is given --------------------------------------------------------------------------------
class SystemWhereNone(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        system = () if messages[0].role == "system" else (Message("system", "You are a helpful assistant."),)
        return super().text((*system, *messages), tools)


class SystemAlways(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text((Message("system", "Be kind."), *messages), tools)


class OtherSystem(ModelServer):
    shows = "vllm"

    def text(self, messages: Turns, tools: Tools) -> str:
        changed = [turn.replace(content="Be brief.") if turn.role == "system" else turn for turn in messages]
        return super().text(changed, tools)


class TokenInFront(ModelServer):
    def tokens(self, text: str) -> list[int]:
        return [self.model.tokenizer.convert_tokens_to_ids("<|endoftext|>"), *super().tokens(text)]


class NoGenerationPrompt(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return self.model.renderer.template.prompt(messages, tools, generation_prompt=False)


class LongerGenerationPrompt(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text(messages, tools) + "<think>\n\n</think>\n\n"


class SystemDropped(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text(without_system(messages), tools)


class SystemInUser(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text(system_in_user(messages), tools)


class LastTurnOnly(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text(last_turn(messages), tools)


class ToolsDropped(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text(messages, ())


class PromptCut(ModelServer):
    def prompt(self, messages: Turns, tools: Tools) -> list[int]:
        return super().prompt(messages, tools)[-60:]


class BlanksStripped(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text([strip_turn(turn) for turn in messages], tools)


class LinesJoined(ModelServer):
    shows = "llama"

    def text(self, messages: Turns, tools: Tools) -> str:
        return super().text(messages, tools).replace("\n<|im_start|>", "<|im_start|>")


class MarksAsText(ModelServer):
    def tokens(self, text: str) -> list[int]:
        encoded = self.model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])


class OtherTemplate(ModelServer):
    def text(self, messages: Turns, tools: Tools) -> str:
        said = "".join(f"### {turn.role}: {turn.words}\n" for turn in messages)
        return f"{said}### assistant:"


class OtherTokenizer(ModelServer):
    shows = "llama"

    def tokens(self, text: str) -> list[int]:
        parts = re.findall(r"<\|.*?\|>|.", text, re.DOTALL)
        return [token for part in parts for token in super(OtherTokenizer, self).tokens(part)]


# --- wrong in how the answer is made ---------------------------------------------------------------------------------
class Sampling(ModelServer):
    def __init__(self, model: Model, **others: Model) -> None:
        super().__init__(model, **others)
        self._random = torch.Generator().manual_seed(1)

    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        def choose(logits: Any, _: list[int]) -> int:
            return int(torch.multinomial(torch.softmax(logits / 1.2, -1), 1, generator=self._random))

        return self.model.generate(prompt, limit, choose=choose)


class Penalty(ModelServer):
    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        penalty = float(body.get("repetition_penalty", 1.6))

        def choose(logits: Any, seen: list[int]) -> int:
            changed = logits.clone()
            for token in set(seen):
                changed[token] = changed[token] / penalty if changed[token] > 0 else changed[token] * penalty
            return int(changed.argmax())

        return (
            super().generate(prompt, limit, body) if penalty == 1 else self.model.generate(prompt, limit, choose=choose)
        )


class Swapped(ModelServer):
    """Gives each of two questions that arrive together the other's answer."""

    def __init__(self, model: Model, **others: Model) -> None:
        super().__init__(model, **others)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Body, threading.Event, list[Body]]] = []

    def complete(self, body: Body) -> Body:
        with self._lock:
            if not self._waiting:
                mine: tuple[Body, threading.Event, list[Body]] = (super().complete(body), threading.Event(), [])
                self._waiting.append(mine)
                partner = None
            else:
                partner = self._waiting.pop()
        if partner is not None:
            partner[2].append(super().complete(body))
            partner[1].set()
            return partner[0]
        together = mine[1].wait(0.5)
        with self._lock:
            if not together and mine in self._waiting:
                self._waiting.remove(mine)
                return mine[0]
        mine[1].wait()
        return mine[2][0]


class RunsOn(ModelServer):
    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        return self.model.generate(prompt, limit, stops=frozenset({-1}))


class CutAtEight(ModelServer):
    def limit(self, body: Body) -> int:
        return min(8, super().limit(body))


class MaxTokensIgnored(ModelServer):
    def limit(self, body: Body) -> int:
        return 64


class StopIgnored(ModelServer):
    def stops(self, body: Body) -> list[str]:
        return []


# --- wrong in how the answer is written ------------------------------------------------------------------------------
class EndInAnswer(ModelServer):
    def decode(self, made: Made) -> str:
        return super().decode(made) + ("<|im_end|>" if made.finish == "stop" else "")


class PromptEchoed(ModelServer):
    def complete(self, body: Body) -> Body:
        answer = super().complete(body)
        message = answer["choices"][0]["message"]
        if message["content"]:
            message["content"] = f"{body['messages'][-1]['content']}\n{message['content']}"
        return answer


class RoleInFront(ModelServer):
    def decode(self, made: Made) -> str:
        return f"assistant\n{super().decode(made)}"


class AsReasoning(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        return {"role": "assistant", "content": "", "reasoning_content": text}


class Empty(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        return {"role": "assistant", "content": ""}


class Mojibake(ModelServer):
    def decode(self, made: Made) -> str:
        return super().decode(made).encode().decode("latin-1")


class AsciiOnly(ModelServer):
    def decode(self, made: Made) -> str:
        return super().decode(made).encode("ascii", "replace").decode()


class Escaped(ModelServer):
    def decode(self, made: Made) -> str:
        return html.escape(super().decode(made), quote=True)


class LowerCase(ModelServer):
    def decode(self, made: Made) -> str:
        return super().decode(made).lower()


class Fenced(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        return message if message.get("tool_calls") else message | {"content": f"```\n{text}\n```"}


class Thinking(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        return message if message.get("tool_calls") else message | {"content": f"<think>Hm.</think>\n{text}"}


class AlwaysLength(ModelServer):
    def finish(self, made: Made, message: Body) -> str | None:
        return "length"


class CutIsStop(ModelServer):
    def finish(self, made: Made, message: Body) -> str | None:
        return "tool_calls" if message.get("tool_calls") else "stop"


class CallsAsText(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        return {"role": "assistant", "content": text}


class ArgumentsAsObject(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return message


class BlanksLostInStreams(ModelServer):
    def pieces(self, text: str) -> list[str]:
        return text.split(" ")


class LastPieceLost(ModelServer):
    def pieces(self, text: str) -> list[str]:
        return super().pieces(text)[:-1]


class NoStream(ModelServer):
    def stream(self, answer: Body) -> tuple[bytes, str]:
        return self.write(answer), "application/json"


class StreamBreaksOff(ModelServer):
    def stream(self, answer: Body) -> tuple[bytes, str]:
        content, kind = super().stream(answer)
        return content[: len(content) // 2].rpartition(b"\n\n")[0] + b"\n\n", kind


class SystemRefused(ModelServer):
    def check(self, body: Body) -> None:
        if body["messages"][0]["role"] == "system":
            raise Refused(400, "System role not supported")


# --- another model ---------------------------------------------------------------------------------------------------
class BaseModel(ModelServer):
    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        return self.others["base"].generate(prompt, limit)


class Foreign(ModelServer):
    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        return self.others["foreign"].generate(prompt, limit)


class Quantised(ModelServer):
    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        return self.others["quantised"].generate(prompt, limit)


WRONG: list[tuple[str, type[ModelServer]]] = [
    ("system_turn_added", SystemWhereNone),
    ("system_turn_added", showing("llama", SystemWhereNone)),
    ("system_turn_added", showing("vllm", SystemAlways)),
    ("system_turn_changed", OtherSystem),
    ("beginning_token_added", TokenInFront),
    ("beginning_token_added", showing("vllm", TokenInFront)),
    ("generation_prompt_missing", NoGenerationPrompt),
    ("generation_prompt_missing", showing("llama", NoGenerationPrompt)),
    ("generation_prompt_differs", LongerGenerationPrompt),
    ("generation_prompt_differs", showing("vllm", LongerGenerationPrompt)),
    ("system_turn_dropped", SystemDropped),
    ("system_turn_dropped", showing("llama", SystemDropped)),
    ("system_turn_in_user", SystemInUser),
    ("earlier_turns_dropped", LastTurnOnly),
    ("tools_not_rendered", ToolsDropped),
    ("prompt_cut", PromptCut),
    ("blanks_changed", BlanksStripped),
    ("blanks_changed", LinesJoined),
    ("special_tokens_as_text", MarksAsText),
    ("template_differs", OtherTemplate),
    ("template_differs", showing("llama", OtherTemplate)),
    ("tokenizer_differs", OtherTokenizer),
    ("sampling_on", Sampling),
    ("sampling_settings", Penalty),
    ("answers_swapped", Swapped),
    ("stop_not_honoured", RunsOn),
    ("answers_cut", CutAtEight),
    ("max_tokens_ignored", MaxTokensIgnored),
    ("stop_ignored", StopIgnored),
    ("end_token_in_answer", EndInAnswer),
    ("prompt_in_answer", PromptEchoed),
    ("role_in_answer", RoleInFront),
    ("answer_in_reasoning", AsReasoning),
    ("answers_empty", Empty),
    ("answers_rewritten", Mojibake),
    ("answers_rewritten", AsciiOnly),
    ("answers_rewritten", Escaped),
    ("answers_rewritten", LowerCase),
    ("answers_rewritten", Fenced),
    ("answers_rewritten", Thinking),
    ("finish_reason_differs", AlwaysLength),
    ("finish_reason_differs", CutIsStop),
    ("tool_calls_as_text", CallsAsText),
    ("tool_arguments_not_text", ArgumentsAsObject),
    ("stream_differs", BlanksLostInStreams),
    ("stream_differs", LastPieceLost),
    ("stream_broken", NoStream),
    ("stream_broken", StreamBreaksOff),
    ("rows_refused", SystemRefused),
    ("base_model_answers", BaseModel),
    ("another_model_answers", Foreign),
    ("weights_differ", Quantised),
]


@pytest.mark.parametrize(("kind", "wrong"), WRONG, ids=[f"{server.__name__}-{kind}" for kind, server in WRONG])
def test_a_wrong_server_is_named_by_its_kind(world: World, kind: str, wrong: type[ModelServer]) -> None:
    result = verify(world, wrong(world.tuned, base=world.base, **world.changed))
    kinds = [difference.kind for difference in result.differences]
    assert kind in kinds, (result.reason, kinds)
    assert set(kinds) <= set(KINDS)
    assert result.verdict == "drift" or kind == "weights_differ", result.reason


# --- sound servers, each of which looks different --------------------------------------------------------------------
class Indented(ModelServer):
    def write(self, answer: Any) -> bytes:
        return json.dumps(answer, indent=4).encode()


class Compact(ModelServer):
    def write(self, answer: Any) -> bytes:
        return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()


class KeysReversed(ModelServer):
    def write(self, answer: Any) -> bytes:
        return json.dumps(
            json.loads(json.dumps(answer), object_hook=lambda pairs: dict(reversed(pairs.items())))
        ).encode()


class MoreFields(ModelServer):
    def complete(self, body: Body) -> Body:
        answer = super().complete(body) | {
            "system_fingerprint": "b1",
            "timings": {"prompt_ms": 1.5},
            "service_tier": None,
        }
        answer["choices"][0] |= {"stop_reason": None, "token_ids": None, "logprobs": None}
        answer["choices"][0]["message"] |= {
            "refusal": None,
            "annotations": [],
            "reasoning_content": None,
            "audio": None,
        }
        return answer


class ContentInParts(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        half = len(text) // 2
        parts = [{"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]
        return message if message.get("tool_calls") else message | {"content": parts}

    def events(self, answer: Body) -> Any:
        message = answer["choices"][0]["message"]
        if isinstance(message["content"], list):
            message["content"] = "".join(part["text"] for part in message["content"])
        return super().events(answer)


class NoUsage(ModelServer):
    def usage(self, made: Made) -> Body | None:
        return None


class ZeroUsage(ModelServer):
    def usage(self, made: Made) -> Body | None:
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class CachedUsage(ModelServer):
    def usage(self, made: Made) -> Body | None:
        return (super().usage(made) or {}) | {"prompt_tokens_details": {"cached_tokens": 7}, "queue_time": 0.1}


class EndNotCounted(ModelServer):
    def usage(self, made: Made) -> Body | None:
        return {"prompt_tokens": made.prompt_tokens, "completion_tokens": len(made.tokens)}


class CharacterStream(ModelServer):
    def pieces(self, text: str) -> list[str]:
        return list(text)


class OnePieceStream(ModelServer):
    def pieces(self, text: str) -> list[str]:
        return [text] if text else []


class CommentedStream(ModelServer):
    def stream(self, answer: Body) -> tuple[bytes, str]:
        lines = "".join(
            f": ping\r\n\r\nevent: message\r\nid: 1\r\ndata:{event}\r\n\r\n" for event in self.events(answer)
        )
        return lines.encode(), "text/event-stream; charset=utf-8"


class UnmarkedEndOfStream(ModelServer):
    def stream(self, answer: Body) -> tuple[bytes, str]:
        content, kind = super().stream(answer)
        return content.replace(b"data: [DONE]\n\n", b""), kind


class UsageInStream(ModelServer):
    def events(self, answer: Body) -> Any:
        *chunks, done = super().events(answer)
        yield from chunks
        yield json.dumps({"id": "x", "choices": [], "usage": answer["usage"]})
        yield done


class StreamsRefused(ModelServer):
    def check(self, body: Body) -> None:
        if body.get("stream"):
            raise Refused(400, "streaming is not supported here")


class Likelihoods(ModelServer):
    shows = "vllm"
    with_end: ClassVar[bool] = True

    def logprobs(self, made: Made, body: Body) -> Body | None:
        values = made.logprobs if self.with_end else made.logprobs[: len(made.tokens)]
        return {"content": [{"token": "t", "bytes": None, "logprob": value, "top_logprobs": []} for value in values]}


class LikelihoodsWithoutEnd(Likelihoods):
    shows = "counts"
    with_end = False


class DegenerateLikelihoods(Likelihoods):
    def logprobs(self, made: Made, body: Body) -> Body | None:
        return {"content": [{"token": "t", "logprob": 0.0} for _ in made.tokens]}


class FieldsRefused(ModelServer):
    refuses: ClassVar[tuple[str, ...]] = ("logprobs", "seed")

    def check(self, body: Body) -> None:
        for name in self.refuses:
            if name in body:
                raise Refused(400, f"Unsupported parameter: {name!r} is not supported with this model.")


class NewerLimit(FieldsRefused):
    refuses = ("max_tokens",)


class SilentlyRefused(ModelServer):
    def check(self, body: Body) -> None:
        if "logprobs" in body:
            raise Refused(422, "Unprocessable Entity")


class StopsRefused(FieldsRefused):
    refuses = ("stop",)


class NoModelList(ModelServer):
    models = None


class LoadingFirst(ModelServer):
    def check(self, body: Body) -> None:
        if self.asked <= 2:
            raise Refused(503, "Loading model", Retry_After="0")


class LimitedOnce(ModelServer):
    def check(self, body: Body) -> None:
        if self.asked == 5:
            raise Refused(429, "Too many requests", Retry_After="0")


class FloatNoise(ModelServer):
    """Logits move a little each time, as they do with the number of questions that are answered together."""

    def __init__(self, model: Model, **others: Model) -> None:
        super().__init__(model, **others)
        self._random = torch.Generator().manual_seed(2)

    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        def choose(logits: Any, _: list[int]) -> int:
            return int((logits + 2e-3 * torch.randn(logits.shape, generator=self._random)).argmax())

        return self.model.generate(prompt, limit, choose=choose)


class HalfPrecision(ModelServer):
    def generate(self, prompt: list[int], limit: int, body: Body) -> Made:
        return self.others["half_precision"].generate(prompt, limit)


class OuterBlanks(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        return message if message.get("tool_calls") else message | {"content": f" {text}\n"}


class CallsEndInStop(ModelServer):
    def finish(self, made: Made, message: Body) -> str | None:
        return made.finish


class ArgumentsSpelled(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), indent=2)
            call["id"] = "chatcmpl-tool-8f3b"
        return message


class EmptyContentWithCalls(ModelServer):
    def message(self, text: str, body: Body) -> Body:
        message = super().message(text, body)
        return message | {"content": ""} if message.get("tool_calls") else message


class OwnReason(ModelServer):
    def finish(self, made: Made, message: Body) -> str | None:
        return {"stop": "eos_token"}.get(made.finish, made.finish)


SOUND: list[type[ModelServer]] = [
    ModelServer,
    showing("llama", ModelServer),
    showing("vllm", ModelServer),
    showing("nothing", NoUsage),
    Indented,
    Compact,
    KeysReversed,
    MoreFields,
    ContentInParts,
    NoUsage,
    ZeroUsage,
    CachedUsage,
    EndNotCounted,
    CharacterStream,
    OnePieceStream,
    CommentedStream,
    UnmarkedEndOfStream,
    UsageInStream,
    StreamsRefused,
    Likelihoods,
    LikelihoodsWithoutEnd,
    DegenerateLikelihoods,
    FieldsRefused,
    NewerLimit,
    SilentlyRefused,
    StopsRefused,
    NoModelList,
    LoadingFirst,
    LimitedOnce,
    FloatNoise,
    HalfPrecision,
    OuterBlanks,
    CallsEndInStop,
    ArgumentsSpelled,
    EmptyContentWithCalls,
    OwnReason,
]


@pytest.mark.parametrize("sound", SOUND, ids=[server.__name__ for server in SOUND])
def test_a_sound_server_is_not_blamed(world: World, sound: type[ModelServer]) -> None:
    result = verify(world, sound(world.tuned, base=world.base, **world.changed))
    assert [difference.kind for difference in result.differences] == []
    assert result.verdict == "same", result.reason
    assert result.answers_same + result.answers_tied == result.rows


class EmojiReadOtherwise(ModelServer):
    shows = "llama"

    def tokens(self, text: str) -> list[int]:
        return super().tokens(text.replace("\U0001f389", "\U0001f389 "))


def test_texts_that_are_read_otherwise_are_named_although_no_row_holds_them(world: World) -> None:
    result = verify(world, EmojiReadOtherwise(world.tuned))
    (difference,) = result.differences
    assert (difference.kind, difference.drift, difference.rows) == ("tokenizer_differs", False, ())
    assert "texts beside the rows are read as other tokens: emoji (1 of 2, such as" in difference.says
    assert (result.verdict, result.prompts_same) == ("same", result.rows)


def test_rows_that_are_not_reached_in_time_are_left_out(world: World) -> None:
    with ModelServer(world.tuned).running() as address:
        endpoint = Endpoint(address, model="tuned")
        result = verify_endpoint(endpoint, world.reference, seconds=1e-6, patience=QUICK)
    assert (result.verdict, result.rows, result.answers_same) == ("same", 8, 8)
    assert "8 of 16 rows were asked: the others were not reached in 1e-06 s" in result.notes
