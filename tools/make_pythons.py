"""Make the environments in which tests/system/release tries the wheel: each Python, and the lowest versions.

For every supported Python that is found here, a clean environment with what the package needs, of the versions in
constraints.txt; and one, with the oldest Python, of the lowest versions that pyproject.toml admits. A Python that is
not here is named, and its test is skipped. Needs a package index, so `make test-slow` runs it before the tests, which
need none.

    python tools/make_pythons.py [FOLDER] [--local]       (default: .venv/pythons)

`--local` adds the local trainer's libraries (several gigabytes where the index has PyTorch with CUDA only), and the
tests train there as the README does.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Extras that the environment of the lowest versions has too: those without torch and without a cloud's large SDK.
LOWEST_EXTRAS = ("openai", "serve", "sweep", "report", "data", "postgres")

#: The environment of the lowest versions, beside those that are named by their Python.
LOWEST = "lowest"


def supported() -> list[str]:
    """Return the Python versions of the package's classifiers, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    matches = [pattern.fullmatch(classifier) for classifier in project["classifiers"]]
    return sorted((match[1] for match in matches if match), key=lambda version: int(version.split(".")[1]))


def find_python(version: str) -> str | None:
    """Find the interpreter of a version: this one, one on the PATH, or one of pyenv; None if there is none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    if answers(f"python{version}", version):
        return f"python{version}"
    if shutil.which("pyenv"):
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False).stdout
        for name in reversed([name for name in listed.split() if name.startswith(f"{version}.")]):
            prefix = subprocess.run(["pyenv", "prefix", name], capture_output=True, text=True, check=False).stdout
            python = str(Path(prefix.strip()) / "bin" / "python")
            if answers(python, version):
                return python
    return None


def answers(python: str, version: str) -> bool:
    """Return whether a command is a Python of that version; a shim may exist without one."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def make(name: str, python: str, folder: Path, *, local: bool = False) -> None:
    """Make one environment, with `local` for training there too.

    Raises CalledProcessError when its packages cannot be resolved or installed.
    """
    environment = folder / name
    shutil.rmtree(environment, ignore_errors=True)
    requirements = folder / f"{name}.txt"
    selection = ["-c", "constraints.txt"]
    if name == LOWEST:
        selection = ["--resolution", "lowest-direct", *(f"--extra={extra}" for extra in LOWEST_EXTRAS)]
    elif local:
        selection += ["--extra=local", "--extra=report", "--extra=sweep"]
    uv("venv", "--python", python, str(environment))
    inside = str(environment / "bin" / "python")
    uv("pip", "compile", "pyproject.toml", "--python", inside, *selection, "-o", str(requirements))
    uv("pip", "install", "--python", inside, "-r", str(requirements))


def uv(*arguments: str) -> None:
    """Run uv as it is installed beside this Python; what it prints is shown only when it fails."""
    command = [str(Path(sys.executable).parent / "uv"), *arguments, "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    """Make all environments for which there is a Python."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".venv" / "pythons")
    parser.add_argument("--local", action="store_true", help="add the libraries of the local trainer")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    versions = supported()
    for name in (*versions, LOWEST):
        version = versions[0] if name == LOWEST else name
        python = find_python(version)
        if python is None:
            print(f"pythons: no Python {version} here: its test is skipped")
            continue
        print(f"pythons: making {name}", flush=True)
        try:
            make(name, python, folder, local=arguments.local)
        except (OSError, subprocess.CalledProcessError) as error:  # no index, no room: the other tests can still run
            shutil.rmtree(folder / name, ignore_errors=True)
            print(f"pythons: {name} could not be made ({error}): its test is skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
