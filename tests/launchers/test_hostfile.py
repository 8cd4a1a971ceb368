"""Hostfiles and filters: every mistake is named with its line; what is accepted means what DeepSpeed takes it for."""

import pytest
from deepspeed.launcher.runner import _parse_hostfile, parse_inclusion_exclusion
from hypothesis import given
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.launchers import hostfile
from igascale.launchers.base import Host

BAD = {
    "node1": (1, "without slots=N"),
    "a slots=1\n\nb slots=two": (3, "slots=two"),
    "a slots=0": (1, "from 1 to 9999"),
    "a slots=-1": (1, "slots=-1"),
    "a slots = 4": (1, "no spaces around '='"),
    "a slot=4": (1, "'slot=4'"),
    "a slots=4 max_slots=8": (1, "'max_slots=8'"),
    "a slots=1 # fine\n# a slots=9\na slots=2": (3, "already on line 1"),
    "-oProxyCommand=x slots=1": (1, "not a host name"),
    "me@a slots=1": (1, "user names and ports go into the ssh config"),
    "node[1-4] slots=1": (1, "one node a line"),
    "a;b slots=1": (1, "not a host name"),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_line_is_named(text):
    line, expected = BAD[text]
    with pytest.raises(UserError) as error:
        hostfile.parse(text, "hosts")
    assert str(error.value).startswith(f"hosts:{line}: ")
    assert expected in str(error.value)


def test_no_host_and_no_file(tmp_path):
    with pytest.raises(UserError, match="names no host"):
        hostfile.parse("# nothing\n\n", "hosts")
    with pytest.raises(UserError, match="No such file"):
        hostfile.read(tmp_path / "hosts")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        hostfile.read(tmp_path / "binary")


BAD_FILTERS = {
    "c": "host 'c' is not in the hostfile",
    "node": "did you mean 'node1'",
    "node1:4": "no slot '4'; its slots are 0 to 3",
    "node1:": "no slot ''",
    "node1:0-2": "no slot '0-2'",
    "node1,b": "separated by '@'",
    "node1@node1:0": "name it once",
    "b:0@b": "name it once",
    "@b": "host ''",
}


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("text", BAD_FILTERS)
def test_a_bad_filter_is_explained(text, option):
    hosts = hostfile.parse("node1 slots=4\nb slots=1", "hosts")
    with pytest.raises(UserError) as error:
        hostfile.select(hosts, **{option: text})
    assert str(error.value).startswith(f"--{option} {text}: ")
    assert BAD_FILTERS[text] in str(error.value)


def test_filters_that_cannot_be():
    hosts = hostfile.parse("a slots=2\nb slots=1", "hosts")
    with pytest.raises(UserError, match="give one of them"):
        hostfile.select(hosts, "a", "b")
    with pytest.raises(UserError, match="leaves no slot"):
        hostfile.select(hosts, exclude="a@b")


NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True), min_size=1, max_size=5, unique=True)


@st.composite
def pools(draw):
    return {name: draw(st.integers(1, 6)) for name in draw(NAMES)}


@given(pools(), st.data())
def test_hosts_are_deepspeeds(pool, data):
    comments = st.sampled_from(["", "  # comment", "\t"])
    lines = []
    for name, slots in pool.items():
        lines += data.draw(st.lists(st.sampled_from(["", "# node9 slots=3", "   "]), max_size=2))
        lines.append(f"{data.draw(st.sampled_from(['', '  ']))}{name}  slots={slots}{data.draw(comments)}")
    hosts = hostfile.parse("\n".join(lines), "hosts")
    assert {h.name: len(h.slots) for h in hosts} == dict(_parse_hostfile(lines)) == pool
    assert [h.name for h in hosts] == list(pool)


@given(pools(), st.data())
def test_filters_are_deepspeeds(pool, data):
    parts = []
    for name in data.draw(st.lists(st.sampled_from(sorted(pool)), min_size=1, unique=True)):
        slots = data.draw(st.lists(st.integers(0, pool[name] - 1), unique=True))
        parts.append(f"{name}:{','.join(map(str, slots))}" if slots else name)
    text, option = "@".join(parts), data.draw(st.sampled_from(["include", "exclude"]))
    arguments = (text, "") if option == "include" else ("", text)
    theirs = parse_inclusion_exclusion(pool, *arguments)
    hosts = tuple(Host(name, tuple(range(slots))) for name, slots in pool.items())
    if not theirs:
        with pytest.raises(UserError, match="leaves no slot"):
            hostfile.select(hosts, **{option: text})
        return
    ours = hostfile.select(hosts, **{option: text})
    assert [(h.name, list(h.slots)) for h in ours] == list(theirs.items())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        hosts = hostfile.parse(text, "hosts")
    except UserError as error:
        assert str(error).startswith("hosts:")
        assert "\n" not in str(error)
    else:
        assert hosts
        assert all(host.slots for host in hosts)
