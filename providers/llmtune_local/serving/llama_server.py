"""Serve one GGUF file with llama.cpp until standard input ends: `python -m llmtune_local.serving.llama_server FILE`.

A process of its own: what breaks inside llama.cpp ends the process. The first line of standard input is the key that
requests must carry. On standard output comes one line of JSON with the address, once the file is loaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def main() -> None:
    """Start the server on this machine's own address, print where it listens, and wait."""
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--lora")
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    library: Any = xllamacpp
    params = library.CommonParams()
    params.model.path = arguments.model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [sys.stdin.readline().strip()]
    params.n_ctx = arguments.context
    params.n_parallel = 1
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.use_jinja = True
    params.warmup = False
    params.fit_params = False
    if arguments.lora:
        params.lora_adapters = [library.CommonAdapterLoraInfo(arguments.lora, 1.0)]
    server = library.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)  # noqa: T201
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
