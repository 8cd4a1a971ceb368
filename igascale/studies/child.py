"""``python -m igascale.studies.child PARENT ARGUMENTS``: an igascale command that does not outlive who started it.

A study that is killed leaves nobody to stop its training; the kernel then sends it SIGTERM, so that it writes a checkpoint and the
folder is free for the study's next start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the signal, then be ``igascale ARGUMENTS``."""
    parent, sys.argv = int(sys.argv[1]), ["igascale", *sys.argv[2:]]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before we had asked
        sys.exit(128 + signal.SIGTERM)
    from igascale.cli import main as igascale

    igascale()


if __name__ == "__main__":
    main()
