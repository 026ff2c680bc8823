"""Install the wheel in clean environments, with each extra alone, and let the command line do something with it.

For every Python named (by default the one that runs this) and every extra: a new virtual environment, the wheel with
that one extra from the package index, then `--version`, `--help`, and a plan at the backends which that extra is for.
"none" is the package without extras. Prints a table at the end; exits with 1 when any line failed.

    python tools/try_extras.py [--python python3.12]... [--extra openai]... [--into FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Which backends a plan is made for, and which modules must import, with the extra alone.
BACKENDS = {
    "local": ["local"],
    "openai": ["openai", "nebius"],
    "azure": ["azure"],
    "vertex": ["vertex"],
    "bedrock": ["bedrock"],
    "sagemaker": ["sagemaker"],
    "hfjobs": ["hfjobs"],
    "cohere": ["cohere"],
    "tinker": ["tinker"],
    "tinker-dpo": ["tinker"],
    "together": ["together"],
}
#: Extras that bring torch (some gigabytes), need a GPU, or are tools for developers: only when they are named.
LARGE = {"local", "hfjobs", "tinker-dpo", "qlora", "gpu", "ray", "all", "dev", "bench", "e2e"}
ROW = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "shipping"}]}


def main() -> int:
    """Build once, then try every combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated")
    parser.add_argument("--extra", action="append", help="only this extra ('none' for no extra); may be repeated")
    parser.add_argument("--into", type=Path, help="keep the environments in this folder")
    parsed = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = parsed.extra or [
        "none",
        *(extra_name for extra_name in project["optional-dependencies"] if extra_name not in LARGE),
    ]
    folder = parsed.into or Path(tempfile.mkdtemp(prefix="llmtune-extras-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wheel = build(folder / "dist")
        results = [
            (python, extra, attempt(wheel, python, extra, folder))
            for python in parsed.python or [sys.executable]
            for extra in extras
        ]
    finally:
        if parsed.into is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n| python | extra | result |\n|---|---|---|")
    for python, extra, fault in results:
        print(f"| {python} | {extra} | {fault or 'ok'} |")
    return 1 if any(fault for _, _, fault in results) else 0


def build(into: Path) -> Path:
    """Build the wheel of this tree."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(into), str(ROOT)]
    subprocess.run(command, check=True)
    return next(into.glob("*.whl"))


def attempt(wheel: Path, python: str, extra: str, folder: Path) -> str:
    """Try one combination; return the error, or an empty string."""
    if shutil.which(python) is None:
        return f"not tried: there is no {python} here"
    environment = folder / f"{Path(python).name}-{extra}"
    shutil.rmtree(environment, ignore_errors=True)
    creation = subprocess.run([python, "-m", "venv", str(environment)], capture_output=True, text=True, check=False)
    if creation.returncode:
        return f"{python} makes no environment: {' '.join((creation.stderr or creation.stdout).split())[-200:]}"
    requirement = str(wheel) if extra == "none" else f"llmtune-sdk[{extra}] @ {wheel.resolve().as_uri()}"
    inside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    inside |= {"LLMTUNE_HOME": str(environment / "home"), "COLUMNS": "80"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, env=inside, cwd=environment, check=False)

    steps = [[str(environment / "bin/python"), "-m", "pip", "install", "-q", requirement]]
    steps.append([str(environment / "bin/python"), "-m", "pip", "check"])
    llmtune = str(environment / "bin/llmtune")
    steps += [[llmtune, "--version"], [llmtune, "--help"], [llmtune, "doctor"]]
    for step in steps:
        done = run(*step)
        if done.returncode:
            return " ".join((f"{' '.join(step[1:3])}: " + (done.stderr or done.stdout)).split())[-300:]
    (environment / "rows.jsonl").write_text("\n".join(json.dumps(ROW) for _ in range(40)) + "\n", "utf-8")
    (environment / "job.yaml").write_text("name: extras\ndataset: rows.jsonl\nmodel: tiny\n", "utf-8")
    backends = BACKENDS.get(extra, ["local"])
    planned = run(llmtune, "plan", "job.yaml", "--provider", ",".join(backends), "--json")
    if planned.returncode:
        return " ".join(planned.stderr.split())[-300:]
    for name, answer in json.loads(planned.stdout)["plans"].items():
        if extra in BACKENDS and answer.get("ready", {}).get("extra") == "missing":
            return f"with its extra, {name} still says that it is missing: {answer['ready']['hint']}"
    print(f"{Path(python).name} {extra}: ok", flush=True)
    return ""


if __name__ == "__main__":
    sys.exit(main())
