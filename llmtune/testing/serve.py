"""Run a fake vendor by hand: `python -m llmtune.testing.serve NAME [--port 8399] [--lag 2] [--fail]`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from llmtune.errors import LlmtuneError, UnknownName
from llmtune.provider.registry import known_kinds
from llmtune.testing.fake_vendor import FakeVendor


def fake_class(name: str) -> type[FakeVendor]:
    """The fake of a provider: the `FakeVendor` in the module `fake` beside its adapter, whose `name` it is."""
    kinds = known_kinds()
    if name not in kinds:
        raise UnknownName("provider", name, kinds)
    module = kinds[name].module
    package = module.rpartition(".")[0]
    # `generic_vendor` is the service behind the provider `fake`, which is no vendor's.
    for place in filter(
        None, [f"{module}.fake", package and f"{package}.fake", package and f"{package}.generic_vendor"]
    ):
        try:
            found = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name not in (place, module):
                raise
            continue
        fakes = [
            each
            for each in vars(found).values()
            if isinstance(each, type) and issubclass(each, FakeVendor) and each is not FakeVendor
        ]
        own = [each for each in fakes if each.name == name] or [e for e in fakes if e.__module__ == found.__name__]
        if own:
            return own[0]
    raise LlmtuneError(f"the provider {name!r} ships no fake of its vendor")


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted, showing each request."""
    parser = argparse.ArgumentParser(prog="python -m llmtune.testing.serve", description=__doc__)
    parser.add_argument("name", help="the provider whose vendor is faked")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 is any free one")
    parser.add_argument("--lag", type=float, default=0.0, help="seconds until a new job shows up in lists")
    parser.add_argument("--fail", action="store_true", help="let every job fail")
    asked = parser.parse_args(arguments)
    try:
        vendor = fake_class(asked.name)()
    except LlmtuneError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    vendor.lag = asked.lag
    vendor.outcome = "failure" if asked.fail else "success"
    vendor.start(port=asked.port)
    print(f"{asked.name} at {vendor.url}; Ctrl-C ends it", flush=True)  # noqa: T201
    shown = 0
    try:
        while True:
            time.sleep(0.2)
            for call in list(vendor.requests)[shown:]:
                shown += 1
                print(f"{call.method} {call.path} -> {call.status}", flush=True)  # noqa: T201
    except KeyboardInterrupt:
        return 0
    finally:
        vendor.close()


if __name__ == "__main__":
    sys.exit(main())
