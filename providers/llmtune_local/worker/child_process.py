"""How our own Python processes are started: they import nothing of the current folder, and get no vendor's key."""

from __future__ import annotations

import os
import re
import sys

from llmtune._safety.telemetry import turn_off_telemetry
from llmtune.redaction.secrets import holds_secret

#: The command that starts a module of ours. Without -P the current folder would be first on its path: a numpy.py in it,
#: whether a stranger's or the user's own module, would be run in place of the library.
PYTHON = (sys.executable, "-P", "-m")

#: The umask of workers: what they write holds the user's data, and libraries choose no mode themselves.
PRIVATE = 0o077

#: Secrets that training needs: gated models of the Hugging Face Hub, a cluster's own, and what the way out asks for.
_NEEDED = re.compile(r"HF_.*|HUGGING_?FACE_.*|RAY_.*|.*_PROXY", re.IGNORECASE)


def child_environment() -> dict[str, str]:
    """Return the environment of a Python process that we start: this process's own, without the keys of vendors.

    A worker runs libraries and models from elsewhere for hours, and calls no vendor. Its own child processes ignore the
    current folder too.
    """
    environment = {
        name: value for name, value in os.environ.items() if _NEEDED.fullmatch(name) or not holds_secret(name, value)
    }
    turn_off_telemetry(environment)
    return {**environment, "PYTHONSAFEPATH": "1"}
