"""Stock DeepSpeed ZeRO-1 and ZeRO-2 through its public API.

How a gradient that DeepSpeed did not compute gets into its partitions:

1. ``engine.coalesce_grad_reduction()`` holds back the reduction over all micro-batches of a step. At the end of the block
   every ordinary gradient is dropped, so DeepSpeed reduces nothing: no bytes are spent on gradients nobody uses.
2. ``safe_set_full_grad`` writes the combined gradient into each rank's partition, without communication.
3. ``safe_set_full_optimizer_state`` does the same for the reference gradient of ``second_moment: max``.
4. ``engine.step()``. Clipping has happened before (:mod:`igascale.step`), DeepSpeed's own is 0.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from igascale.adapters import LoraAdapter
from igascale.engine.adamw import MOMENTS, REFERENCE, AdamW
from igascale.engine.base import Engine, MasterState, factor_parameters, factor_tensors
from igascale.errors import UserError
from igascale.hooks.base import FactorGrads
from igascale.imports import uncollected


def _import_deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        with uncollected():
            import deepspeed
    except ImportError:
        raise UserError(
            "engine.name is 'deepspeed' but DeepSpeed is not installed: pip install 'igascale[deepspeed]', "
            "or set engine.name: single"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # The shared-memory op serves DeepSpeed's inference only, yet it would be compiled at start (a compiler needed, up to
    # a minute) and leaves 69 MB per rank in /dev/shm. Undocumented, hence guarded: without it all still works.
    ops = getattr(getattr(deepspeed, "ops", None), "__compatible_ops__", None)
    if isinstance(ops, dict) and "deepspeed_shm_comm" in ops:
        ops["deepspeed_shm_comm"] = False
    return deepspeed


def init_distributed() -> torch.device:
    """Join the process group that the launcher describes in the environment; return this rank's device.

    Raises:
        UserError: not started by a launcher.
    """
    missing = [k for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if missing:
        raise UserError(
            f"engine.name: deepspeed needs a launcher ({', '.join(missing)} not set): run "
            "`igascale launch CONFIG --num-processes N`, or set engine.name=single for one process"
        )
    deepspeed = _import_deepspeed()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    deepspeed.init_distributed(verbose=False)
    return device


class DeepSpeedEngine(Engine):
    """ZeRO-1/2 with gradients from a hook.

    Args:
        model: the PEFT model, on ``device``.
        adapters: its adapters.
        make_optimizer: builds the client optimizer over the factors.
        device: this rank's device.
        config: from :func:`igascale.engine.ds_config.load_ds_config`.
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: Mapping[str, LoraAdapter],
        make_optimizer: Callable[[list[nn.Parameter]], AdamW],
        device: torch.device,
        config: dict[str, Any],
    ):
        super().__init__(model, adapters, device)
        deepspeed = _import_deepspeed()
        self.parameters = factor_parameters(adapters)
        self.optimizer = make_optimizer(list(self.parameters.values()))
        # DeepSpeed warns of every optimizer it does not know by name; this one is tested under it.
        logger = logging.getLogger("DeepSpeed")
        level = logger.level
        logger.setLevel(logging.ERROR)
        self._engine = deepspeed.initialize(model=model, optimizer=self.optimizer, config=config)[0]
        logger.setLevel(level)
        self.bf16_gradient = bool(config["bf16"]["enabled"]) and config["zero_optimization"]["stage"] == 1
        self._allocate_states()

    def _allocate_states(self) -> None:
        """Take one step that changes nothing, after which DeepSpeed lets states be read and written."""
        with self.accumulate():
            pass
        self.optimizer.allocate_states(self._engine.step)
        self._engine.global_steps = 0

    def forward(self, **inputs: Tensor) -> Any:
        """See the base class."""
        return self._engine(**inputs)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """See the base class."""
        with self._engine.coalesce_grad_reduction():
            try:
                yield
            finally:
                # Also after an error: the flush at the end of the block would otherwise wait for the other ranks.
                for p in self.parameters.values():
                    p.grad = p.grad_accum = None  # type: ignore[attr-defined]

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """See the base class."""
        self._engine.backward(loss, retain_graph=retain_graph)

    def apply(self, grads: Mapping[str, FactorGrads]) -> None:
        """See the base class."""
        from deepspeed.utils import safe_set_full_grad, safe_set_full_optimizer_state

        for name, grad in factor_tensors(grads, self.parameters).items():
            # ZeRO-1 in bfloat16 accumulates in bfloat16: DeepSpeed's wrapper for float32 cannot coalesce.
            safe_set_full_grad(self.parameters[name], grad.bfloat16() if self.bf16_gradient else grad)
        if self.optimizer.use_reference:
            for name, reference in factor_tensors(grads, self.parameters, reference=True).items():
                safe_set_full_optimizer_state(self.parameters[name], reference, REFERENCE)

    def step(self, lr: float) -> None:
        """See the base class."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        before = self.optimizer.steps
        self._engine.step()
        if self.optimizer.steps != before + 1:
            raise RuntimeError("DeepSpeed did not take the optimizer step it was asked for")

    def get_state(self) -> MasterState:
        """See the base class."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors = {}
        for name, p in self.parameters.items():
            tensors[f"{name}.master"] = safe_get_full_fp32_param(p).detach().cpu()
            for moment in MOMENTS:
                tensors[f"{name}.{moment}"] = safe_get_full_optimizer_state(p, moment).detach().cpu()
        return MasterState(self.optimizer.steps, tensors)

    @torch.no_grad()
    def set_state(self, state: MasterState) -> None:
        """See the base class."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self.optimizer.steps = state.steps
        for name, p in self.parameters.items():
            master = state.tensors[f"{name}.master"].to(self.device)
            safe_set_full_fp32_param(p, master)
            p.copy_(master)
            for moment in MOMENTS:
                safe_set_full_optimizer_state(p, state.tensors[f"{name}.{moment}"].to(self.device), moment)

    def close(self) -> None:
        """Destroy the engine and the process group; without it some runs abort at exit after a good training."""
        self._engine.destroy()
        self.comm.barrier()
        torch.distributed.destroy_process_group()
