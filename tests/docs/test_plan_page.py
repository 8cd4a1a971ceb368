"""docs/plan.md shows what the command prints."""

from pathlib import Path

from click.testing import CliRunner

from igascale.cli import main

PAGE = Path("docs/plan.md").read_text()


def example() -> tuple[list[str], str]:
    """The worked example's command and what the page shows of its output."""
    before, _, after = PAGE.partition("--gpu h100-80gb --tokens 512\n\n```\n")
    command = before[before.rindex("    igascale plan") :] + "--gpu h100-80gb --tokens 512"
    return command.replace("\\", " ").split()[1:], after.partition("```")[0]


def test_worked_example_is_what_the_command_prints():
    command, shown = example()
    printed = CliRunner().invoke(main, command, env={"COLUMNS": "100"}).output
    assert [line.rstrip() for line in printed.splitlines()] == shown.rstrip().splitlines()


def test_every_option_is_on_the_page():
    from igascale.cli.plan import command

    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    shared = {"--method", "--hook", "--nodes", "--gpus-per-node"}
    assert options - shared <= set(PAGE.replace("`", " ").split())


def test_every_gpu_of_the_table_is_on_the_page():
    from igascale.planning.cluster import known_gpus

    assert all(f"`{name}`" in PAGE for name in known_gpus())
