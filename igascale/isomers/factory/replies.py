"""What the teacher is asked to answer with: one strict model a prompt, and the fields that the prompts name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from igascale.isomers.schema import EDGE_LABELS, NODE_TYPES


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _lower(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.strip().rstrip(".").casefold() if isinstance(value, str) else value


YesNo = Annotated[Literal["yes", "no"], BeforeValidator(_lower)]


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number, not {value!r}")
    return value


#: `true` and `"1"` are no scores, although pydantic would take them for 1.0.
Score = Annotated[float, BeforeValidator(_number)]


class NodeReply(_Reply):
    """A node of the reasoning graph. The gates judge the type, so that a wrong one is named to the teacher."""

    id: str
    type: str = Field(json_schema_extra={"enum": list(NODE_TYPES)})
    description: str


class EdgeReply(_Reply):
    """A directed edge between two node ids."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    label: str = Field(json_schema_extra={"enum": list(EDGE_LABELS)})


class ExtractReply(_Reply):
    """The logical structure of a seed problem."""

    nodes: list[NodeReply]
    edges: list[EdgeReply]
    logical_form: str
    step_count: int


class StepReply(_Reply):
    """One step of a solution and the earlier steps it uses, counted from 1; none where it uses only the problem's facts."""

    step: str
    depends_on: list[int]


class InstantiateReply(_Reply):
    """The structure told in one domain, with its solution. `alignment_score` is the teller's own claim: recorded, not trusted."""

    problem: str
    cot_solution: list[StepReply]
    answer: str
    alignment_score: Score


class VerifyReply(_Reply):
    """A second look at a telling beside the seed."""

    dependencies_preserved: YesNo
    same_step_count: YesNo
    same_reasoning: YesNo
    in_domain: YesNo
    alignment_score: Score
    issues: list[str]


class SolveReply(_Reply):
    """An independent solution, for the votes."""

    reasoning: str
    answer: str


#: Prompt -> the model of its answer.
REPLIES: dict[str, type[BaseModel]] = {
    "extract": ExtractReply,
    "instantiate": InstantiateReply,
    "verify": VerifyReply,
    "solve": SolveReply,
}


def field_names(model: type[BaseModel]) -> list[str]:
    """Every field that an answer holds, those of its parts included, as they are spelled in JSON."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(info.alias or name)
        for part in getattr(info.annotation, "__args__", ()):
            if isinstance(part, type) and issubclass(part, BaseModel):
                names += field_names(part)
    return names
