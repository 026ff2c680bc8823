"""An exported model compared with the tuned one on held-out rows: the tokens of prompts, and greedy answers.

llama.cpp is run for GGUF files where it is installed; a folder of one model is loaded by transformers alone. The
result is written beside the export as `check.json`, which holds no text of the rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._models import DocumentedModel
from llmtune.errors import LlmtuneError
from llmtune.provider import Generation, GenerationRequest
from llmtune_local.inference.generator import LocalGenerator
from llmtune_local.inference.tool_call_parser import with_calls
from llmtune_local.models import loading
from llmtune_local.models.shape import read_end_tokens
from llmtune_local.run_state.schema import WorkerOptions
from llmtune_local.serving import llama_cpp
from llmtune_local.serving.export import ADAPTER_FILE, BASE_FILE
from llmtune_local.serving.text_bank import all_texts, describe_differences

if TYPE_CHECKING:
    from llmtune.data.example import Example
    from llmtune.data.rendering.tokenize import Renderer

#: The file with the result, in the folder of the export.
CHECK_FILE = "check.json"
#: Tokens of an answer at most.
_MAX_TOKENS = 256
#: Seconds for the answers of one side; rows that were not reached by then are not compared.
_SECONDS = 300.0
#: Rows that are asked together by the tuned model.
_BATCH_ROWS = 8
#: A server's context is a multiple of this.
_CONTEXT_STEP = 256


class ExportCheck(DocumentedModel):
    """How an exported model compares with the tuned one."""

    server: str
    """What answered for the export: llama.cpp by xllamacpp and its version, or transformers."""

    rows: int
    """Held-out rows that were compared."""

    same_prompts: int
    """Rows whose prompt is the same tokens on both sides."""

    same_answers: int
    """Rows whose greedy answer is the same text on both sides."""

    other_prompts: tuple[int | None, ...] = ()
    """The lines of rows with another prompt; None for a row without one."""

    other_answers: tuple[int | None, ...] = ()
    """The lines of rows with another answer."""

    texts: int = 0
    """Texts of the fixed bank that both tokenizers read; 0 where the tokenizer is the same."""

    other_texts: tuple[str, ...] = ()
    """Texts of the bank that are read in other tokens."""

    def sentences(self) -> tuple[str, ...]:
        """Return what was compared and what differs."""
        lines = [
            f"{self.server} against the tuned model on {self.rows} held-out rows: the prompt is the same tokens on"
            f" {self.same_prompts}, the greedy answer the same on {self.same_answers}"
        ]
        if self.other_texts:
            kinds = [(kind, text) for kind, text in all_texts() if text in self.other_texts]
            lines.append(
                f"{len(self.other_texts)} of {self.texts} texts are read in other tokens: {describe_differences(kinds)}"
            )
        return tuple(lines)


@dataclass
class _Row:
    """A held-out row, with what the tuned model has for it."""

    line: int | None
    request: GenerationRequest
    prompt: tuple[int, ...]
    answer: Generation | None = None

    def is_answer(self, text: str) -> bool:
        """Return whether a text is the tuned model's answer: the same text, and the same calls of tools."""
        assert self.answer is not None
        return _content(with_calls(Generation(text=text.strip()), self.request)) == _content(self.answer)


def _content(answer: Generation) -> tuple[str, list[tuple[str, Any]]]:
    return answer.text.strip(), [(call.name, call.arguments) for call in answer.tool_calls]


@dataclass
class _Comparison:
    """Counts of a comparison under way."""

    rows: int = 0
    other_prompts: list[int | None] = field(default_factory=list)
    other_answers: list[int | None] = field(default_factory=list)

    def add(self, row: _Row, prompt: Sequence[int], answer: str) -> None:
        self.rows += 1
        if tuple(prompt) != row.prompt:
            self.other_prompts.append(row.line)
        if not row.is_answer(answer):
            self.other_answers.append(row.line)

    def result(self, server: str, *, texts: int = 0, other_texts: Sequence[str] = ()) -> ExportCheck:
        return ExportCheck(
            server=server,
            rows=self.rows,
            same_prompts=self.rows - len(self.other_prompts),
            same_answers=self.rows - len(self.other_answers),
            other_prompts=tuple(self.other_prompts),
            other_answers=tuple(self.other_answers),
            texts=texts,
            other_texts=tuple(other_texts),
        )


def check_export(artefact: Path, data: Mapping[str, Any], folder: Path, examples: Sequence[Example]) -> tuple[str, ...]:
    """Compare the export in `folder` with the tuned model, and write the result beside it; return it in sentences.

    `artefact` and `data` are the tuned model's, `examples` held-out rows. Nothing is said of a classifier and of an
    adapter alone, which nothing here serves.

    Raises:
        LlmtuneError: there is nothing to compare with.
    """
    files = sorted(folder.glob("*.gguf"))
    if data.get("method") == "classification" or not (files or (folder / "config.json").is_file()):
        return ()
    if files and not llama_cpp.is_installed():
        raise LlmtuneError("llama.cpp is not installed (pip install 'llmtune-sdk[llama-cpp]')")
    conversations = [example for example in examples if example.messages]
    if not conversations:
        raise LlmtuneError("no test row is a conversation")
    renderer = _load_renderer(artefact, data)
    rows = _ask_tuned(artefact, data, _make_rows(conversations, renderer))
    check = _ask_llama_cpp(folder, files, rows, renderer) if files else _ask_transformers(folder, rows, data)
    (folder / CHECK_FILE).write_text(json.dumps(check.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return check.sentences()


def _load_renderer(folder: Path, data: Mapping[str, Any]) -> Renderer:
    from llmtune.data.rendering.tokenize import Renderer

    options = data.get("options", {})
    tokenizer = loading.load_tokenizer(str(folder), None, options.get("chat_template"))
    return Renderer(tokenizer, template_options=options.get("template_options"))


def _make_rows(examples: Sequence[Example], renderer: Renderer) -> list[_Row]:
    rows = []
    for example in examples:
        messages, tools = example.prompt(), tuple(dict(tool) for tool in example.tools)
        request = GenerationRequest(messages=messages, tools=tools, max_tokens=_MAX_TOKENS)
        rows.append(_Row(example.line, request, renderer.prompt_ids(messages, tools)))
    return rows


def _ask_tuned(artefact: Path, data: Mapping[str, Any], rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows that the tuned model has answered in time, with its answers."""
    model = {name: data[name] for name in ("model", "revision", "options") if name in data}
    answered: list[_Row] = []
    until = time.monotonic() + _SECONDS
    pending = iter(rows)
    with LocalGenerator(artefact=artefact, **model) as generator:
        while time.monotonic() < until and (batch := list(islice(pending, _BATCH_ROWS))):
            for row, answer in zip(batch, generator.generate([row.request for row in batch]), strict=True):
                row.answer = answer
            answered += batch
    return answered


def _ask_llama_cpp(folder: Path, files: Sequence[Path], rows: Sequence[_Row], renderer: Renderer) -> ExportCheck:
    adapter = folder / ADAPTER_FILE if folder / ADAPTER_FILE in files else None
    model = folder / BASE_FILE if adapter is not None else files[0]
    needed = max(len(row.prompt) for row in rows) + _MAX_TOKENS + 1
    context = -(-needed // _CONTEXT_STEP) * _CONTEXT_STEP
    comparison = _Comparison()
    until = time.monotonic() + _SECONDS
    with llama_cpp.serve(model, lora=adapter, context=context) as server:
        for row in rows:
            messages, tools = row.request.messages, row.request.tools
            prompt = server.tokens(server.render(messages, tools))
            answer, count = server.answer(messages, tools, row.prompt, _MAX_TOKENS)
            # Asked for its answer, the server may still build another prompt than it shows.
            comparison.add(row, prompt if tools or count == len(prompt) else (), answer)
            if time.monotonic() > until:
                break
        different = list(_other_texts(server, renderer))
        return comparison.result(server.version, texts=len(all_texts()), other_texts=different)


def _other_texts(server: llama_cpp.LlamaServer, renderer: Renderer) -> Iterator[str]:
    """Yield the texts of the bank that the server's tokenizer reads differently, as they stand in a user's turn."""
    from llmtune.data.example import Message

    for _, text in all_texts():
        messages = (Message(role="user", content=text),)
        tokens = renderer.prompt_ids(messages)
        read = server.tokens(renderer.render_prompt(messages), add_beginning=False)
        if read != tokens:
            yield text


def _ask_transformers(folder: Path, rows: Sequence[_Row], data: Mapping[str, Any]) -> ExportCheck:
    """Load the folder as others will, by transformers alone, and let its own settings end the answers."""
    import torch

    options = WorkerOptions.model_validate(data.get("options", {}))
    network, tokenizer = loading.load_with_transformers(folder, data, options)
    comparison = _Comparison()
    ends = read_end_tokens(folder)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    context = loading.context_length(network.config, tokenizer, None)
    template_options = dict(options.template_options or {})
    until = time.monotonic() + _SECONDS
    for row in rows:
        prompt = _apply_template(tokenizer, row, template_options)
        ids = torch.tensor([prompt], device=network.device)
        limit = _MAX_TOKENS if context is None else min(_MAX_TOKENS, context - len(prompt))
        if limit < 1:
            continue
        with torch.no_grad():
            answer = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=pad,
            )[0, len(prompt) :]
        comparison.add(row, prompt, tokenizer.decode(answer, skip_special_tokens=True))
        if time.monotonic() > until:
            break
    return comparison.result("transformers")


def _apply_template(tokenizer: Any, row: _Row, options: Mapping[str, Any]) -> list[int]:
    """Return a row's prompt as transformers' own `apply_chat_template` makes it."""
    from llmtune.provider.chat import chat_message

    messages = [chat_message(message) for message in row.request.messages]
    for message in messages:
        for call in message.get("tool_calls") or ():
            if isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return list(
        tokenizer.apply_chat_template(
            messages,
            tools=list(row.request.tools) or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **options,
        )
    )
