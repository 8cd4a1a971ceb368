"""Starts `igascale data build` processes quickly: imports once, then forks one for each line of key, log file and arguments (JSON) on stdin.

Each child is a process of its own that runs the command line's main, as the console script does. Its pid, then its end, are said on stdout.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    import datasketch
    import openai
    from openai.resources.chat import completions  # noqa: F401

    import igascale.cli
    import igascale.isomers.factory.build
    import igascale.isomers.leakage
    import igascale.isomers.similarity

    assert datasketch and openai
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            log = os.open("/dev/null", os.O_RDWR)
            arguments = json.loads(line)
            os.environ["OPENAI_API_KEY"] = arguments.pop(0)
            output = os.open(arguments.pop(0), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            igascale.cli.main(["data", "build", *arguments])
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
