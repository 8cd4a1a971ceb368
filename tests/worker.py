"""``python worker.py SCRIPT ARGUMENTS``: a test program on a rank, which comes and goes as quickly as `igascale train` does."""

import runpy
import sys
from pathlib import Path

from igascale.imports import uncollected
from igascale.supervision import session

if __name__ == "__main__":
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(script).parent)
    with uncollected():
        import peft  # noqa: F401  # brings PyTorch and transformers

        import igascale.assemble  # noqa: F401
    runpy.run_path(script, run_name="__main__")
    session.leave(0)
