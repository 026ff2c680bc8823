"""Job files on disk: YAML 1.2 (`1e-4` is a number, `yes` a string) and JSON."""

from __future__ import annotations

from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any

from llmtune._safety.time_limit import TimeLimit, limit_time
from llmtune.errors import InvalidJob
from llmtune.job.values import DEPTH, check_values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


#: Bytes that a job file may have; the longest published configurations have 20 kB.
LARGEST = 1 << 20
#: Seconds of computing in which it must be read.
READ_SECONDS = 1.0


def read_mapping(path: Path, noun: str = "job file") -> dict[str, Any]:
    """Return the top-level mapping of a YAML or JSON file, with duplicates and syntax errors named by line.

    `noun` is what errors call the file. Raises `InvalidJob` in a second or two whatever the file is: configurations are
    passed around, and one may be a pipe that nobody writes to, a small text that expands to gigabytes, or nested until
    Python gives up.
    """
    data = _parse(path, read_text(path, noun), noun)
    if not isinstance(data, dict):
        content = "nothing" if data is None else f"a {type(data).__name__}"
        raise InvalidJob(f"{path}: a {noun} is a mapping of fields, but this holds {content}")
    check_values(data, str(path))
    return data


def read_text(path: Path, noun: str) -> str:
    """Return the text of a regular file of at most `LARGEST` bytes. Raises `InvalidJob`."""
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            sort = "a folder" if S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
            raise InvalidJob(f"{path}: not a regular file but {sort}", hint="save it to a file and name that")
        if status.st_size > LARGEST:
            raise InvalidJob(f"{path}: {status.st_size:,} bytes, and a {noun} has at most {LARGEST:,}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = "llmtune init DATA writes one" if noun == "job file" else "check the path; docs/grade.md has examples"
        raise InvalidJob(f"{path}: no such {noun}", hint=hint) from None
    except UnicodeDecodeError as error:
        raise InvalidJob(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InvalidJob(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the name
        raise InvalidJob(f"{str(path)!r} is not the name of a file") from None


def _parse(path: Path, text: str, noun: str) -> Any:
    try:
        with limit_time(READ_SECONDS):
            return parse_json(path, text) if path.suffix == ".json" else parse_yaml(path, text)
    except TimeLimit:
        raise InvalidJob(f"{path}: takes too long to read: too long, or too deeply nested, for a {noun}") from None
    except RecursionError:
        raise InvalidJob(f"{path}: nested too deeply for a {noun} (at most {DEPTH} levels)") from None


def parse_json(path: Path, text: str) -> Any:
    """Parse JSON. Raises `InvalidJob` with the line."""
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidJob(f"{path}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}") from None
    except ValueError:  # Python's own limit of digits
        raise InvalidJob(f"{path}: a whole number of more than 64 bits") from None


def parse_yaml(path: Path, text: str) -> Any:
    """Parse YAML 1.2. Raises `InvalidJob` with the line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InvalidJob(f"{where}: broken YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise InvalidJob(f"{path}: broken YAML: {error}") from None
    except (ValueError, OverflowError) as error:
        problem = (
            "a whole number of more than 64 bits" if "digits" in str(error) else f"a value cannot be read: {error}"
        )
        raise InvalidJob(f"{path}: {problem}") from None


def locate_faults(path: Path, error: InvalidJob) -> str:
    """Return the message of an error about a job file, with the line of each wrong field."""
    if not error.faults:
        return f"{path}: {error.message}"
    lines = [_find_line(path, loc) for loc, _ in error.faults]
    locations = [f"{path}:{line}" if line else str(path) for line in lines]
    if len(locations) == 1:
        return f"{locations[0]}: {error.message}"
    ordered = sorted(zip(lines, locations, error.faults, strict=True), key=lambda fault: fault[0] or 0)
    return "; ".join(f"{location}: {sentence}" for _, location, (_, sentence) in ordered)


def _find_line(path: Path, loc: Sequence[int | str]) -> int | None:
    """Return the line of the field at `loc`, or of the innermost mapping on the way to it that the file has."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    try:
        with limit_time(READ_SECONDS):
            node = YAML(typ="safe", pure=True).compose(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, YAMLError, TimeLimit, RecursionError):
        return None
    line = None
    for part in loc:
        if isinstance(node, MappingNode):
            key, node = next(((key, value) for key, value in node.value if key.value == str(part)), (None, None))
            if key is None:
                break
            line = key.start_mark.line + 1
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def write_mapping(data: dict[str, Any], path: Path) -> None:
    """Write a mapping as JSON or YAML, by the ending of `path`."""
    if path.suffix == ".json":
        import json

        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(data, file)
