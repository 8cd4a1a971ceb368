"""Put the prediction together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from igascale import hooks
from igascale.adapters import LoraAdapter
from igascale.assemble import build_hook
from igascale.config import RunConfig
from igascale.engine.ds_config import load_ds_config
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.model import Checkpointing
from igascale.planning.batch import Batch, plan_batch
from igascale.planning.cluster import Cluster
from igascale.planning.dry_run import DryRun, dry_run
from igascale.planning.hook_cost import NO_WORK, HookWork, hook_work
from igascale.planning.memory import Memory, plan_memory
from igascale.planning.shapes import Shapes, build_meta_model, find_shapes
from igascale.planning.timing import MFU, Flops, StepTime, combine_seconds, micro_batch_flops, step_time
from igascale.planning.verdict import Verdict, decide
from igascale.planning.wire import Transfer, igascale_transfers, plain_transfers, plan_owners

#: DeepSpeed's reduce bucket where its file does not say.
_DEFAULT_BUCKET = 500_000_000


@dataclass(frozen=True)
class Plan:
    """A prediction.

    Attributes:
        hook: name of the rule.
        cluster: the machines.
        shapes: the model.
        batch: the step.
        memory: of one GPU.
        verdict: whether it fits.
        wire: what each method sends in a step.
        flops: of one micro-batch.
        times: of plain DeepSpeed, igascale's mean and, where it is another one, the rule.
        checkpointing: of the activations.
        assumptions: what was taken for granted, one sentence each.
    """

    hook: str
    cluster: Cluster
    shapes: Shapes
    batch: Batch
    memory: Memory
    verdict: Verdict
    wire: dict[str, list[Transfer]]
    flops: Flops
    times: list[StepTime]
    checkpointing: Checkpointing
    assumptions: tuple[str, ...]

    @property
    def overhead(self) -> float:
        """Of the rule over igascale's plain mean, as a share of the step."""
        return self.times[-1].total / self.times[1].total - 1

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: every number, in bytes and seconds."""
        memory = {
            "lines": [asdict(line) for line in self.memory.lines],
            "total": self.memory.total(),
            "total_if_weights_were_sharded": self.memory.total(sharded=True),
            "available": self.cluster.gpu.memory_bytes,
        }
        return {
            "hook": self.hook,
            "cluster": self.cluster.model_dump() | {"ranks": self.cluster.ranks, "ring_gbs": self.cluster.ring_gbs},
            "model": {key: value for key, value in asdict(self.shapes).items() if key != "adapters"}
            | {"adapters": len(self.shapes.adapters)},
            "batch": asdict(self.batch),
            "memory": memory,
            "verdict": asdict(self.verdict),
            "wire": {name: [asdict(t) for t in transfers] for name, transfers in self.wire.items()},
            "flops": asdict(self.flops),
            "seconds": [asdict(t) | {"total": t.total} for t in self.times],
            "overhead": self.overhead,
            "assumptions": list(self.assumptions),
        }


def make_plan(
    config: RunConfig, cluster: Cluster, model_path: str | Path, tokens: int | None = None, mfu: float = MFU
) -> Plan:
    """Predict one run.

    Args:
        config: the run's.
        cluster: where it is to run.
        model_path: folder with the model's ``config.json``, or that file.
        tokens: of an instance; see :func:`igascale.planning.batch.plan_batch`.
        mfu: share of the peak that forward and backward pass reach.

    Raises:
        UserError: something in the configuration, the model or the cluster that a run would refuse, too.
    """
    if config.engine.name == "single" and cluster.ranks > 1:
        raise UserError(
            f"engine.name is 'single', one process, but the cluster has {cluster.ranks} GPUs; set engine.name=deepspeed, or plan "
            "for --nodes 1 --gpus-per-node 1"
        )
    hook = build_hook(config)
    model = build_meta_model(config, model_path)
    shapes, adapters = find_shapes(model)
    batch = plan_batch(config, hook, cluster.ranks, tokens, shapes.max_positions)
    zero = _zero_options(config)
    owners = plan_owners(hook, adapters, batch.domains, cluster.ranks)
    owned = max(sum(adapters[f].A.numel() + adapters[f].B.numel() for f in fqns) for fqns in owners.values())

    @cache
    def run(rows: int, checkpointing: Checkpointing) -> DryRun:
        return dry_run(model, rows, batch.longest, min(rows * batch.supervised, rows * batch.longest), checkpointing)

    def memory(rows: int, checkpointing: Checkpointing) -> Memory:
        return plan_memory(
            shapes,
            hook,
            run(rows, checkpointing),
            domains=batch.domains,
            rows=rows,
            ranks=cluster.ranks,
            owned_parameters=owned,
            engine=config.engine.name,
            bucket_elements=zero["bucket"],
        )

    checkpointing = config.model.activation_checkpointing
    once = run(batch.micro_batch, checkpointing)
    plain, flops = (_flops(shapes, once, batch, passes) for passes in (1, 2 if hook.auxiliary else 1))
    wire = _wire(config, hook, adapters, batch, cluster.ranks, zero["stage"])
    return Plan(
        hook=config.hook.name,
        cluster=cluster,
        shapes=shapes,
        batch=batch,
        memory=memory(batch.micro_batch, checkpointing),
        verdict=decide(memory, batch.micro_batch, checkpointing, cluster),
        wire=wire,
        flops=flops,
        times=_times(config, hook, shapes, adapters, batch, cluster, plain, flops, wire, mfu),
        checkpointing=checkpointing,
        assumptions=_assumptions(config, batch, cluster, mfu),
    )


def _flops(shapes: Shapes, run: DryRun, batch: Batch, passes: int) -> Flops:
    return micro_batch_flops(
        run.linears,
        shapes.attention_width,
        shapes.layers,
        run.attention_recomputed,
        batch.micro_batch,
        batch.tokens,
        passes,
    )


def _wire(
    config: RunConfig, hook: GradientHook, adapters: dict[str, LoraAdapter], batch: Batch, ranks: int, zero_stage: int
) -> dict[str, list[Transfer]]:
    mean, bucket_mb = hooks.build("mean", {}), config.engine.reduce_bucket_mb
    return {
        "plain DeepSpeed": plain_transfers(adapters, ranks, zero_stage, batch.micro_steps),
        "igascale mean": igascale_transfers(mean, adapters, batch.domains, ranks, bucket_mb),
        f"igascale {config.hook.name}": igascale_transfers(hook, adapters, batch.domains, ranks, bucket_mb),
    }


def _times(
    config: RunConfig,
    hook: GradientHook,
    shapes: Shapes,
    adapters: dict[str, LoraAdapter],
    batch: Batch,
    cluster: Cluster,
    plain: Flops,
    flops: Flops,
    wire: dict[str, list[Transfer]],
    mfu: float,
) -> list[StepTime]:
    gpu = cluster.gpu
    peak = gpu.bf16_tflops if config.model.dtype == "bfloat16" else gpu.fp32_tflops
    mean = hooks.build("mean", {})
    works = (NO_WORK, _heaviest(mean, adapters, batch, cluster), _heaviest(hook, adapters, batch, cluster))
    partition = shapes.lora_parameters / (cluster.ranks if config.engine.name == "deepspeed" else 1)
    micro_steps = batch.instances / batch.micro_batch
    return [
        step_time(name, counted, micro_steps, transfers, work, partition, cluster, peak, mfu)
        for (name, transfers), counted, work in zip(wire.items(), (plain, plain, flops), works)
    ]


def _heaviest(hook: GradientHook, adapters: dict[str, LoraAdapter], batch: Batch, cluster: Cluster) -> HookWork:
    """The work of the rank that has most."""

    def work(fqns: list[str]) -> HookWork:
        owned = [adapters[fqn] for fqn in fqns]
        return sum(
            (hook_work(hook, (a.out_features, a.in_features, a.rank), batch.domains) for a in owned), start=NO_WORK
        )

    works = [work(fqns) for fqns in plan_owners(hook, adapters, batch.domains, cluster.ranks).values()]
    return max(works, key=lambda w: combine_seconds(w, cluster))


def _zero_options(config: RunConfig) -> dict[str, int]:
    """ZeRO's stage and the elements of its reduce bucket."""
    if config.engine.name != "deepspeed":
        return {"stage": 2, "bucket": 0}
    zero = load_ds_config(config.engine.ds_config, bf16=config.model.dtype == "bfloat16")["zero_optimization"]
    return {"stage": int(zero["stage"]), "bucket": int(zero.get("reduce_bucket_size", _DEFAULT_BUCKET))}


def _assumptions(config: RunConfig, batch: Batch, cluster: Cluster, mfu: float) -> tuple[str, ...]:
    from igascale.planning import memory, timing

    link = "within the node" if cluster.nodes == 1 else "between nodes"
    packing = (
        "train.packing is not in it: rows are padded here; packed, they save the padding, and with sdpa or eager every token is "
        "scored against its whole row, which takes more time and memory in attention than is said here"
    )
    return (
        batch.assumption,
        *([packing] if config.train.packing else []),
        f"forward and backward pass reach {mfu:.0%} of the peak (--mfu); attention counts as the whole T x T square",
        f"the rule reaches {timing.HOOK_EFFICIENCY:.0%} of the float32 peak and of the memory bandwidth; each QR or SVD of a sketch "
        f"takes {timing.DECOMPOSITION * 1e3:g} ms",
        f"a ring reaches {timing.WIRE_EFFICIENCY:.0%} of {cluster.ring_gbs:g} GB/s {link}, an operation costs "
        f"{timing.LATENCY * 1e6:.0f} us per doubling of ranks; nothing overlaps",
        f"{memory.RESERVE_BYTES / 2**30:g} GiB for CUDA and NCCL, {memory.FRAGMENTATION:.0%} of what comes and goes for fragmentation",
        "data loading, validation, checkpoints and start-up are not in it; capture is charged no time",
    )
