"""A teacher that knows the truth: it answers the factory's own prompts from generated groups, and errs where it is told to.

``Oracle(groups, planted)``: seeds are the first telling of each group (:meth:`Oracle.seeds`). ``planted`` names what goes wrong with a
group, always: see :data:`PLANTED` for the kinds, and the stage and reason by which the factory must reject each.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from igascale.isomers.factory.structure import reduced
from igascale.isomers.schema import DagEdge, IsomerGroup
from igascale.isomers.seeds import Seed

#: What can be planted -> (stage, reason) of the rejection.
PLANTED = {
    "cycle": ("extract", "dag_cycle"),
    "apart": ("extract", "dag_unconnected"),
    "type": ("extract", "dag_type"),
    "label": ("extract", "dag_label"),
    "dangling": ("extract", "dag_edge"),
    "goalless": ("extract", "dag_goal"),
    "no_answer": ("instantiate", "answer_missing"),
    "forward": ("instantiate", "steps_invalid"),
    "copied": ("instantiate", "copied"),
    "low": ("verify", "low_alignment"),
    "no": ("verify", "not_isomorphic"),
    "elsewhere": ("verify", "wrong_domain"),
    "wrong": ("votes", "votes"),
    "steps": ("group", "step_counts"),
    "structure": ("group", "structure"),
}


class Oracle:
    def __init__(self, groups: list[IsomerGroup], planted: dict[str, str] | None = None, mend_after: int | None = None):
        self.groups, self.planted = groups, planted or {}
        self.mend_after = mend_after  # planted faults show only until the prompt quotes so many refusals
        self.by_seed = {group.instances[0].problem: group for group in groups}
        self.by_problem = {(instance.problem): (group, instance) for group in groups for instance in group.instances}
        self.by_id = {group.id: group for group in groups}
        self.asked: Counter[str] = Counter()

    def seeds(self) -> list[Seed]:
        return [Seed(g.id, g.instances[0].problem, answer=g.instances[0].answer, kind=g.kind) for g in self.groups]

    def __call__(self, messages, body) -> str:
        user = messages[-1]["content"]
        again = "was refused, for this reason" in user
        if user.startswith("The problem:\n"):
            stage, answer = "extract", self.extract(user.split("\n\n")[1], again)
        elif user.startswith("The field: "):
            domain = user.splitlines()[0].removeprefix("The field: ")
            stage, answer = "instantiate", self.instantiate(re.search(r'"\[(\S+)\]', user)[1], domain, again)
        elif user.startswith("First problem:\n"):
            parts = user.split("\n\n")
            stage, answer = "verify", self.verify(parts[1], parts[3])
            told = re.search(r"^The field of life it must be set in: (.+)$", user, re.MULTILINE)[1]
            assert told == self.by_problem[parts[3]][1].domain, "the verifier was told another domain"
        else:
            stage, answer = "solve", {"reasoning": "I did.", "answer": self.by_problem[user][1].answer}
        self.asked[stage] += 1
        return json.dumps(answer)

    def fault(self, group: IsomerGroup, again: bool) -> str | None:
        return None if again and self.mend_after is not None else self.planted.get(group.id)

    def extract(self, problem: str, again: bool) -> dict:
        group = self.by_seed[problem]
        nodes = [{"id": n.id, "type": n.type, "description": n.text} for n in group.dag.nodes]
        edges = [{"from": e.source, "to": e.target, "label": e.label} for e in joined(group)]
        match self.fault(group, again):
            case "cycle":
                edges.append({"from": edges[0]["to"], "to": edges[0]["from"], "label": "IMPLIES"})
            case "apart":
                nodes.append({"id": "far", "type": "ENTITY", "description": "away"})
            case "type":
                nodes[0]["type"] = "THING"
            case "label":
                edges[0]["label"] = "LEADS_TO"
            case "dangling":
                edges[0]["from"] = "nowhere"
            case "goalless":
                for node in nodes:
                    node["type"] = "PROPOSITION" if node["type"] == "GOAL" else node["type"]
        form = f"[{group.id}] {group.dag.logical_form}"
        return {"nodes": nodes, "edges": edges, "logical_form": form, "step_count": group.dag.steps}

    def instantiate(self, name: str, domain: str, again: bool) -> dict:
        group = self.by_id[name]
        instance = next(i for i in group.instances if i.domain == domain)
        steps = [{"step": s, "depends_on": d} for s, d in zip(instance.cot.split("\n"), depends_on(group))]
        answer, last = instance.answer, domain == group.instances[-1].domain
        problem = instance.problem
        match self.fault(group, again) if last else None:
            case "copied":
                problem = f"Consider this. {group.instances[0].problem}"
            case "no_answer":
                answer = " "
            case "forward":
                steps[0]["depends_on"] = [len(steps)]
            case "steps":
                steps += [{"step": "And so on.", "depends_on": [len(steps) + i]} for i in range(3)]
            case "structure":
                steps.append({"step": "By the way.", "depends_on": []})
            case "wrong":
                answer = "none of these"
        return {"problem": problem, "cot_solution": steps, "answer": answer, "alignment_score": 1.0}

    def verify(self, seed: str, problem: str) -> dict:
        group, instance = self.by_problem[problem]
        assert group is self.by_seed[seed], "the verifier was shown two problems that do not belong together"
        verdict = {
            "dependencies_preserved": "yes",
            "same_step_count": "yes",
            "same_reasoning": "yes",
            "in_domain": "yes",
            "alignment_score": 0.9 + 0.01 * group.instances.index(instance),
            "issues": [],
        }
        if instance is group.instances[-1]:
            match self.planted.get(group.id):
                case "low":
                    verdict |= {"alignment_score": 0.84, "issues": ["A rule is missing."]}
                case "elsewhere":
                    verdict |= {"in_domain": "no", "issues": ["Nobody in it does that work."]}
                case "no":
                    verdict |= {"same_reasoning": "no", "issues": ["Needs a case distinction."]}
        return verdict


def joined(group: IsomerGroup) -> list[DagEdge]:
    """The graph's edges, with facts that the goal does not need tied to it: the factory wants graphs in one piece."""
    edges = list(group.dag.edges)
    goal = next(node.id for node in group.dag.nodes if node.type == "GOAL")
    for node in group.dag.nodes:
        reached = {goal}
        for _ in edges:
            for edge in edges:
                if edge.source in reached or edge.target in reached:
                    reached |= {edge.source, edge.target}
        if node.id not in reached:
            edges.append(DagEdge(node.id, goal, "REQUIRES"))
    return edges


def depends_on(group: IsomerGroup) -> list[list[int]]:
    """The steps' dependencies by the graph: steps are the nodes s1, s2, ..."""
    edges = {(e.source, e.target) for e in group.dag.edges if e.label != "CONTRADICTS"}
    steps = [f"s{number}" for number in range(1, group.dag.steps + 1)]
    return [[i + 1 for i in range(j) if (steps[i], steps[j]) in edges] for j in range(len(steps))]


def shape(group: IsomerGroup) -> int:
    return len(reduced(depends_on(group)))
