"""What a run is planned for: GPUs, how many, and what joins them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from igascale.config import read_yaml
from igascale.errors import UserError, did_you_mean

GPUS = Path(__file__).with_name("gpus.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gpu(_Strict):
    """One kind of GPU; the units stand in gpus.yaml."""

    memory_gib: float = Field(gt=0)
    bf16_tflops: float = Field(gt=0)
    tf32_tflops: float = Field(gt=0)
    fp32_tflops: float = Field(gt=0)
    hbm_gbs: float = Field(gt=0)
    link_gbs: float = Field(gt=0)
    network_gbs: float = Field(gt=0)

    @property
    def memory_bytes(self) -> float:
        """What a program can allocate, bytes."""
        return self.memory_gib * 2**30


class Cluster(_Strict):
    """Nodes of equal GPUs.

    Attributes:
        gpu: the kind, by a name of gpus.yaml or as a mapping with the keys of :class:`Gpu`.
        interconnect_gbs: GB/s per GPU and direction between nodes; ``None``: the table's.
    """

    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(1, ge=1)
    gpu: Gpu
    gpu_name: str = "custom"
    interconnect_gbs: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("gpu"), str):
            name = raw["gpu"]
            if name not in known_gpus():
                hint = did_you_mean(name, known_gpus()) or f"; there are {', '.join(known_gpus())}"
                raise ValueError(f"unknown GPU '{name}'{hint}; describe another one in a file for --cluster")
            return raw | {"gpu": known_gpus()[name], "gpu_name": name}
        return raw

    @property
    def ranks(self) -> int:
        """GPUs in all, one rank each."""
        return self.nodes * self.gpus_per_node

    @property
    def ring_gbs(self) -> float:
        """GB/s of the slowest link that a ring over all ranks crosses."""
        if self.nodes == 1:
            return self.gpu.link_gbs
        return min(self.gpu.link_gbs, self.interconnect_gbs or self.gpu.network_gbs)


@cache
def known_gpus() -> dict[str, dict[str, float]]:
    """The table, by name."""
    table: dict[str, dict[str, float]] = yaml.safe_load(GPUS.read_text())
    return table


def read_cluster(path: str | Path | None, **options: Any) -> Cluster:
    """The cluster of a YAML file, of command line options, or of a file with some values replaced.

    Args:
        path: a file with the keys of :class:`Cluster`, or ``None``.
        options: those keys; ``None`` leaves the file's, or the default.

    Raises:
        UserError: no such file, not YAML, an unknown, missing or wrong key, an unknown GPU; all problems in one message.
    """
    raw = read_yaml(Path(path)) if path else {}
    raw |= {key: value for key, value in options.items() if value is not None}
    source = str(path) if path else "cluster"
    if "gpu" not in raw:
        raise UserError(f"{source}: name the GPU with --gpu: {', '.join(known_gpus())}, or describe one with --cluster")
    try:
        return Cluster.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_explain(e)}" for e in error.errors())) from None


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    section: Any = Gpu if key.startswith("gpu.") else Cluster
    known = [f"gpu.{name}" if section is Gpu else name for name in section.model_fields]
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{did_you_mean(key, known) or '; known here: ' + ', '.join(known)}"
    if error["type"] == "missing":
        return f"missing key '{key}'"
    message = error["msg"].removeprefix("Value error, ")
    return f"'{key}': {message} (got {error['input']!r})" if key else message
