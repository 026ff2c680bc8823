"""How Python processes of ours are started: they import nothing of the current folder, and hold no vendor's key."""

from __future__ import annotations

import os
import re
import sys

from llmtune._safety.telemetry import turn_off_telemetry
from llmtune.redaction.secrets import holds_secret

#: Starts a module of ours. Without -P the current folder would come first on its path: a numpy.py that lies there, a
#: stranger's or the user's own types.py, would be run in place of the library.
PYTHON = (sys.executable, "-P", "-m")

#: The umask of workers: what they write holds the user's data, and libraries choose no mode themselves.
PRIVATE = 0o077

#: Secrets that training needs: gated models of the Hugging Face Hub, a cluster's own, and what the way out asks for.
_NEEDED = re.compile(r"HF_.*|HUGGING_?FACE_.*|RAY_.*|.*_PROXY", re.IGNORECASE)


def child_environment() -> dict[str, str]:
    """Return this process's environment, for a Python that we start: without the keys of vendors.

    A worker runs libraries and models from elsewhere for hours, and asks no vendor. What it starts in its turn ignores
    the current folder too.
    """
    kept = {
        name: value for name, value in os.environ.items() if _NEEDED.fullmatch(name) or not holds_secret(name, value)
    }
    turn_off_telemetry(kept)
    return {**kept, "PYTHONSAFEPATH": "1"}
