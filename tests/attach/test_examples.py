"""The examples run as they stand, learn, add ten lines at most, and are what docs/attach.md shows."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from launching import environment, launch

ROOT = Path(__file__).parents[2]
EXAMPLES = ["torch_loop.py", "deepspeed_loop.py"]


def read(name):
    return (ROOT / "examples" / name).read_text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_at_most_ten_lines_are_added(name):
    lines = read(name).split('"""', 2)[2].splitlines()
    marked = [line for line in lines if line.endswith("# igascale")]
    assert 5 <= len(marked) <= 10
    # Nothing of igascale is in a line that is not marked; the report is the loop's own logging.
    rest = "\n".join(line for line in lines if line not in marked)
    assert set(re.findall(r"igascale\S*|surgery\S*", rest)) <= {"surgery.steps:2d}"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_the_marked_lines_it_is_an_ordinary_loop(name):
    """Put back what a marked line stands for, and the script compiles and has the ordinary calls only."""
    plain = {
        "with surgery.rows(domain):": "if True:",
        "optimizer =": "optimizer = torch.optim.AdamW(parameters, lr=5e-3)",
        "loss =": "loss = 0",
        "report =": "report = None",
        "surgery.step()": "optimizer.step()",
    }
    lines = []
    for line in read(name).splitlines():
        if line.endswith("# igascale"):
            code = line.strip()
            line = next((line[: -len(line.lstrip())] + new for old, new in plain.items() if code.startswith(old)), "")
        lines.append(line)
    compile("\n".join(lines), name, "exec")


def test_the_torch_example():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "torch_loop.py")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    learnt(done.stdout)
    assert "UserWarning: igascale" not in done.stderr


def test_the_deepspeed_example(tmp_path):
    launch(
        "deepspeed",
        2,
        "../attach/worker_example.py",
        str(ROOT / "examples" / "deepspeed_loop.py"),
        str(tmp_path / "out"),
    )
    learnt((tmp_path / "out").read_text())


def learnt(output):
    """Both domains' losses fall, to well below where they start."""
    losses = [tuple(map(float, found)) for found in re.findall(r"loss up (\S+) down (\S+)", output)]
    assert len(losses) == 30
    assert all(last < first - 0.4 for first, last in zip(losses[0], losses[-1]))


def test_the_documentation_shows_the_loops_of_the_examples():
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "attach.md").read_text(), re.DOTALL)
    loops = [
        textwrap.dedent(re.search(r"    # loop\n(.*?)    # end of loop", read(name), re.DOTALL)[1])
        for name in reversed(EXAMPLES)
    ]
    assert shown == loops
