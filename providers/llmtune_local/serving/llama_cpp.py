"""llama.cpp on this machine, serving one file: its chat template, its tokenizer and its answers, over HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from llmtune.errors import LlmtuneError, MissingExtra
from llmtune_local.libraries import usable_cores
from llmtune_local.worker.child_process import PYTHON, child_environment

#: Seconds in which llama.cpp must have loaded a file, and in which it must have given one answer.
_LOADING_SECONDS = 600
_ANSWER_SECONDS = 600
#: What llama.cpp puts in front of an error in its log: time and level.
_STAMP = re.compile(r"^[\d.]+ E ")


def is_installed() -> bool:
    """Return whether llama.cpp can be run here."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaServer:
    """A running llama.cpp, asked at its own address."""

    def __init__(self, address: str, key: str) -> None:
        import httpx

        self.address = address
        """Where it listens: `http://127.0.0.1:PORT`."""
        self.key = key
        """What requests must carry."""
        self.version = f"xllamacpp {version('xllamacpp')}"
        # Without the environment's proxies: it is this machine.
        self._client = httpx.Client(
            base_url=address, trust_env=False, timeout=_ANSWER_SECONDS, headers={"Authorization": f"Bearer {key}"}
        )

    def close(self) -> None:
        """Close the connection; the server goes on."""
        self._client.close()

    def tokens(self, text: str, *, add_beginning: bool = True) -> tuple[int, ...]:
        """Return the tokens of a text, with the beginning token in front where the file asks for it."""
        body = {"content": text, "add_special": add_beginning, "parse_special": True}
        return tuple(self._post("/tokenize", body)["tokens"])

    def likeliest(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return the `count` likeliest next tokens after a prompt, the likeliest first."""
        body = {"prompt": list(prompt), "n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": False}
        (position,) = self._post("/completion", body)["completion_probabilities"]
        return [entry["id"] for entry in position["top_logprobs"]]

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        try:
            answer = self._client.post(path, json=body)
            document: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as problem:
            raise LlmtuneError(f"llama.cpp broke off ({type(problem).__name__} at {path})") from None
        if answer.status_code != 200:
            detail = document.get("error", document)
            message = detail.get("message", detail) if isinstance(detail, dict) else detail
            raise LlmtuneError(f"llama.cpp answers {path} with {answer.status_code}: {message}")
        return document


@contextlib.contextmanager
def serve(model: Path, *, lora: Path | None = None, context: int) -> Iterator[LlamaServer]:
    """Serve a GGUF file, with a LoRA adapter where one is given, while the context lasts.

    Raises:
        MissingExtra: llama.cpp is not installed.
        LlmtuneError: it does not load the file.
    """
    if not is_installed():
        raise MissingExtra("llama-cpp", "xllamacpp", purpose="running llama.cpp")
    command = [*PYTHON, "llmtune_local.serving.llama_server", str(model), "--context", str(context)]
    command += ["--threads", str(usable_cores())]
    command += ["--lora", str(lora)] if lora is not None else []
    # Web pages can send requests to this machine's own addresses: without the key they are refused.
    key = secrets.token_hex(16)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=child_environment()
        )
        # A pipe is read without a limit of time; ending the process ends the pipe.
        watchdog = threading.Timer(_LOADING_SECONDS, process.kill)
        watchdog.start()
        try:
            address = _read_address(process, key)
            watchdog.cancel()
            if address is None:
                process.wait()
                raise LlmtuneError(f"llama.cpp does not load {model.name}: {_last_words(log)}")
            server = LlamaServer(address, key)
            try:
                yield server
            finally:
                server.close()
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()


def _read_address(process: subprocess.Popen[bytes], key: str) -> str | None:
    """Send the server its key, and return the address that it prints; None where it ends before it has one."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{key}\n".encode())
        process.stdin.flush()
    for line in process.stdout:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(line)["address"])
    return None


def _last_words(log: IO[bytes]) -> str:
    """Return the first line about an error in a log, or its last line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return _STAMP.sub("", errors[0]) if errors else (lines or ["it says nothing"])[-1]
