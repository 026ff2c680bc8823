"""The `llmtune` command. It parses, calls the library, and prints; one file per group of commands."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

from llmtune._safety.telemetry import turn_off_telemetry
from llmtune.deprecation import LlmtuneDeprecationWarning
from llmtune.errors import EXIT_INTERRUPTED, InvalidSettings, LlmtuneError
from llmtune.redaction.control_chars import escape_controls

__all__ = ["main"]


def main() -> None:
    """Run the command line; a mistake of the user's prints one sentence and exits with the code of its class."""
    turn_off_telemetry()

    warnings.showwarning = _show_warning
    # Python shows deprecation warnings only to developers; here the user who typed the command must see them.
    warnings.filterwarnings("default", category=LlmtuneDeprecationWarning)
    try:
        from llmtune.cli.app import app

        _refuse_broken_arguments(sys.argv[1:])
        app(prog_name="llmtune", standalone_mode=True)
    except LlmtuneError as error:
        fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our pipe went away: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        fail(LlmtuneError(_os_sentence(error)))
    except UnicodeError as error:
        fail(LlmtuneError(f"a text that is not UTF-8: {error}", hint="write names and texts in UTF-8"))
    except Exception as error:  # noqa: BLE001 - what Python prints by itself is neither scrubbed nor escaped
        if isinstance(error, ImportError) and (broken := _broken_installation(error)) is not None:
            fail(broken)
        _print_traceback()
        sys.exit(1)


def _refuse_broken_arguments(arguments: list[str]) -> None:
    """Refuse an argument with bytes that are no UTF-8: only the name of a file may hold such.

    Raises `InvalidSettings`, which names the option.
    """
    for index, argument in enumerate(arguments):
        if argument.isascii() or not any("\ud800" <= character <= "\udfff" for character in argument):
            continue
        option, _, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        if value and Path(value).exists():
            continue
        before = arguments[index - 1] if index else ""
        name = option or (before if before.startswith("-") else f"argument {index + 1}")
        raise InvalidSettings(f"{name} holds bytes that are not UTF-8: {argument!a}", hint="write it in UTF-8")


def fail(error: LlmtuneError) -> None:
    """Print the sentence and exit with the code of the error; the traceback only under LLMTUNE_DEBUG."""
    from llmtune.redaction.secrets import scrub_error

    scrub_error(error)
    if os.environ.get("LLMTUNE_DEBUG"):
        logging.getLogger("llmtune").exception("failed")
        _print_traceback()
    if "--json" in sys.argv[1:]:
        print_error(error)
        sys.exit(error.exit_code)
    from llmtune.cli.output import err

    err.print(f"[bold red]error:[/] {_escaped(error.message)}", soft_wrap=True)
    if error.hint:
        err.print(f"[dim]{_escaped(error.hint)}[/]", soft_wrap=True)
    sys.exit(error.exit_code)


def print_error(error: LlmtuneError) -> None:
    """Print the error as one line of JSON, the last one on standard error; its schema is `llmtune schema error`."""
    from llmtune.redaction.documents import dump_json

    fields = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    sys.stderr.flush()
    sys.stderr.buffer.write(dump_json({"error": fields}, indent=False).encode() + b"\n")
    sys.stderr.buffer.flush()


def _broken_installation(error: ImportError) -> LlmtuneError | None:
    """Explain an import that failed because of a broken installation; None when the installation is sound."""
    from llmtune.installation.conflicts import find_conflict

    conflict = find_conflict()
    if conflict is None or not (conflict.sharing or conflict.replaced):
        return None
    return LlmtuneError(f"{error}: {conflict.message}", hint=conflict.hint)


def _print_traceback() -> None:
    import traceback

    from llmtune.redaction.secrets import scrub

    print(escape_controls(scrub(traceback.format_exc())), end="", file=sys.stderr)  # noqa: T201


def _os_sentence(error: OSError) -> str:
    import errno

    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}the disk is full; free some space and try again (nothing was lost)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}no permission to write there; choose another folder with LLMTUNE_HOME"
    return f"{where}{error.strerror or error}"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    from llmtune.cli.output import err
    from llmtune.errors import LlmtuneWarning, UnsupportedHyperparameterWarning

    if not issubclass(category, LlmtuneWarning | UnsupportedHyperparameterWarning):
        # A library's own deprecations are for developers, who can ask for them.
        logging.getLogger("llmtune").debug("%s:%s: %s: %s", filename, lineno, category.__name__, message)
        return
    err.print(f"[yellow]warning:[/] {_escaped(str(message))}", soft_wrap=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
