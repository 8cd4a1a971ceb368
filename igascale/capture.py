r"""Per-domain gradients of LoRA factors from one forward and one backward pass over a batch that mixes domains.

A linear layer's weight gradient is a sum over rows, so it can be split by the rows' domain:

.. math::
    a_n = \sum_{b \in n} (\partial L/\partial h_b)^T x_b, \qquad
    b_n = \sum_{b \in n} (\partial L/\partial y_b)^T h_b

with x the input of ``lora_A``, h its output (the input of ``lora_B``) and y the output of ``lora_B``. A
forward hook on both puts an identity into the graph whose backward sees the output's gradient beside the
saved input. The scaling is in the gradient of y already, and the dropout in x.

Shape legend: B rows of the micro-batch, T positions, D domains, F in-features, O out-features of the tapped
linear layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from igascale.adapters import LoraAdapter
from igascale.hooks.base import DomainFactorGrads
from igascale.noise import MicroBatchGrams

SETS = ("main", "aux")


class GradientCapture:
    """Accumulates ``a [D, R, I]`` and ``b [D, O, R]`` of every adapter, over micro-batches, in float32.

    Installed by :meth:`install` or by entering it as a context manager; :meth:`remove` leaves the modules as
    they were. Outputs and ordinary gradients are unaltered. Works under activation checkpointing of either
    kind: the inputs are saved through autograd, so that checkpointing drops and recomputes them, and each
    backward counts once.

    Example::

        with GradientCapture(find_adapters(model), num_domains=4) as capture:
            for batch in micro_batches:
                with capture.rows(batch.domain):
                    loss(model(batch)).backward()
            sums = capture.sums()

    A factor that is frozen has no gradient: its sums are zero.

    Args:
        adapters: see :func:`igascale.adapters.find_adapters`.
        num_domains: D.
        measure_noise: also keep inner products of each micro-batch's gradients (:mod:`igascale.noise`).

    Attributes:
        noise: those inner products since the last :meth:`reset`, or ``None``.
    """

    def __init__(self, adapters: Mapping[str, LoraAdapter], num_domains: int, measure_noise: bool = False):
        if num_domains < 1:
            raise ValueError(f"num_domains must be at least 1, not {num_domains}")
        self._adapters = dict(adapters)
        self._num_domains = num_domains
        self._handles: list[RemovableHandle] = []
        self._rows: _Rows | None = None
        self._sums: dict[str, dict[tuple[str, str], Tensor]] = {}
        self._buffers: Mapping[str, Mapping[str, DomainFactorGrads]] = {}
        self._measure_noise = measure_noise
        self.noise: MicroBatchGrams | None = None
        self.reset()

    def __enter__(self) -> GradientCapture:
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def install(self) -> None:
        """Register the forward hooks."""
        if self._handles:
            raise RuntimeError("this capture is installed already; remove() it first")
        for fqn, adapter in self._adapters.items():
            if not (adapter.A.requires_grad or adapter.B.requires_grad):
                raise RuntimeError(f"{fqn}: its LoRA weights are frozen, so nothing would be captured")
            for factor, linear in (("a", adapter.lora_A), ("b", adapter.lora_B)):
                if not linear.weight.requires_grad:
                    continue
                self._handles.append(linear.register_forward_hook(_Site(self, fqn, factor)))

    def remove(self) -> None:
        """Take the forward hooks away; what was captured stays readable in this object."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def rows(
        self,
        domain_B: Tensor,
        into: str = "main",
        weight_B: Tensor | None = None,
        whole_groups: bool = True,
        on_complete: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Forward and backward of one micro-batch run inside.

        For a second backward through the same graph enter it again with another ``into``: a gradient goes to
        the set in force when the backward runs.

        Args:
            domain_B: ``[B]``, integer, the domain of each row of the batch.
            into: the set that receives the gradients, ``"main"`` or ``"aux"``.
            weight_B: ``[B]``, each row's share of what its domain's sums are divided by (its supervised tokens, say);
                for the measurement of noise only; by default every row counts alike.
            whole_groups: false where the last group of the micro-batch goes on in the next one; for the noise only.
            on_complete: called from the backward pass with an adapter's ``fqn`` when every forward pass of the adapter in this
                block has had its backward; not called where one has none (an output that the loss does not depend on).

        Raises:
            ValueError: an unknown set, or a domain outside ``0 .. D-1``.
            RuntimeError: the capture is not installed. Also, from inside the forward or backward pass: the
                model's batch does not have these rows, or an adapter takes no part in the gradient.
        """
        _check_set(into)
        if not self._handles:
            raise RuntimeError("the capture is not installed; enter it as a context manager or call install()")
        before, self._rows = self._rows, _Rows.of(domain_B, self._num_domains, into, on_complete)
        if self.noise is not None and into == "main":
            weight_B = torch.ones(len(domain_B)) if weight_B is None else weight_B.detach().cpu()
            one_hot_DB = self._rows.one_hot(torch.device("cpu"))
            self.noise.begin(one_hot_DB.double() @ weight_B.double(), whole_groups)
        try:
            yield
        finally:
            self._rows = before

    def sums(self, into: str = "main") -> dict[str, DomainFactorGrads]:
        """What came since the last :meth:`reset`, per adapter; zeros where nothing came.

        The tensors are the accumulators themselves: a further backward adds to them; :meth:`reset` leaves
        them alone.
        """
        _check_set(into)
        if into in self._buffers:
            return dict(self._buffers[into])
        return {
            fqn: DomainFactorGrads(
                self._accumulator(into, fqn, "a", adapter.A), self._accumulator(into, fqn, "b", adapter.B)
            )
            for fqn, adapter in self._adapters.items()
        }

    def reset(self, buffers: Mapping[str, Mapping[str, DomainFactorGrads]] | None = None) -> None:
        """Start again from zero, in new tensors.

        Args:
            buffers: set -> adapter -> tensors to add into, zero so far; for the sets that are not named the capture makes
                its own. Asked anew at every gradient, so that they may refuse one.
        """
        self._buffers = buffers or {}
        self._sums = {name: {} for name in SETS}
        self.noise = MicroBatchGrams(self._num_domains) if self._measure_noise else None

    def _accumulator(self, into: str, fqn: str, factor: str, like: Tensor) -> Tensor:
        if into in self._buffers:
            pair = self._buffers[into][fqn]
            return pair.a if factor == "a" else pair.b
        held = self._sums[into]
        if (fqn, factor) not in held:
            held[fqn, factor] = torch.zeros(self._num_domains, *like.shape, dtype=torch.float32, device=like.device)
        return held[fqn, factor]

    def _forward(self, site: _Site, x_BTF: Tensor, y_BTO: Tensor) -> Tensor:
        """The output, passed through the identity that captures; the hook of every tapped layer."""
        if self._rows is not None:
            self._rows.expect(site.fqn)
        if not torch.is_grad_enabled():  # evaluation, or the first pass of reentrant checkpointing
            return y_BTO
        if not y_BTO.requires_grad:
            if self._rows is None:
                return y_BTO
            raise RuntimeError(
                f"{site}: its output needs no gradient, so nothing would be captured; are the LoRA weights frozen?"
            )
        # Under autocast the layer multiplies in the output's dtype, whatever the dtype of its input is.
        saved_BTF = x_BTF.detach().to(y_BTO.dtype)
        return _Tap.apply(y_BTO, saved_BTF, site, self._rows and self._rows.domains)

    def _backward(self, site: _Site, forward_domains: tuple[int, ...] | None, x_BTF: Tensor, grad_BTO: Tensor) -> None:
        """Add one micro-batch's products to the set in force."""
        rows = self._rows
        if rows is None:
            raise RuntimeError(f"{site}: backward outside of capture.rows(domain, ...); it cannot tell domains apart")
        if x_BTF.ndim != 3 or x_BTF.shape[0] != len(rows.domains):
            raise RuntimeError(
                f"{site}: saw an input of shape {list(x_BTF.shape)}, but the batch has {len(rows.domains)} rows: expected "
                f"[{len(rows.domains)}, positions, features] (layers that regroup tokens cannot be captured)"
            )
        if forward_domains is not None and forward_domains != rows.domains:
            raise RuntimeError(f"{site}: the rows' domains are not those that the forward pass ran with")
        adapter = self._adapters[site.fqn]
        like = adapter.A if site.factor == "a" else adapter.B
        sum_DOF = self._accumulator(rows.into, site.fqn, site.factor, like)
        with torch.autocast(grad_BTO.device.type, enabled=False):
            product_BOF = _outer_products(grad_BTO, x_BTF)
            one_hot_DB = rows.one_hot(product_BOF.device)
            if self.noise is None or rows.into != "main":
                sum_DOF.view(self._num_domains, -1).addmm_(one_hot_DB, product_BOF.flatten(1))
            else:
                micro_DOF = (one_hot_DB @ product_BOF.flatten(1)).view_as(sum_DOF)
                sum_DOF.add_(micro_DOF)
                self.noise.add(site.fqn, site.factor, micro_DOF, adapter)
        rows.arrived(site.fqn)


@dataclass(frozen=True)
class _Site:
    """One tapped linear layer; also its forward hook."""

    capture: GradientCapture
    fqn: str
    factor: str

    def __call__(self, linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.capture._forward(self, args[0], output)

    def __str__(self) -> str:
        return f"{self.fqn}.lora_{self.factor.upper()}"


class _Tap(torch.autograd.Function):
    """The identity in the forward pass; hands over the saved input and the output's gradient in the backward pass."""

    @staticmethod
    def forward(ctx: Any, y_BTO: Tensor, x_BTF: Tensor, site: _Site, domains: tuple[int, ...] | None) -> Tensor:
        ctx.save_for_backward(x_BTF)
        ctx.site, ctx.domains = site, domains
        return y_BTO.view_as(y_BTO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor, None, None, None]:
        (x_BTF,) = ctx.saved_tensors
        ctx.site.capture._backward(ctx.site, ctx.domains, x_BTF, grad_BTO)
        return grad_BTO, None, None, None


class _Rows:
    """The domains of one micro-batch's rows, and where its gradients go."""

    def __init__(
        self,
        domains: tuple[int, ...],
        num_domains: int,
        into: str,
        on_complete: Callable[[str], None] | None = None,
    ):
        self.domains, self.into, self._on_complete = domains, into, on_complete
        self._awaited: Counter[str] = Counter()
        self._one_hot_DB = torch.zeros(num_domains, len(domains))
        self._one_hot_DB[list(domains), range(len(domains))] = 1.0
        self._copies: dict[torch.device, Tensor] = {}

    @classmethod
    def of(
        cls, domain_B: Tensor, num_domains: int, into: str, on_complete: Callable[[str], None] | None = None
    ) -> _Rows:
        """Check and read the vector (on a GPU this waits for it; once per micro-batch)."""
        if domain_B.ndim != 1 or domain_B.is_floating_point():
            raise ValueError(f"domain must be a vector of integers, not {list(domain_B.shape)} {domain_B.dtype}")
        domains = tuple(int(d) for d in domain_B.tolist())
        for d in domains:
            if not 0 <= d < num_domains:
                raise ValueError(f"domain {d} is not in 0 .. {num_domains - 1}")
        return cls(domains, num_domains, into, on_complete)

    def expect(self, fqn: str) -> None:
        """A tapped layer of the adapter runs forward.

        Also without gradients, which is how reentrant checkpointing runs it first; but not in the backward pass, where
        checkpointing of either kind runs it again.
        """
        if self._on_complete is not None and torch._C._current_graph_task_id() == -1:
            self._awaited[fqn] += 1

    def arrived(self, fqn: str) -> None:
        """One gradient of the adapter has been added."""
        if self._on_complete is None:
            return
        self._awaited[fqn] -= 1
        if self._awaited[fqn] <= 0:
            self._on_complete(fqn)

    def one_hot(self, device: torch.device) -> Tensor:
        """``[D, B]``, float32."""
        if device not in self._copies:
            self._copies[device] = self._one_hot_DB.to(device)
        return self._copies[device]


def _outer_products(grad_BTO: Tensor, x_BTF: Tensor) -> Tensor:
    """``grad^T x`` of every row, ``[B, O, F]``, multiplied and added up in float32.

    Row by row costs no more multiplications than domain by domain, and needs no regrouped copy of the
    (large) input.
    """
    grad_BOT = grad_BTO.transpose(1, 2)
    if grad_BTO.is_cuda and grad_BTO.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(grad_BOT, x_BTF, out_dtype=torch.float32)
    if grad_BTO.dtype != torch.float64:
        grad_BOT, x_BTF = grad_BOT.float(), x_BTF.float()
    return torch.bmm(grad_BOT, x_BTF).float()


def _check_set(into: str) -> None:
    if into not in SETS:
        raise ValueError(f"unknown set '{into}'; known: {', '.join(SETS)}")
