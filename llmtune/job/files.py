"""Job files on disk: YAML 1.2 (`1e-4` is a number, `yes` a string) and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.errors import InvalidJob

if TYPE_CHECKING:
    from pathlib import Path


def read_mapping(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML or JSON file, with duplicates and syntax errors named by line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidJob(f"{path}: no such job file", hint="llmtune init DATA writes one") from None
    except UnicodeDecodeError as error:
        raise InvalidJob(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InvalidJob(f"{path}: cannot be read: {error.strerror}") from None
    data = parse_json(path, text) if path.suffix == ".json" else parse_yaml(path, text)
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise InvalidJob(f"{path}: a job file is a mapping of fields, but this holds {found}")
    return data


def parse_json(path: Path, text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidJob(f"{path}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}") from None


def parse_yaml(path: Path, text: str) -> Any:
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
