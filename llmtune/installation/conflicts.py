"""Find other distributions that install the package `llmtune`, and our files that they have replaced.

The index has `llmtune`, another project's placeholder, and `llmtune-local`, another project that installs the import
package `llmtune` and a command `llmtune`; this project is `llmtune-sdk`. pip installs any two of them side by side, the
later one over the files of the earlier one, and removing one removes files of the other.

Imports only the standard library: this has to work where modules of ours are gone.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

#: The distribution of this project.
DISTRIBUTION = "llmtune-sdk"

#: A file of our package, as our RECORD names it.
_THIS_FILE = "llmtune/installation/conflicts.py"


@dataclass(frozen=True)
class Conflict:
    """Other distributions of that name, and our files that have changed since they were installed."""

    sharing: tuple[str, ...]
    """Distributions that install files of the package `llmtune` too: "llmtune-local 0.1.5"."""

    namesakes: tuple[str, ...]
    """Distributions that are called `llmtune` and install nothing of the package."""

    replaced: tuple[str, ...]
    """Files that our RECORD lists and that are missing or changed."""

    version: str | None
    """Our installed version; None: it is not known."""

    @property
    def broken(self) -> bool:
        """Whether files of ours are missing or changed."""
        return bool(self.replaced)

    @property
    def message(self) -> str:
        """What is wrong, in one sentence."""
        count, example = len(self.replaced), next(iter(self.replaced), "")
        files = f"{count} {'file' if count == 1 else 'files'} of {DISTRIBUTION} ({example}{', ...' * (count > 1)})"
        sharing = f"the package llmtune is also installed by {' and '.join(self.sharing)}"
        if self.sharing and self.replaced:
            return f"{sharing}, over {files}"
        if self.replaced:
            return f"{files} changed or went away after the installation"
        if self.sharing:
            return f"{sharing}: removing or upgrading either breaks the other"
        return f"{' and '.join(self.namesakes)} is another project's distribution; this one is {DISTRIBUTION}"

    @property
    def hint(self) -> str:
        """The commands that leave only this project installed, and complete."""
        names = " ".join(name.split()[0] for name in (*self.namesakes, *self.sharing))
        pinned = DISTRIBUTION if self.version is None else f"{DISTRIBUTION}=={self.version}"
        steps = [f"pip uninstall {names}"] if names else []
        if self.sharing or self.replaced:
            steps.append(f"pip install --force-reinstall --no-deps {pinned}")
        return " && ".join(steps)


def find_conflict(installed: Iterable[Distribution] | None = None) -> Conflict | None:
    """Return which other distributions install `llmtune` here, and which files they changed; None when there is none.

    `installed`: the distributions to look at; all that Python finds when None.
    """
    sharing: set[str] = set()
    namesakes: set[str] = set()
    replaced: list[str] = []
    version = None
    for distribution in distributions() if installed is None else installed:
        name = distribution.metadata["Name"] or ""
        record = distribution.read_text("RECORD") or ""
        if _normalized(name) == DISTRIBUTION:
            version = version or distribution.version
            if _is_this_module(distribution):
                replaced = list(_find_replaced_files(distribution, record))
        elif re.search(r"^llmtune/", record, re.MULTILINE):
            sharing.add(f"{name} {distribution.version}")
        elif _normalized(name) == "llmtune":
            namesakes.add(f"{name} {distribution.version}")
    if not (sharing or namesakes or replaced):
        return None
    replaced.sort(key=lambda path: (not path.startswith("llmtune"), path))
    return Conflict(tuple(sorted(sharing)), tuple(sorted(namesakes)), tuple(replaced), version)


def explain_import_error(error: ImportError) -> None:
    """Add a note to an import error of ours when the installation is broken."""
    conflict = find_conflict()
    if conflict is not None and (conflict.sharing or conflict.replaced):
        error.add_note(f"{conflict.message}: {conflict.hint}")


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_this_module(distribution: Distribution) -> bool:
    """Return whether that distribution installed this very module; False in an editable installation."""
    here, there = os.path.realpath(__file__), os.path.realpath(str(distribution.locate_file(_THIS_FILE)))
    return here == there


def _find_replaced_files(distribution: Distribution, record: str) -> Iterator[str]:
    """Yield the modules and commands of a distribution whose content differs from its RECORD."""
    for row in csv.reader(record.splitlines()):
        if len(row) != 3 or not row[1].startswith("sha256="):
            continue
        name, digest = row[0], row[1].removeprefix("sha256=")
        if not name.endswith(".py") and Path(name).stem not in ("llmtune", DISTRIBUTION):
            continue
        try:
            content = Path(str(distribution.locate_file(name))).read_bytes()
        except OSError:
            yield name
            continue
        if base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=") != digest:
            yield name
