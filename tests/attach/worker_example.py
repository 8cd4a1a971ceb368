"""Runs an example as it stands, but without the shared-memory op that DeepSpeed would compile first (a minute, a compiler).

Arguments: the script, and a file for what rank 0 prints.
"""

import contextlib
import os
import runpy
import sys

from igascale.engine.deepspeed import _import_deepspeed

_import_deepspeed()
script, out = sys.argv[1:]
sys.argv = [script]
with open(out if os.environ["RANK"] == "0" else os.devnull, "w") as file, contextlib.redirect_stdout(file):
    runpy.run_path(script, run_name="__main__")
