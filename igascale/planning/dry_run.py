"""One forward and backward pass on the meta device: which bytes live at the same time, and which products are formed.

Every operation runs with shapes and without numbers, so what PyTorch's autograd, PEFT, the model's class and activation
checkpointing keep is counted as it is. No formula has to follow their changes.

Shape legend: B rows of a micro-batch, T positions, V vocabulary, N supervised positions of the micro-batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from igascale.errors import UserError
from igascale.model import Checkpointing, set_activation_checkpointing


@dataclass(frozen=True)
class LinearUse:
    """One linear layer as the forward pass uses it, once per token.

    Attributes:
        out_features: O.
        in_features: I.
        input_grad: whether the backward pass forms the gradient of its input.
        weight_grad: whether it forms that of its weight.
        recomputed: whether activation checkpointing runs it a second time.
    """

    out_features: int
    in_features: int
    input_grad: bool
    weight_grad: bool
    recomputed: bool


@dataclass(frozen=True)
class DryRun:
    """What one micro-batch takes.

    Attributes:
        saved_bytes: what the forward pass leaves for the backward pass, without the logits.
        logits_bytes: of the logits.
        peak_bytes: the most that lives at one time beyond parameters, both of the above included.
        linears: every linear layer.
        attention_recomputed: whether checkpointing runs the attention twice.
    """

    saved_bytes: int
    logits_bytes: int
    peak_bytes: int
    linears: tuple[LinearUse, ...]
    attention_recomputed: bool


def dry_run(model: Any, rows: int, positions: int, supervised: int, checkpointing: Checkpointing) -> DryRun:
    """Run one micro-batch without numbers.

    Args:
        model: from :func:`igascale.planning.shapes.build_meta_model`.
        rows: B.
        positions: T. Rows are taken to differ in length, so that there is a mask.
        supervised: N, over all rows.
        checkpointing: ``model.activation_checkpointing``.

    Raises:
        UserError: the model cannot be run without numbers.
    """
    set_activation_checkpointing(model, checkpointing)
    input_ids_BT = torch.zeros(rows, positions, dtype=torch.long, device="meta")
    mask_B1TT = torch.zeros(rows, 1, positions, positions, dtype=torch.bool, device="meta")
    if model.config._attn_implementation == "eager":  # which adds it to the scores
        mask_B1TT = torch.zeros(mask_B1TT.shape, dtype=next(model.parameters()).dtype, device="meta")
    known = [*model.parameters(), *model.buffers()]
    try:
        with _LiveBytes(known) as live, _Linears(model, checkpointing) as linears:
            live.watch(input_ids_BT, mask_B1TT)
            logits_BTV = model(input_ids=input_ids_BT, attention_mask=mask_B1TT).logits
            logits_bytes = logits_BTV.numel() * logits_BTV.element_size()
            saved_bytes = live.now - logits_bytes
            linears.in_backward = True
            _loss(logits_BTV, supervised).backward()
    except (NotImplementedError, RuntimeError) as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise UserError(f"{type(model.get_base_model()).__name__} cannot be run without weights: {reason}") from None
    finally:
        model.zero_grad(set_to_none=True)
    return DryRun(saved_bytes, logits_bytes, live.peak, linears.uses, checkpointing != "none")


def _loss(logits_BTV: Tensor, supervised: int) -> Tensor:
    """:func:`igascale.loss.domain_token_losses`, operation by operation, where the labels are not known."""
    index_N = torch.zeros(supervised, dtype=torch.long, device="meta")
    logits_NV = logits_BTV[index_N, index_N]
    return F.cross_entropy(logits_NV.float(), index_N, reduction="none").sum()


class _Linears:
    """Observes every linear layer of a model: in the forward pass what it is, in the backward pass whether it runs again."""

    def __init__(self, model: nn.Module, checkpointing: Checkpointing):
        self._model, self._reentrant = model, checkpointing == "reentrant"
        self._seen: dict[int, LinearUse] = {}
        self._handles: list[Any] = []
        self.in_backward = False

    @property
    def uses(self) -> tuple[LinearUse, ...]:
        """One entry for each layer."""
        return tuple(self._seen.values())

    def __enter__(self) -> _Linears:
        layers = [m for m in self._model.modules() if isinstance(m, nn.Linear)]
        self._handles = [m.register_forward_hook(self._see) for m in layers]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self.in_backward:  # the last layer of a block may be left out: nothing after it is needed
            self._seen[id(linear)] = replace(self._seen[id(linear)], recomputed=True)
            return
        weight: Tensor = linear.weight  # type: ignore[assignment]
        # Reentrant checkpointing runs its blocks without gradients first, on an input that asks for one.
        input_grad = args[0].requires_grad or self._reentrant
        self._seen[id(linear)] = LinearUse(weight.shape[0], weight.shape[1], input_grad, weight.requires_grad, False)


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations create, until they die.

    Args:
        known: tensors that are there already and do not count.

    Attributes:
        now: bytes alive.
        peak: the most there were.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {t.untyped_storage()._cdata: 0 for t in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.index_put.default:  # in place, unless a mode such as this one is active
            function = torch.ops.aten.index_put_.default
        result = function(*args, **(kwargs or {}))
        self.watch(*(t for t in tree_leaves(result) if isinstance(t, Tensor)))
        return result

    def watch(self, *tensors: Tensor) -> None:
        """Count these, unless they share memory with what is counted."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._died, key)

    def _died(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
