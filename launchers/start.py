"""``python start.py MODULE ARGUMENTS``: for launchers that start files and not modules."""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its deepspeed.py is not DeepSpeed
    sys.path.insert(0, __file__.rsplit("/igascale/launchers/", 1)[0] if "/igascale/launchers/" in __file__ else "")
    import runpy

    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
