"""A machine of the fake: a job's command in a process group on this machine, with the bucket's folders for its mounts.

`uv` is played by this interpreter with the job's own wheel unpacked on its path, so that what was packed is what runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Seconds that a machine leaves a job between SIGTERM and its end.
GRACE = 30.0
#: Variables of this machine that a job's process needs to start and to stay within the machine.
_PASSED = ("PATH", "SYSTEMROOT", "TMPDIR", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH")


class Machine:
    """The processes of one job, an attempt after the other."""

    def __init__(self, body: Mapping[str, Any], buckets: Path, wheels: Path) -> None:
        self.body, self.wheels = body, wheels
        self.mounts = {
            volume["mountPath"]: buckets / volume["source"] / volume.get("path", "") for volume in body["volumes"]
        }
        self.attempts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start an attempt."""
        self.attempts += 1
        command = [self._seen_here(argument) for argument in self.body["command"]]
        at = command.index("uv")
        python = command.index("python", at)
        wheel = next(argument for argument in command[at:python] if "file://" in argument).partition("file://")[2]
        home = self.wheels / Path(wheel).parent.name
        if not home.is_dir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(home)
        command = [*command[:at], sys.executable, *command[python + 1 :]]
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(home)}
        environment |= self.body["environment"] | self.body.get("secrets", {})
        with (self.wheels / "jobs.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def _seen_here(self, argument: str) -> str:
        for mount, folder in self.mounts.items():
            argument = argument.replace(mount, str(folder))
        return argument

    @property
    def exit_status(self) -> int | None:
        """The exit status of the last attempt; None while it runs."""
        return None if self._process is None else self._process.poll()

    def end(self, *, grace: float = GRACE) -> None:
        """End the attempt: ask its process, then kill what is left of its group. No grace: as a power cut does."""
        if self._process is None:
            return
        if self._process.poll() is None and grace:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder into another one."""
    shutil.copytree(source, target, dirs_exist_ok=True)
