"""The quality gates: what a graph, a telling, a verdict and a group must keep. Pure functions; each says what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from igascale.errors import did_you_mean
from igascale.evaluation.answers import ANSWER_PREFIX, can_be_right, normalise_answer
from igascale.isomers.factory.replies import ExtractReply, InstantiateReply, VerifyReply
from igascale.isomers.factory.structure import describe, first_fault, same_structure
from igascale.isomers.normal import is_symbol, tokens
from igascale.isomers.schema import EDGE_LABELS, NODE_TYPES, Dag, DagEdge, DagNode

# Of the words of two tellings, numbers and symbols aside. Generated groups of all kinds share at most 0.91, where whole sentences
# differ in one noun, and each of their tellings has a word of its own; a copy with a word changed, or a sentence put before it, is above.
_SAME_WORDS, _NOTHING_NEW = 0.95, 0.75


#: Every reason of an Issue here. Besides there are the teacher's unusable answers, `reply_...`.
REASONS = (
    *(
        "dag_type",
        "dag_empty",
        "dag_id",
        "dag_label",
        "dag_edge",
        "dag_goal",
        "dag_cycle",
        "dag_unconnected",
        "dag_steps",
    ),
    *("problem_missing", "answer_missing", "answer_long", "steps_missing", "steps_invalid", "copied"),
    *("score_invalid", "low_alignment", "wrong_domain", "not_isomorphic", "votes", "step_counts", "structure"),
)


@dataclass(frozen=True)
class GateSettings:
    """What the gates ask for. They belong to the recipe: other settings, other outcomes.

    Attributes:
        alignment: least alignment score of the verifier, 0 to 1.
        step_tolerance: most that the step counts of a group may differ.
        same_structure: whether the solutions must have the same dependency structure.
        votes: independent solutions of each problem; 0: none.
        regenerate: how often a refused answer is asked for again.
    """

    alignment: float = 0.85
    step_tolerance: int = 2
    same_structure: bool = True
    votes: int = 0
    regenerate: int = 2


@dataclass(frozen=True)
class Issue:
    """Why something was refused: `reason` is a short fixed word to count by, `detail` a sentence to act on."""

    reason: str
    detail: str


def check_dag(reply: ExtractReply) -> Issue | None:
    """Known types and labels, ids used once, edges between nodes, no cycle, in one piece, with a goal and a step count."""
    ids = [node.id for node in reply.nodes]
    for node in reply.nodes:
        if node.type not in NODE_TYPES:
            hint = did_you_mean(node.type.upper(), NODE_TYPES)
            return Issue(
                "dag_type", f"node '{node.id}' has type '{node.type}', not one of {', '.join(NODE_TYPES)}{hint}"
            )
        if not node.id.strip() or not node.description.strip():
            return Issue("dag_empty", f"node '{node.id}' has an empty id or description")
        if ids.count(node.id) > 1:
            return Issue("dag_id", f"node id '{node.id}' is used twice")
    for edge in reply.edges:
        if edge.label not in EDGE_LABELS:
            return Issue("dag_label", f"an edge has label '{edge.label}', not one of {', '.join(EDGE_LABELS)}")
        for end in (edge.source, edge.target):
            if end not in ids:
                return Issue("dag_edge", f"edge '{edge.source}' -> '{edge.target}' names '{end}', which is not a node")
    return _check_shape(reply, ids)


def _check_shape(reply: ExtractReply, ids: list[str]) -> Issue | None:
    if not any(node.type == "GOAL" for node in reply.nodes):
        return Issue("dag_goal", "there is no GOAL node")
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for edge in reply.edges:
        sorter.add(edge.target, edge.source)
    try:
        sorter.prepare()
    except CycleError as error:
        return Issue("dag_cycle", f"the edges hold the cycle {' -> '.join(reversed(error.args[1]))}")
    apart = _unreached(ids, [(edge.source, edge.target) for edge in reply.edges])
    if apart:
        return Issue("dag_unconnected", f"these nodes are not joined to '{ids[0]}': {', '.join(apart)}")
    if not reply.logical_form.strip():
        return Issue("dag_empty", "logical_form is empty")
    if reply.step_count < 1:
        return Issue("dag_steps", f"step_count is {reply.step_count}; a solution has at least one step")
    return None


def _unreached(ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """Nodes that no path of edges, taken in either direction, joins to the first."""
    neighbours: dict[str, set[str]] = {name: set() for name in ids}
    for source, target in edges:
        neighbours[source].add(target)
        neighbours[target].add(source)
    reached, todo = {ids[0]}, [ids[0]]
    while todo:
        new = neighbours[todo.pop()] - reached
        reached |= new
        todo += new
    return [name for name in ids if name not in reached]


def dag_of(reply: ExtractReply, steps: int | None) -> Dag:
    """The graph as a group holds it; `steps` where every solution has as many."""
    return Dag(
        nodes=tuple(DagNode(node.id, node.type, node.description) for node in reply.nodes),
        edges=tuple(DagEdge(edge.source, edge.target, edge.label) for edge in reply.edges),
        logical_form=reply.logical_form,
        steps=steps,
    )


def check_telling(reply: InstantiateReply) -> Issue | None:
    """A problem, an answer on one line, and steps that depend on earlier ones only."""
    if not reply.problem.strip():
        return Issue("problem_missing", "the problem is empty")
    if not normalise_answer(reply.answer):
        return Issue("answer_missing", "the answer is empty")
    if not can_be_right(reply.answer.strip()):
        return Issue("answer_long", f"the answer must stand on one line, by itself and without '{ANSWER_PREFIX}'")
    if not reply.cot_solution or any(not step.step.strip() for step in reply.cot_solution):
        return Issue("steps_missing", "the solution has no steps, or an empty one")
    fault = first_fault([step.depends_on for step in reply.cot_solution])
    return Issue("steps_invalid", f"depends_on: {fault}") if fault else None


def check_copies(kept: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Issue]:
    """New problems that repeat another domain's, by their domain; of two new ones the later.

    They repeat it if they have the same words, or if one has no word that the other lacks: numbers, symbols and order do not make
    another domain. The seed may be repeated once, in whatever domain it is from; a second time is a copy of the first.

    Args:
        kept: problems told already, by domain.
        new: those to judge.
    """
    found: dict[str, Issue] = {}
    read = {domain: _read(problem) for domain, problem in kept.items()}
    for domain, problem in new.items():
        mine = _read(problem)
        other = next((name for name, words in read.items() if _repeats(mine, words)), None)
        if other is None:
            read[domain] = mine
        else:
            detail = f"the problem repeats that of {other}; in {domain} it must be another story in other words"
            found[domain] = Issue("copied", detail)
    return found


def _read(problem: str) -> tuple[list[str], frozenset[str]]:
    """Everything but case, punctuation and blanks; and the words."""
    read = tokens(problem)
    return read, frozenset(token for token in read if not is_symbol(token))


def _repeats(one: tuple[list[str], frozenset[str]], other: tuple[list[str], frozenset[str]]) -> bool:
    shared, all_words = len(one[1] & other[1]), len(one[1] | other[1])
    if one[0] == other[0] or not all_words:
        return one[0] == other[0]
    nothing_new = shared in (len(one[1]), len(other[1]))
    return shared / all_words >= (_NOTHING_NEW if nothing_new else _SAME_WORDS)


def check_verdict(verdict: VerifyReply, settings: GateSettings) -> Issue | None:
    """The verifier's score and four times yes. The teller's own score does not count."""
    noted = "; ".join(issue.strip() for issue in verdict.issues if issue.strip()) or "the verifier gave no issue"
    if not 0.0 <= verdict.alignment_score <= 1.0:
        return Issue("score_invalid", f"the alignment score {verdict.alignment_score:g} is not within 0 and 1")
    if verdict.alignment_score < settings.alignment:
        return Issue(
            "low_alignment", f"alignment score {verdict.alignment_score:g}, below {settings.alignment:g}: {noted}"
        )
    if verdict.in_domain != "yes":
        return Issue("wrong_domain", f"the problem is not told in its domain: {noted}")
    asked = {
        "dependencies_preserved": "the logical dependencies are not all preserved",
        "same_step_count": "the two problems do not take the same number of steps",
        "same_reasoning": "the same reasoning does not solve both",
    }
    said_no = [words for name, words in asked.items() if getattr(verdict, name) != "yes"]
    return Issue("not_isomorphic", f"{', and '.join(said_no)}: {noted}") if said_no else None


def check_votes(stated: str, votes: Sequence[str]) -> Issue | None:
    """More than half of the independent answers are the stated one."""
    counted = Counter(normalise_answer(vote) for vote in votes)
    agreeing = counted[normalise_answer(stated)]
    if 2 * agreeing > len(votes):
        return None
    others = ", ".join(f"'{answer}' {count} times" for answer, count in counted.most_common(3))
    return Issue(
        "votes", f"the stated answer '{stated.strip()}' got {agreeing} of {len(votes)} votes; solving it gave {others}"
    )


def check_group(tellings: Mapping[str, InstantiateReply], settings: GateSettings) -> dict[str, Issue]:
    """What keeps the tellings from being one group, by the domains that are out of line; empty where nothing does.

    Step counts first: the domains outside the window of `step_tolerance` that holds the most of them. Then structure: the
    domains that differ from the most frequent one. The earlier domain wins a draw.
    """
    counts = {domain: len(reply.cot_solution) for domain, reply in tellings.items()}
    if max(counts.values()) - min(counts.values()) > settings.step_tolerance:
        windows = [
            [domain for domain in counts if low <= counts[domain] <= low + settings.step_tolerance]
            for low in dict.fromkeys(counts.values())
        ]
        kept = max(windows, key=len)
        told = ", ".join(f"{domain} {count}" for domain, count in counts.items())
        detail = f"the solutions' step counts differ by more than {settings.step_tolerance}: {told}"
        return {domain: Issue("step_counts", detail) for domain in counts if domain not in kept}
    if not settings.same_structure:
        return {}
    uses = {domain: [step.depends_on for step in reply.cot_solution] for domain, reply in tellings.items()}
    classes: list[list[str]] = []
    for domain in uses:
        for known in classes:
            if same_structure(uses[known[0]], uses[domain]):
                known.append(domain)
                break
        else:
            classes.append([domain])
    usual = max(classes, key=len)
    return {
        domain: Issue(
            "structure",
            f"the steps of {domain} hang together differently ({describe(uses[domain])}) "
            f"from those of {usual[0]} ({describe(uses[usual[0]])})",
        )
        for domain in uses
        if domain not in usual
    }
