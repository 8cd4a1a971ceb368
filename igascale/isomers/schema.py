"""Groups of logical isomers and their JSONL form: a line holds one group, with one instance per domain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from igascale.errors import UserError, did_you_mean
from igascale.evaluation.answers import ANSWER_PREFIX, can_be_right
from igascale.isomers.json_lines import parse_json

NODE_TYPES = ("ENTITY", "RELATION", "CONSTRAINT", "PROPOSITION", "GOAL")
EDGE_LABELS = ("IMPLIES", "REQUIRES", "CAUSES", "CONTRADICTS", "IS_A", "HAS_PROPERTY")

#: Takes one problem, "file:line: field 'name': what is wrong". It raises to stop the reading, and returns to hear of the next.
OnProblem = Callable[[str], object]
T = TypeVar("T")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Instance:
    """One telling of a problem: its words belong to `domain`, its logic to the group."""

    domain: str
    problem: str
    cot: str
    answer: str
    id: str = ""  # unique in a file; read_groups fills in "{group id}/{domain}"


@dataclass(frozen=True)
class DagNode:
    """A node of the reasoning graph; `type` is one of NODE_TYPES."""

    id: str
    type: str
    text: str


@dataclass(frozen=True)
class DagEdge:
    """A directed edge between node ids; `label` is one of EDGE_LABELS."""

    source: str
    target: str
    label: str


@dataclass(frozen=True)
class Dag:
    """The reasoning that all instances of a group share. `steps` counts the steps of every solution."""

    nodes: tuple[DagNode, ...]
    edges: tuple[DagEdge, ...]
    logical_form: str | None = None
    steps: int | None = None


@dataclass(frozen=True)
class IsomerGroup:
    """Isomers of one problem, one per domain. Groups made from one seed share `seed_id`: a split keeps them together."""

    id: str
    seed_id: str
    instances: tuple[Instance, ...]
    kind: str | None = None
    dag: Dag | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def read_groups(path: str | Path) -> list[IsomerGroup]:
    """Read and check a whole file.

    Raises:
        UserError: the file is missing or empty, or a line breaks the schema (file, line and field are named).
    """
    groups = [group for _, group in iter_groups(path)]
    if not groups:
        raise UserError(f"{path}: no groups in it; expected one JSON object a line (docs/data.md)")
    return groups


def refuse(problem: str) -> NoReturn:
    """The usual :data:`OnProblem`: the first problem ends the reading."""
    raise UserError(problem)


def iter_groups(path: str | Path, on_problem: OnProblem = refuse) -> Iterator[tuple[int, IsomerGroup]]:
    """Yield (line number, group), checking each line by itself and against the lines before it.

    Args:
        path: the file.
        on_problem: hears of every problem; a line that has one is not yielded.

    Raises:
        UserError: the file cannot be read; as `read_groups` at the first bad line, unless `on_problem` does otherwise.
    """
    seen = _Seen()
    for number, line in numbered_lines(Path(path), on_problem=on_problem):
        where = f"{path}:{number}"
        try:
            record = parse_json(line, where, "one group a line")
        except UserError as error:
            on_problem(str(error))
            continue
        group, problems = parse_group(record, where)
        if group is not None:
            problems = list(seen.problems(group, number, where))
        for problem in problems:
            on_problem(problem)
        if group is not None and not problems:
            yield number, group


def parse_group(record: Any, where: str) -> tuple[IsomerGroup | None, list[str]]:
    """The group that a JSON object holds, or every problem with it.

    Args:
        record: what `parse_json` made of a line.
        where: what each problem begins with.
    """
    reader = _Reader(where)
    group = reader.attempt(reader.group, record)
    return (None if reader.problems else group), reader.problems


def count_groups(path: str | Path) -> int:
    """How many lines are not blank; they are not looked at further.

    Raises:
        UserError: the file cannot be read.
    """
    return sum(1 for _ in numbered_lines(Path(path)))


def write_groups(path: str | Path, groups: Iterable[IsomerGroup]) -> None:
    """Write groups as JSONL, leaving out optional fields that are empty."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for group in groups:
            file.write(json.dumps(to_record(group), ensure_ascii=False) + "\n")


def group_of(record: Any, where: str) -> IsomerGroup:
    """One group out of a JSON object, checked as a line of a file is.

    Raises:
        UserError: the object breaks the schema; begins with `where`.
    """
    return _Reader(where).group(record)


def domains_of(groups: Iterable[IsomerGroup]) -> tuple[str, ...]:
    """The domains of the groups in the order first seen."""
    return tuple(dict.fromkeys(instance.domain for group in groups for instance in group.instances))


def to_record(group: IsomerGroup) -> dict[str, Any]:
    """The group as the JSON object that `write_groups` writes."""
    record: dict[str, Any] = {"id": group.id, "seed_id": group.seed_id}
    if group.kind is not None:
        record["kind"] = group.kind
    record["instances"] = [
        {
            "id": instance.id or f"{group.id}/{instance.domain}",
            "domain": instance.domain,
            "problem": instance.problem,
            "cot": instance.cot,
            "answer": instance.answer,
        }
        for instance in group.instances
    ]
    if group.dag is not None:
        record["dag"] = _dag_record(group.dag)
    if group.meta:
        record["meta"] = group.meta
    return record


def _dag_record(dag: Dag) -> dict[str, Any]:
    record: dict[str, Any] = {
        "nodes": [{"id": node.id, "type": node.type, "text": node.text} for node in dag.nodes],
        "edges": [{"source": e.source, "target": e.target, "label": e.label} for e in dag.edges],
    }
    if dag.logical_form is not None:
        record["logical_form"] = dag.logical_form
    if dag.steps is not None:
        record["steps"] = dag.steps
    return record


def numbered_lines(
    path: Path, what: str = "file of groups", on_problem: OnProblem = refuse
) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank.

    Raises:
        UserError: the file cannot be read (`what` it is said to be), or a line is not UTF-8 and `on_problem` refuses it.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")  # a byte order mark is no harm
                except UnicodeDecodeError as error:
                    on_problem(f"{path}:{number}: not UTF-8 ({error.reason})")
                    continue
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UserError(f"{path}: cannot read this {what} ({error.strerror}); check the path") from None


class _Seen:
    """What earlier lines hold, for the rules that span lines.

    Instances mostly have the id that is theirs anyway; it is not kept, so that a large file costs its groups' ids alone.
    """

    def __init__(self) -> None:
        self.groups: dict[str, int] = {}
        self.named: dict[str, int] = {}  # instances of groups in which one has another id than its own
        self.with_names: set[str] = set()  # those groups
        self.first: tuple[int, tuple[str, ...]] | None = None

    def line_of(self, instance_id: str) -> int | None:
        if instance_id in self.named:
            return self.named[instance_id]
        known = self.first[1] if self.first else ()
        parts = instance_id.split("/")
        for cut in range(1, len(parts)):
            group, domain = "/".join(parts[:cut]), "/".join(parts[cut:])
            if group in self.groups and group not in self.with_names and domain in known:
                return self.groups[group]
        return None

    def problems(self, group: IsomerGroup, number: int, where: str) -> Iterator[str]:
        own = all(instance.id == f"{group.id}/{instance.domain}" for instance in group.instances)
        twice = group.id in self.groups
        if twice:
            yield (
                f"{where}: field 'id': group '{group.id}' is already on line {self.groups[group.id]}; "
                "ids must be unique"
            )
        for index, instance in enumerate(() if twice and own else group.instances):
            line = self.line_of(instance.id)
            if line is not None:
                yield (
                    f"{where}: field 'instances[{index}].id': instance '{instance.id}' is already on line "
                    f"{line}; ids must be unique"
                )
            elif not own:
                self.named[instance.id] = number
        self.groups.setdefault(group.id, number)
        if not own and not twice:
            self.with_names.add(group.id)
        domains = tuple(instance.domain for instance in group.instances)
        if self.first is None:
            self.first = (number, domains)
        first_number, first_domains = self.first
        for domain in first_domains:
            if domain not in domains:
                yield (
                    f"{where}: field 'instances': group '{group.id}' has no instance of domain '{domain}', "
                    f"which the group on line {first_number} has; every group needs one instance per domain"
                )
        for domain in domains:
            if domain not in first_domains:
                yield (
                    f"{where}: field 'instances': group '{group.id}' has domain '{domain}', which the "
                    f"group on line {first_number} lacks; every group needs one instance per domain"
                    + did_you_mean(domain, first_domains)
                )


class _Unreadable(Exception):
    """What was being read cannot be; why is in the reader's `problems`."""


class _Reader:
    """Turns the JSON of one line into a group; `problems` begin with `where` (file:line) and the field.

    A field with a problem is read as an empty one, so that the others are looked at too.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def attempt(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """What `read` returns, or nothing where it cannot go on."""
        try:
            return read(*arguments)
        except _Unreadable:
            return None

    def group(self, record: Any) -> IsomerGroup:
        known = ("id", "seed_id", "kind", "instances", "dag", "meta")
        record = self.mapping(record, "", known)
        group_id = self.text(record, "id", "")
        instances = self.instances(record, group_id)
        meta = record.get("meta", {})
        if not isinstance(meta, dict):
            self.note("meta", f"must be an object, not {_type(meta)}")
        return IsomerGroup(
            id=group_id,
            seed_id=self.text(record, "seed_id", ""),
            instances=instances,
            kind=self.text(record, "kind", "") if record.get("kind") is not None else None,
            dag=self.attempt(self.dag, record["dag"]) if record.get("dag") is not None else None,
            meta=meta,
        )

    def instances(self, record: dict[str, Any], group_id: str) -> tuple[Instance, ...]:
        if record.get("instances") == []:
            self.note("instances", "is empty; a group needs one instance per domain")
        found: list[Instance] = []
        domains: set[str] = set()
        for index, item in enumerate(self.items(record, "instances", "")):
            instance = self.attempt(self.instance, item, f"instances[{index}]", group_id)
            if instance is None:
                continue
            if instance.domain and instance.domain in domains:
                self.note(f"instances[{index}].domain", f"'{instance.domain}' is in this group twice")
            domains.add(instance.domain)
            found.append(instance)
        return tuple(found)

    def instance(self, item: Any, at: str, group_id: str) -> Instance:
        item = self.mapping(item, at, ("id", "domain", "problem", "cot", "answer"))
        domain = self.text(item, "domain", at)
        return Instance(
            domain=domain,
            problem=self.text(item, "problem", at),
            cot=self.text(item, "cot", at, may_be_empty=True),
            answer=self.answer(item, at),
            id=self.text(item, "id", at) if "id" in item else f"{group_id}/{domain}",
        )

    def dag(self, item: Any) -> Dag:
        item = self.mapping(item, "dag", ("nodes", "edges", "logical_form", "steps"))
        nodes = self.each(item, "nodes", self.node)
        names: list[str] = []
        for index, node in enumerate(nodes):
            if node.id and node.id in names:
                self.note(f"dag.nodes[{index}].id", f"'{node.id}' is in this graph twice")
            names.append(node.id)
        edges = self.each(item, "edges", self.edge, names)
        self.check_acyclic(edges)
        form = self.text(item, "logical_form", "dag") if item.get("logical_form") is not None else None
        steps = item.get("steps")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
            self.note("dag.steps", f"must be a whole number of at least 0, not {steps!r}")
        return Dag(nodes=nodes, edges=edges, logical_form=form, steps=steps)

    def each(self, dag: dict[str, Any], key: str, read: Callable[..., T], *more: Any) -> tuple[T, ...]:
        items = [
            self.attempt(read, item, f"dag.{key}[{index}]", *more)
            for index, item in enumerate(self.items(dag, key, "dag"))
        ]
        return tuple(item for item in items if item is not None)

    def node(self, item: Any, at: str) -> DagNode:
        item = self.mapping(item, at, ("id", "type", "text"))
        return DagNode(
            id=self.text(item, "id", at),
            type=self.choice(item, "type", at, NODE_TYPES),
            text=self.text(item, "text", at),
        )

    def edge(self, item: Any, at: str, names: list[str]) -> DagEdge:
        item = self.mapping(item, at, ("source", "target", "label"))
        return DagEdge(
            source=self.choice(item, "source", at, names),
            target=self.choice(item, "target", at, names),
            label=self.choice(item, "label", at, EDGE_LABELS),
        )

    def check_acyclic(self, edges: tuple[DagEdge, ...]) -> None:
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for edge in edges:
            sorter.add(edge.target, edge.source)
        try:
            sorter.prepare()
        except CycleError as error:
            self.note("dag.edges", f"hold the cycle {' -> '.join(reversed(error.args[1]))}")

    def mapping(self, value: Any, at: str, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.note(at or "(the line)", f"must be an object, not {_type(value)}")
            raise _Unreadable
        for key in value:
            if key not in known:
                self.note(f"{at}.{key}" if at else key, "is not a known field" + did_you_mean(key, known))
        return value

    def items(self, record: dict[str, Any], key: str, at: str) -> list[Any]:
        name = f"{at}.{key}" if at else key
        if key not in record:
            self.note(name, "is missing")
            return []
        value = record[key]
        if not isinstance(value, list):
            self.note(name, f"must be a list, not {_type(value)}")
            return []
        return value

    def text(self, record: dict[str, Any], key: str, at: str, may_be_empty: bool = False) -> str:
        name = f"{at}.{key}" if at else key
        value = record.get(key)
        if key not in record:
            self.note(name, "is missing")
        elif not isinstance(value, str):
            self.note(name, f"must be a string, not {_type(value)}")
        elif not may_be_empty and not value.strip():
            self.note(name, "is empty")
        elif _HALF_A_PAIR.search(value):
            self.note(
                name, "holds half of a surrogate pair (\\ud800 to \\udfff alone), which is not text; mend the export"
            )
        else:
            return value
        return ""

    def answer(self, item: dict[str, Any], at: str) -> str:
        answer = self.text(item, "answer", at)
        if answer and not can_be_right(answer):
            shown = answer if len(answer) <= 60 else answer[:57] + "..."
            self.note(
                f"{at}.answer",
                f"{shown!r} could never be scored as right: an answer is one line of more than dots and quotes, without '{ANSWER_PREFIX}'",
            )
        return answer

    def choice(self, record: dict[str, Any], key: str, at: str, known: Iterable[str]) -> str:
        value, known = self.text(record, key, at), list(known)
        if value and value not in known:
            self.note(f"{at}.{key}", f"is '{value}', not one of {', '.join(known)}" + did_you_mean(value, known))
        return value

    def note(self, name: str, problem: str) -> None:
        self.problems.append(f"{self.where}: field '{name}': {problem}")


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
