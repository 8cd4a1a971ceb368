"""The options of `igascale data build`, from the command line and from a file."""

import click
import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers.factory.options import LEAST_SIMILARITY, BuildOptions, click_parameters, flag, load_options
from igascale.isomers.generator import generate
from igascale.isomers.seeds import write_seeds
from igascale.isomers.similarity import LEAST_THRESHOLD, NearDuplicates

from builds import build
from faulty_server import FaultyServer
from oracle import Oracle

WITH_A_VALUE = [
    flag(key) for key, info in BuildOptions.model_fields.items() if key != "seeds" and info.annotation is not bool
]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def oracle():
    return Oracle(generate(3, seed=2))


@pytest.fixture
def seeds(tmp_path, oracle):
    write_seeds(tmp_path / "seeds.jsonl", oracle.seeds())
    return tmp_path / "seeds.jsonl"


def parsed(*arguments):
    """What click makes of them, without a default."""
    command = click.Command("build", params=click_parameters(), callback=lambda **given: given)
    given = command.main(["s", "--out", "o", "--model", "m", *arguments], standalone_mode=False)
    return load_options({key: value for key, value in given.items() if value not in (None, (), False)})


@pytest.mark.parametrize("option", [*WITH_A_VALUE, "--config", "--write-defaults"])
def test_an_option_without_its_value_is_an_error(option):
    """`--budget $B` with B unset would spend without a limit."""
    done = CliRunner().invoke(main, ["data", "build", "s", "--out", "o", "--model", "m", option])
    assert done.exit_code == 2 and f"Option '{option}' requires an argument" in done.output, done.output


def test_a_negative_value_is_a_value():
    assert parsed("--split-seed", "-5").split_seed == -5
    with pytest.raises(UserError, match="--input-price: Input should be greater than or equal to 0"):
        parsed("--input-price", "-1")


def test_the_sampling_may_be_left_to_the_server(tmp_path, seeds, oracle):
    assert parsed("--seed", "none").seed is None and parsed("--temperature", "None").temperature is None
    assert (parsed("--seed", "4").seed, parsed("--temperature", "1").temperature) == (4, 1.0)
    config = tmp_path / "build.yaml"
    for text in ("seed: null\ntemperature: null\n", "seed: none\ntemperature: none\n"):
        config.write_text(text)
        options = load_options({"seeds": "s", "out": "o", "model": "m"}, config)
        assert options.seed is None and options.temperature is None
    done = CliRunner().invoke(main, ["data", "build", "s", "--out", "o", "--model", "m", "--seed", "any"])
    assert done.exit_code == 2 and "'any' is not a valid int" in done.output
    with FaultyServer(oracle) as server:
        arguments = [str(seeds), "--out", str(tmp_path / "out"), "--model", "teacher", "--base-url", server.url]
        done = CliRunner().invoke(main, ["data", "build", *arguments, "--seed", "none", "--temperature", "none"])
        assert done.exit_code == 0, done.output
        assert server.log and not any({"seed", "temperature"} & set(call.body) for call in server.log)
        with pytest.raises(UserError, match=r"temperature was none, is 0\.7; seed was none, is 0"):
            build(seeds, tmp_path / "out", server)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--concurrency", "1001"], "--concurrency: Input should be less than or equal to 1000"),
        (["--budget", "5"], "--budget needs prices: --input-price and --output-price"),
        (["--alignment", "nan"], "--alignment: Input should be a finite number"),
        (["--timeout", "inf"], "--timeout: Input should be a finite number"),
        (["--model", " "], "--model: is empty"),
        (["--base-url", ""], "--base-url: is empty"),
        (["--decontaminate", ""], "--decontaminate: is empty"),
        (["--model", "t\udcffr"], r"--model: is not UTF-8 text: 't\\udcffr'"),
        (["--near-duplicates", "0.0001"], r"--near-duplicates: must be 0 \(off\) or at least 0\.05, not 0\.0001"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_read(arguments, words):
    with pytest.raises(UserError, match=words):
        parsed(*arguments)


def test_the_least_similarity_is_that_of_the_index():
    assert LEAST_SIMILARITY == LEAST_THRESHOLD
    NearDuplicates(LEAST_THRESHOLD).add("a", "It works at that bound.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--retry", "low_aligment"], "--retry: 'low_aligment' is no reason .*did you mean 'low_alignment'"),
        (["--retry", "near_duplicate"], "'near_duplicate' is no reason for which a teacher's answer is refused"),
        (["--retry", "votes", "--offline"], "--retry asks the teacher, --offline asks nothing"),
    ],
)
def test_a_retry_that_would_do_nothing(arguments, words):
    with pytest.raises(UserError, match=words):
        parsed(*arguments)
    assert parsed("--retry", "votes", "--retry", "reply_empty").retry == ("votes", "reply_empty")
