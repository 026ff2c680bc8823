"""Build what a release consists of, and check it; uploads nothing.

From the commit that is checked out, not from the working tree: wheel and sdist, each built twice in folders of their
own and compared byte by byte; their contents; their metadata (`twine check`); docs/api.json; the section of
CHANGELOG.md, which becomes the release notes. Everything lies in dist/ at the end, with SHA256SUMS. What stands against
a release is listed; the exit code is 1 then.

    python tools/release.py [--into dist]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What an sdist has, so that it can be built, tested and read without the repository.
SDIST_FILES = (
    *("pyproject.toml", "Makefile", "constraints.txt", "mkdocs.yml"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE"),
    *("llmtune/__init__.py", "providers/README.md", "docs/start.md", "docs/api.json", "examples/README.md"),
    *("tests/conftest.py", "tools/release.py"),
)

#: Folders and names that no wheel has.
FOREIGN = re.compile(r"(^|/)(tests?|__pycache__|examples|docs)/|\.(pyc|pyo|db|orig|rej|log)$|(^|/)\.")

#: What makes the stored things of a version.
MAKE_STORED = "python tests/system/stored/make.py, and commit what it makes"

#: A section of the changelog: its version, and its date once it is released.
SECTION = re.compile(r"^## (?P<version>\S+) \((?P<date>[^)]+)\)\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Build and check everything; return 1 if anything prevents the release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=ROOT / "dist", help="the folder of what is built (dist)")
    into = parser.parse_args().into
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    version = version_of(ROOT)
    faults = [*tree_faults(), *version_faults(version)]
    with tempfile.TemporaryDirectory(prefix="llmtune-release-") as folder:
        first, second = (build(Path(folder) / name) for name in ("first", "second"))
        faults += reproducible_faults(first, second)
        for path in first:
            shutil.copy(path, into)
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    faults += [*wheel_faults(wheel, version), *sdist_faults(sdist), *command_faults(wheel, sdist)]
    notes = section_of(version, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    (into / f"NOTES-{version}.md").write_text(f"# llmtune {version}\n{notes}", encoding="utf-8")
    shutil.copy(ROOT / "docs" / "api.json", into / f"api-{version}.json")
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in sorted(into.iterdir()))
    (into / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(sums, end="")
    for fault in faults:
        print(f"not ready: {fault}")
    if "Repository" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]:
        print("note: [project.urls] in pyproject.toml names no Repository, so nobody who installs it finds the code")
    if not faults:
        print(f"llmtune-sdk {version} lies in {into}; nothing was uploaded")
    return 1 if faults else 0


# --- the commit ------------------------------------------------------------------------------------------------------
def version_of(root: Path) -> str:
    """Read the version from llmtune/_version.py, without importing it."""
    text = (root / "llmtune" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert match is not None, "llmtune/_version.py holds no __version__"
    return match[1]


def git(*arguments: str) -> str:
    """Run a git command in this checkout and return its output."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def tree_faults() -> Iterable[str]:
    """List uncommitted changes, which would not be in the release."""
    if changed := [line[3:] for line in git("status", "--porcelain").splitlines()]:
        yield f"{changed[0]} and {len(changed) - 1} more are not committed; what is built is the last commit"


def version_faults(version: str) -> Iterable[str]:
    """List what the repository lacks for a release of this version."""
    yield from changelog_faults(version, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    stored = f"tests/system/stored/made_with_{version}"
    if not (ROOT / stored).is_dir():
        yield f"{stored} is missing, so later versions have nothing of this one to open: {MAKE_STORED}"


def changelog_faults(version: str, changelog: str) -> Iterable[str]:
    """List the problems of the newest section of the changelog."""
    newest = SECTION.search(changelog)
    if newest is None or newest["version"] != version:
        yield f"the newest section of CHANGELOG.md is not `## {version} (YYYY-MM-DD)`"
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest["date"]):
        yield f"the section of {version} in CHANGELOG.md has no date but {newest['date']!r}"
    elif not newest["text"].strip():
        yield f"the section of {version} in CHANGELOG.md is empty"


def section_of(version: str, changelog: str) -> str:
    """Return the text of a version's section; empty if it has none."""
    return next((section["text"] for section in SECTION.finditer(changelog) if section["version"] == version), "")


# --- building --------------------------------------------------------------------------------------------------------
def build(into: Path) -> list[Path]:
    """Build wheel and sdist from an export of the commit; times in them are the commit's."""
    tree, dist = into / "tree", into / "dist"
    tree.mkdir(parents=True)
    archive = into / "tree.tar"
    subprocess.run(["git", "archive", "-o", str(archive), "HEAD"], cwd=ROOT, check=True)
    with tarfile.open(archive) as exported:
        exported.extractall(tree, filter="data")
    environment = os.environ | {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct").strip()}
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(dist)]
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted(dist.iterdir())


def digest(path: Path) -> str:
    """Hash a file with SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reproducible_faults(first: list[Path], second: list[Path]) -> Iterable[str]:
    """List files that differ between two builds of one commit."""
    for path, rebuilt in zip(first, second, strict=True):
        if path.name != rebuilt.name or digest(path) != digest(rebuilt):
            yield f"two builds of {path.name} differ"


# --- contents --------------------------------------------------------------------------------------------------------
def wheel_faults(wheel: Path, version: str) -> Iterable[str]:
    """List what a wheel lacks or should not contain."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        cards = {name: archive.read(name).decode() for name in names if name.endswith("/MODEL_CARD.md")}
    if metadata["Version"] != version:
        yield f"{wheel.name} says that it is {metadata['Version']}, and llmtune/_version.py {version}"
    for name in names:
        top = name.split("/")[0]
        if FOREIGN.search(name) or not (top == info or top == "llmtune" or top.startswith("llmtune_")):
            yield f"{wheel.name} holds {name}"
    licences = {name.removeprefix(f"{info}/licenses/") for name in names if name.startswith(f"{info}/licenses/")}
    bundled = {name for name in names if name.rsplit("/", 1)[-1].startswith(("LICENSE", "LICENCE", "COPYING"))}
    for name in sorted({"LICENSE", "NOTICE"} | {name for name in bundled if not name.startswith(info)}):
        if name not in licences:
            yield f"{wheel.name}: {name} is not among the license-files"
    if "llmtune/py.typed" not in names:
        yield f"{wheel.name} has no llmtune/py.typed"
    models = {name.rsplit("/", 1)[0] for name in names if name.endswith(".safetensors")}
    if not models:
        yield f"{wheel.name} has no model"
    for folder in sorted(models):
        yield from card_faults(f"{folder}/MODEL_CARD.md", cards.get(f"{folder}/MODEL_CARD.md"))


def card_faults(name: str, card: str | None) -> Iterable[str]:
    """List what a model card lacks: the model's licence, and the version and licence of each source."""
    if card is None:
        yield f"{name} is missing"
        return
    if not re.search(r"^- Licence: \S", card, re.MULTILINE):
        yield f"{name} names no licence of the model"
    table = re.search(r"^\| Source \| Version \| Licence \|.*\n\|[-|]+\|\n(?P<rows>(?:\|.*\n)+)", card, re.MULTILINE)
    if table is None:
        yield f"{name} has no table of sources with their versions and licences"
        return
    for row in table["rows"].splitlines():
        source, release, licence = (cell.strip() for cell in row.strip("|").split("|")[:3])
        if not release or licence.lower() in ("", "unknown", "-", "?"):
            yield f"{name}: {source} has no version or no licence"


def sdist_faults(sdist: Path) -> Iterable[str]:
    """List what an sdist lacks."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in SDIST_FILES:
        if name not in names:
            yield f"{sdist.name} lacks {name}"
    if stray := sorted(name for name in names if name.endswith((".pyc", ".db", ".orig"))):
        yield f"{sdist.name} holds {stray[0]}"


def command_faults(wheel: Path, sdist: Path) -> Iterable[str]:
    """List the errors of other tools: twine for the metadata, and the check of the public API."""
    commands = {
        "twine check": ["twine", "check", "--strict", str(wheel), str(sdist)],
        "docs/api.json": [str(ROOT / "tools" / "docs" / "public_api.py"), "--check"],
    }
    for name, (script, *arguments) in commands.items():
        module = [] if script.endswith(".py") else ["-m"]
        command = [sys.executable, *module, script, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"{name}: {' '.join((done.stdout + done.stderr).split())[-600:]}"


if __name__ == "__main__":
    sys.exit(main())
