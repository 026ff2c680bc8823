"""`llmtune data mix`: write several files of rows as one, each with a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmtune.cli.data.options import JsonOption, OnEmptyOption, SystemOption, fail
from llmtune.cli.data.output import SHOWN, print_findings


def mix(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[=WEIGHT]...",
            help="Files, each with its weight: 1 (by default) takes its rows once, 2 twice, 0.2 a fifth of them.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write: .jsonl .json .csv .tsv .parquet, also .gz .zst.")
    ],
    to: Annotated[str | None, typer.Option(help="Row format to write; by default the first file's own.")] = None,
    allow_lossy_data: Annotated[
        bool, typer.Option("--allow-lossy-data", help="Leave out content that the row format cannot hold.")
    ] = False,
    on_empty: OnEmptyOption = "error",
    system: SystemOption = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write several files of rows as one training file, each by its weight, evenly spread and always the same."""
    from llmtune.cli.output import out, print_json
    from llmtune.data.mix import mix as run
    from llmtune.errors import InvalidData

    try:
        done = run(
            [_parse(text) for text in files],
            target,
            to=to,
            on_empty=on_empty,
            system=system,
            allow_lossy=allow_lossy_data,
            overwrite=overwrite,
        )
    except InvalidData as fault:
        if as_json:
            print_json({"schema": 1, "ok": False, "findings": [finding.as_dict() for finding in fault.findings]})
        else:
            print_findings(fault.findings, {}, SHOWN)
        if fault.findings:
            fail("nothing was written")
        raise
    written = done.written
    if as_json:
        findings = [finding.as_dict() for finding in written.findings]
        files_ = [file._asdict() for file in done.files]
        print_json({"schema": 1, "ok": True, **written._asdict(), "findings": findings, "files": files_})
        return
    print_findings(written.findings, {}, SHOWN)
    for file in done.files:
        share = 100 * file.mixed / written.rows
        out.print(
            f"{file.mixed:>9,} rows {share:>5.1f} %  {file.path} ({file.rows:,} rows x {file.weight:g})",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    out.print(f"{written.rows:>9,} rows as {written.format}: {written.path}", soft_wrap=True, markup=False)


def _parse(text: str) -> tuple[str, float]:
    """Return the path and the weight of FILE[=WEIGHT]; a file whose name has an equals sign is taken as it is."""
    from llmtune.errors import LlmtuneError

    path, equals, weight = text.rpartition("=")
    is_file = "\0" not in text and Path(text).exists()
    if not equals or is_file or (text.startswith("hf://") and not _is_number(weight)):
        return text, 1.0
    if not _is_number(weight):
        raise LlmtuneError(f"{text!r}: {weight!r} is no weight", hint="write FILE=NUMBER, such as general.jsonl=0.2")
    return path, float(weight)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
