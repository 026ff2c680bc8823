"""How Python processes of ours are started: nothing of the current folder is imported by them."""

from __future__ import annotations

import os
import sys

#: Starts a module of ours. Without -P the current folder would come first on its path: a numpy.py that lies there, a
#: stranger's or the user's own types.py, would be run in place of the library.
PYTHON = (sys.executable, "-P", "-m")


def child_environment() -> dict[str, str]:
    """This process's environment, for a Python that we start: what that starts ignores the current folder too."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}
