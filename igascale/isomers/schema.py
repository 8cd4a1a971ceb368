"""Groups of logical isomers and their JSONL form: a line holds one group, with one instance per domain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NoReturn

from igascale.errors import UserError, did_you_mean

NODE_TYPES = ("ENTITY", "RELATION", "CONSTRAINT", "PROPOSITION", "GOAL")
EDGE_LABELS = ("IMPLIES", "REQUIRES", "CAUSES", "CONTRADICTS", "IS_A", "HAS_PROPERTY")


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


def iter_groups(path: str | Path) -> Iterator[tuple[int, IsomerGroup]]:
    """Yield (line number, group), checking each line by itself and against the lines before it.

    Raises:
        UserError: as `read_groups`, at the first bad line.
    """
    seen = _Seen()
    for number, line in numbered_lines(Path(path)):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: not valid JSON ({error.msg} at column {error.colno}); one group a line"
            ) from None
        group = _Reader(where).group(record)
        seen.check(group, number, where)
        yield number, group


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


def numbered_lines(path: Path, what: str = "file of groups") -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank.

    Raises:
        UserError: the file cannot be read (`what` it is said to be), or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")  # a byte order mark is no harm
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}:{number}: not UTF-8 ({error.reason})") from None
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UserError(f"{path}: cannot read this {what} ({error.strerror}); check the path") from None


class _Seen:
    """What earlier lines hold, for the rules that span lines."""

    def __init__(self) -> None:
        self.groups: dict[str, int] = {}
        self.instances: dict[str, int] = {}
        self.first: tuple[int, tuple[str, ...]] | None = None

    def check(self, group: IsomerGroup, number: int, where: str) -> None:
        if group.id in self.groups:
            raise UserError(
                f"{where}: field 'id': group '{group.id}' is already on line {self.groups[group.id]}; "
                "ids must be unique"
            )
        self.groups[group.id] = number
        for index, instance in enumerate(group.instances):
            if instance.id in self.instances:
                raise UserError(
                    f"{where}: field 'instances[{index}].id': instance '{instance.id}' is already on line "
                    f"{self.instances[instance.id]}; ids must be unique"
                )
            self.instances[instance.id] = number
        domains = tuple(instance.domain for instance in group.instances)
        if self.first is None:
            self.first = (number, domains)
        first_number, first_domains = self.first
        for domain in first_domains:
            if domain not in domains:
                raise UserError(
                    f"{where}: field 'instances': group '{group.id}' has no instance of domain '{domain}', "
                    f"which the group on line {first_number} has; every group needs one instance per domain"
                )
        for domain in domains:
            if domain not in first_domains:
                raise UserError(
                    f"{where}: field 'instances': group '{group.id}' has domain '{domain}', which the "
                    f"group on line {first_number} lacks; every group needs one instance per domain"
                    + did_you_mean(domain, first_domains)
                )


class _Reader:
    """Turns the JSON of one line into a group; complaints begin with `where` (file:line) and the field."""

    def __init__(self, where: str) -> None:
        self.where = where

    def group(self, record: Any) -> IsomerGroup:
        known = ("id", "seed_id", "kind", "instances", "dag", "meta")
        record = self.mapping(record, "", known)
        group_id = self.text(record, "id", "")
        instances = tuple(
            self.instance(item, f"instances[{index}]", group_id)
            for index, item in enumerate(self.items(record, "instances", ""))
        )
        if not instances:
            self.fail("instances", "is empty; a group needs one instance per domain")
        for index, instance in enumerate(instances):
            if instance.domain in [earlier.domain for earlier in instances[:index]]:
                self.fail(f"instances[{index}].domain", f"'{instance.domain}' is in this group twice")
        meta = record.get("meta", {})
        if not isinstance(meta, dict):
            self.fail("meta", f"must be an object, not {_type(meta)}")
        return IsomerGroup(
            id=group_id,
            seed_id=self.text(record, "seed_id", ""),
            instances=instances,
            kind=self.text(record, "kind", "") if record.get("kind") is not None else None,
            dag=self.dag(record["dag"]) if record.get("dag") is not None else None,
            meta=meta,
        )

    def instance(self, item: Any, at: str, group_id: str) -> Instance:
        item = self.mapping(item, at, ("id", "domain", "problem", "cot", "answer"))
        domain = self.text(item, "domain", at)
        return Instance(
            domain=domain,
            problem=self.text(item, "problem", at),
            cot=self.text(item, "cot", at, may_be_empty=True),
            answer=self.text(item, "answer", at),
            id=self.text(item, "id", at) if "id" in item else f"{group_id}/{domain}",
        )

    def dag(self, item: Any) -> Dag:
        item = self.mapping(item, "dag", ("nodes", "edges", "logical_form", "steps"))
        nodes = tuple(
            self.node(node, f"dag.nodes[{index}]") for index, node in enumerate(self.items(item, "nodes", "dag"))
        )
        names = [node.id for node in nodes]
        for index, name in enumerate(names):
            if name in names[:index]:
                self.fail(f"dag.nodes[{index}].id", f"'{name}' is in this graph twice")
        edges = tuple(
            self.edge(edge, f"dag.edges[{index}]", names) for index, edge in enumerate(self.items(item, "edges", "dag"))
        )
        self.check_acyclic(edges)
        form = self.text(item, "logical_form", "dag") if item.get("logical_form") is not None else None
        steps = item.get("steps")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
            self.fail("dag.steps", f"must be a whole number of at least 0, not {steps!r}")
        return Dag(nodes=nodes, edges=edges, logical_form=form, steps=steps)

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
            self.fail("dag.edges", f"hold the cycle {' -> '.join(reversed(error.args[1]))}")

    def mapping(self, value: Any, at: str, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(at or "(the line)", f"must be an object, not {_type(value)}")
        for key in value:
            if key not in known:
                self.fail(f"{at}.{key}" if at else key, "is not a known field" + did_you_mean(key, known))
        return value

    def items(self, record: dict[str, Any], key: str, at: str) -> list[Any]:
        value = self.required(record, key, at)
        if not isinstance(value, list):
            self.fail(f"{at}.{key}" if at else key, f"must be a list, not {_type(value)}")
        return value

    def text(self, record: dict[str, Any], key: str, at: str, may_be_empty: bool = False) -> str:
        value = self.required(record, key, at)
        name = f"{at}.{key}" if at else key
        if not isinstance(value, str):
            self.fail(name, f"must be a string, not {_type(value)}")
        if not may_be_empty and not value.strip():
            self.fail(name, "is empty")
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.fail(
                name, "holds half of a surrogate pair (\\ud800 to \\udfff alone), which is not text; mend the export"
            )
        return value

    def choice(self, record: dict[str, Any], key: str, at: str, known: Iterable[str]) -> str:
        value, known = self.text(record, key, at), list(known)
        if value not in known:
            self.fail(f"{at}.{key}", f"is '{value}', not one of {', '.join(known)}" + did_you_mean(value, known))
        return value

    def required(self, record: dict[str, Any], key: str, at: str) -> Any:
        if key not in record:
            self.fail(f"{at}.{key}" if at else key, "is missing")
        return record[key]

    def fail(self, name: str, problem: str) -> NoReturn:
        raise UserError(f"{self.where}: field '{name}': {problem}")


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
