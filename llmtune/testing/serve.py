"""Run a fake vendor, and print the settings with which its provider reaches it.

python -m llmtune.testing.serve NAME [--port 8399] [--shell powershell] [--lag 2] [--fail]
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from typing import Literal

from llmtune.config import setting_variable
from llmtune.errors import InvalidSettings, LlmtuneError, UnknownName
from llmtune.provider.registry import known_kinds
from llmtune.testing.fake_vendor import FakeVendor

Shell = Literal["sh", "powershell"]


def find_fake(name: str) -> type[FakeVendor]:
    """Find the fake of a provider: the `FakeVendor` of that `name` in the module `fake` next to the provider's.

    Raises:
        UnknownName: there is no such provider.
        LlmtuneError: the provider has no fake.
    """
    if name not in known_kinds():
        raise UnknownName("provider", name, list_fakes(), hint=_known_fakes())
    fake = _find(name)
    if fake is None:
        raise LlmtuneError(f"the provider {name!r} has no fake of its vendor", hint=_known_fakes())
    return fake


def list_fakes() -> list[str]:
    """Return the names of the providers that have a fake of their vendor, sorted."""
    return sorted(name for name in known_kinds() if _find(name) is not None)


def _known_fakes() -> str:
    return f"there are fakes for {', '.join(list_fakes())}"


def _find(name: str) -> type[FakeVendor] | None:
    module = known_kinds()[name].module
    package = module.rpartition(".")[0]
    # `generic_vendor` is the service behind the provider `fake`, which belongs to no vendor.
    for module_name in filter(
        None, [f"{module}.fake", package and f"{package}.fake", package and f"{package}.generic_vendor"]
    ):
        try:
            fake_module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name not in (module_name, module):
                raise
            continue
        fakes = [
            member
            for member in vars(fake_module).values()
            if isinstance(member, type) and issubclass(member, FakeVendor) and member is not FakeVendor
        ]
        matching = [fake for fake in fakes if fake.name == name] or [
            fake for fake in fakes if fake.__module__ == fake_module.__name__
        ]
        if matching:
            return matching[0]
    return None


def write_settings(name: str, vendor: FakeVendor, shell: Shell = "sh") -> str:
    """Return the lines that let this provider reach a running fake, to be pasted into a shell.

    Args:
        name: the provider's name, by which its settings are looked for in the environment.
        vendor: its fake.
        shell: how variables are set there: sh (bash, zsh) or powershell.
    """
    variables = {setting_variable(name, key): value for key, value in vendor.client_settings().items()}
    variables |= vendor.client_environment()
    if shell == "powershell":
        return "\n".join(f"$env:{key} = '{value.replace(chr(39), chr(39) * 2)}'" for key, value in variables.items())
    return "\n".join(f"export {key}={shlex.quote(value)}" for key, value in variables.items())


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted, and print each request."""
    parser = argparse.ArgumentParser(
        prog="python -m llmtune.testing.serve",
        description="Run a fake vendor, and print the settings with which its provider reaches it.",
    )
    parser.add_argument("name", help="the provider whose vendor is faked")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 is any free one")
    parser.add_argument(
        "--shell",
        choices=("sh", "powershell"),
        default="powershell" if sys.platform == "win32" else "sh",
        help="the shell that the settings are printed for (default: %(default)s)",
    )
    parser.add_argument("--lag", type=float, default=0.0, help="seconds until a new job shows up in lists")
    parser.add_argument("--fail", action="store_true", help="let every job fail")
    args = parser.parse_args(arguments)
    try:
        vendor = find_fake(args.name)()
        vendor.lag = args.lag
        vendor.outcome = "failure" if args.fail else "success"
        _listen(vendor, args.port)
    except LlmtuneError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(  # noqa: T201
        f"{args.name} at {vendor.url}; press Ctrl-C to stop\n"
        f"paste into another terminal, for llmtune tune JOB --provider {args.name}:\n\n"
        f"{write_settings(args.name, vendor, args.shell)}\n",
        flush=True,
    )
    printed = 0
    try:
        while True:
            time.sleep(0.2)
            for call in list(vendor.requests)[printed:]:
                printed += 1
                print(f"{call.method} {call.path} -> {call.status}", flush=True)  # noqa: T201
    except KeyboardInterrupt:
        return 0
    finally:
        vendor.close()


def _listen(vendor: FakeVendor, port: int) -> None:
    try:
        vendor.start(port=port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidSettings(f"cannot listen on 127.0.0.1:{port}: {reason}", hint="choose another --port") from None


if __name__ == "__main__":
    sys.exit(main())
