"""Groups for the tests of what shows them: ordinary, hostile, and with graphs of any shape."""

from hypothesis import strategies as st

from igascale.isomers.schema import EDGE_LABELS, NODE_TYPES, Dag, DagEdge, DagNode, Instance, IsomerGroup

#: Text that would do something if it were not escaped, or read wrongly if it were not isolated.
HOSTILE = (
    "<script>window.hacked=1</script></style><img src=x onerror='window.hacked=1'> \" onclick=\"window.hacked=1\" & 'so' &amp; שלום עולם 😀 "
    "\u202eevil\u202c \x1b[2J\x00 \\frac{a}{b} $x^2$ {{style}} javascript:alert(1)"
)
#: The same as it must be read.
HOSTILE_SHOWN = (
    HOSTILE.replace("\u202e", "<U+202E>")
    .replace("\u202c", "<U+202C>")
    .replace("\x1b", "<U+001B>")
    .replace("\0", "<U+0000>")
)


def group(name="g1", *, kind="rules", dag=None, answers=("H", "H"), cots=None, meta=None):
    """Two tellings: law and science."""
    problems = ("The court of P admits K, if foreign.", "The lab of P admits K, if acidic.")
    cots = cots or ("1. P is foreign.\n2. So K.", "1. P is acidic.\n2. So K.")
    instances = tuple(
        Instance(domain, problem, cot, answer, f"{name}/{domain}")
        for domain, problem, cot, answer in zip(("law", "science"), problems, cots, answers, strict=True)
    )
    return IsomerGroup(f"{name}", f"seed-{name}", instances, kind, dag, meta or {})


def hostile(name="evil"):
    """Hostile text in every field that takes text."""
    dag = Dag(
        (DagNode(HOSTILE, "ENTITY", HOSTILE), DagNode("g", "GOAL", HOSTILE)),
        (DagEdge(HOSTILE, "g", "IMPLIES"),),
        logical_form=HOSTILE,
    )
    instances = tuple(
        Instance(domain, problem, f"{HOSTILE}\n{HOSTILE}", HOSTILE, f"{name}/{number}")
        for number, (domain, problem) in enumerate(((HOSTILE, HOSTILE), ("law", f"{HOSTILE} or only<video>here")))
    )
    return IsomerGroup(name, HOSTILE, instances, HOSTILE, dag, {HOSTILE: HOSTILE})


def chain(length, text="p"):
    """A graph in which each node rests on the one before it."""
    nodes = tuple(DagNode(f"n{i}", "GOAL" if i == length - 1 else "PROPOSITION", f"{text}{i}") for i in range(length))
    return Dag(nodes, tuple(DagEdge(f"n{i}", f"n{i + 1}", "IMPLIES") for i in range(length - 1)))


@st.composite
def dags(draw, most=40):
    """Any graph of up to `most` nodes, also one in pieces, with nodes without edges, or with two edges between two nodes."""
    count = draw(st.integers(0, most))
    odd = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
    rng = draw(st.randoms(use_true_random=False))
    texts = [odd, "W" * 80, "x", "is(P,t0b)", "a premise of several words that is broken"]
    nodes = tuple(DagNode(f"n{i}", rng.choice(NODE_TYPES), rng.choice(texts)) for i in range(count))
    order = list(range(count))  # the file need not name premises first
    rng.shuffle(order)
    density = draw(st.integers(0, 3))
    edges = [
        DagEdge(f"n{order[rng.randrange(later)]}", f"n{order[later]}", rng.choice(EDGE_LABELS))
        for later in range(1, count)
        for _ in range(rng.randint(0, density))
    ]
    return Dag(nodes, tuple(edges))
