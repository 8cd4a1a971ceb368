r"""Per-domain gradients of LoRA factors from one forward and one backward pass over a batch that mixes domains.

A linear layer's weight gradient is a sum over rows, so it can be split by the rows' domain:

.. math::
    a_n = \sum_{b \in n} (\partial L/\partial h_b)^T x_b, \qquad
    b_n = \sum_{b \in n} (\partial L/\partial y_b)^T h_b

with x the input of ``lora_A``, h its output (the input of ``lora_B``) and y the output of ``lora_B``. A
forward hook on both puts an identity into the graph whose backward sees the output's gradient beside the
saved input. The scaling is in the gradient of y already, and the dropout in x. The products are those that autograd
forms for the two weights' own gradients, which nobody needs then: with ``ordinary_gradients=False`` the weight is frozen
while its layer runs, so that autograd forms no such product and the layer saves no input.

Shape legend: B rows of the micro-batch, T positions, D domains, F in-features, O out-features of the tapped
linear layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from igascale.adapters import LoraAdapter
from igascale.domain_runs import DomainRuns
from igascale.hooks.base import DomainFactorGrads
from igascale.noise import MicroBatchGrams

SETS = ("main", "aux")


class GradientCapture:
    """Accumulates ``a [D, R, I]`` and ``b [D, O, R]`` of every adapter, over micro-batches, in float32.

    Installed by :meth:`install` or by entering it as a context manager; :meth:`remove` leaves the modules as
    they were. Outputs and the ordinary gradients (those that are asked for) are unaltered. Works under activation checkpointing of either
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
        ordinary_gradients: whether autograd computes the factors' own ``.grad`` too, as it does without a capture. False where
            nobody reads it: it stays as it was. A loop whose framework reduces it, or writes into it, needs it.

    Attributes:
        noise: those inner products since the last :meth:`reset`, or ``None``.
    """

    def __init__(
        self,
        adapters: Mapping[str, LoraAdapter],
        num_domains: int,
        measure_noise: bool = False,
        ordinary_gradients: bool = True,
    ):
        if num_domains < 1:
            raise ValueError(f"num_domains must be at least 1, not {num_domains}")
        self._adapters = dict(adapters)
        self._num_domains = num_domains
        self._handles: list[RemovableHandle] = []
        self._rows: _Rows | None = None
        self._sums: dict[str, dict[tuple[str, str], Tensor]] = {}
        self._buffers: Mapping[str, Mapping[str, DomainFactorGrads]] = {}
        self._measure_noise = measure_noise
        self._ordinary_gradients = ordinary_gradients
        self._frozen: set[Tensor] = set()  # while their layers run
        self.noise: MicroBatchGrams | None = None
        self.reset()

    def __enter__(self) -> GradientCapture:
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def install(self) -> None:
        """Register the modules' hooks."""
        if self._handles:
            raise RuntimeError("this capture is installed already; remove() it first")
        for fqn, adapter in self._adapters.items():
            if not (adapter.A.requires_grad or adapter.B.requires_grad):
                raise RuntimeError(f"{fqn}: its LoRA weights are frozen, so nothing would be captured")
            for factor, linear in (("a", adapter.lora_A), ("b", adapter.lora_B)):
                if not linear.weight.requires_grad:
                    continue
                site = _Site(self, fqn, factor)
                if not self._ordinary_gradients:
                    self._handles.append(linear.register_forward_pre_hook(self._freeze))
                # Always called: also where the layer, or the checkpointing around it, ends by an exception.
                self._handles.append(linear.register_forward_hook(site, always_call=not self._ordinary_gradients))

    def remove(self) -> None:
        """Take the hooks away; what was captured stays readable in this object."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._thaw()

    @contextmanager
    def rows(
        self,
        domain: Tensor,
        into: str = "main",
        weight: Tensor | None = None,
        whole_groups: bool = True,
        on_complete: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Forward and backward of one micro-batch run inside.

        For a second backward through the same graph enter it again with another ``into``: a gradient goes to
        the set in force when the backward runs. Rows sorted by domain are the fastest; a tensor on the CPU spares a wait.

        Args:
            domain: ``[B]``, integer, the domain of each row of the batch; or ``[B, T]``, of each token, -1 for none.
            into: the set that receives the gradients, ``"main"`` or ``"aux"``.
            weight: in the shape of ``domain``, each entry's share of what its domain's sums are divided by (the row's
                supervised tokens, say); for the measurement of noise only; by default every entry counts alike.
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
        before, self._rows = self._rows, _Rows(DomainRuns(domain, self._num_domains), into, on_complete)
        try:
            if self.noise is not None and into == "main":
                self.noise.begin(self._rows.domains.weigh(weight), whole_groups)
            yield
        finally:
            self._rows = before
            self._thaw()

    def sums(self, into: str = "main") -> Mapping[str, DomainFactorGrads]:
        """What came since the last :meth:`reset`, per adapter; zeros where nothing came.

        The tensors are the accumulators themselves: a further backward adds to them; :meth:`reset` leaves
        them alone.
        """
        _check_set(into)
        if into in self._buffers:
            return self._buffers[into]
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

    def _freeze(self, linear: nn.Linear, args: tuple[Tensor, ...]) -> None:
        """Before a tapped layer runs: autograd shall neither keep its input nor form the gradient of its weight."""
        if torch.is_grad_enabled() and linear.weight.requires_grad:
            linear.weight.requires_grad_(False)
            self._frozen.add(linear.weight)

    def _thaw(self) -> None:
        """Let train again what is frozen still: after an exception that no hook sees, such as KeyboardInterrupt."""
        while self._frozen:
            self._frozen.pop().requires_grad_(True)

    def _forward(self, site: _Site, linear: nn.Linear, x_BTF: Tensor, y_BTO: Tensor | None) -> Tensor | None:
        """The output, passed through the identity that captures; the hook of every tapped layer."""
        if self._rows is not None and y_BTO is not None:
            self._rows.expect(site.fqn)
        if linear.weight in self._frozen:
            self._frozen.discard(linear.weight)
            linear.weight.requires_grad_(True)
        # Without gradients: evaluation, or the first pass of reentrant checkpointing. Without an output: an exception.
        if y_BTO is None or not torch.is_grad_enabled():
            return y_BTO
        if not (y_BTO.requires_grad or linear.weight.requires_grad):
            if self._rows is None:
                return y_BTO
            raise RuntimeError(
                f"{site}: its output needs no gradient, so nothing would be captured; are the LoRA weights frozen?"
            )
        # Under autocast the layer multiplies in the output's dtype, whatever the dtype of its input is.
        saved_BTF = x_BTF.detach().to(y_BTO.dtype)
        # In the first block nothing before A trains: with A frozen nothing but this would ask for the gradient.
        anchor = None if y_BTO.requires_grad else torch.empty(0, device=y_BTO.device, requires_grad=True)
        return _Tap.apply(y_BTO, saved_BTF, anchor, site, self._rows and self._rows.domains)

    def _backward(self, site: _Site, forward: DomainRuns | None, x_BTF: Tensor, grad_BTO: Tensor) -> None:
        """Add one micro-batch's products to the set in force."""
        if self._rows is None:
            raise RuntimeError(f"{site}: backward outside of capture.rows(domain, ...); it cannot tell domains apart")
        domains, into = self._rows.domains, self._rows.into
        if not domains.fits(x_BTF.shape):
            free = ["positions", "features"][len(domains.shape) - 1 :]
            expected = ", ".join(map(str, [*domains.shape, *free]))
            raise RuntimeError(
                f"{site}: saw an input of shape {list(x_BTF.shape)}, but the batch has {domains.shape[0]} rows: expected "
                f"[{expected}] (layers that regroup tokens cannot be captured)"
            )
        if forward is not None and (forward.shape, forward.runs) != (domains.shape, domains.runs):
            raise RuntimeError(f"{site}: the rows' domains are not those that the forward pass ran with")
        adapter = self._adapters[site.fqn]
        like = adapter.A if site.factor == "a" else adapter.B
        sum_DOF = self._accumulator(into, site.fqn, site.factor, like)
        with torch.autocast(grad_BTO.device.type, enabled=False):
            if self.noise is None or into != "main":
                domains.add_products(sum_DOF, grad_BTO, x_BTF)
            else:
                micro_DOF = torch.zeros_like(sum_DOF)
                domains.add_products(micro_DOF, grad_BTO, x_BTF)
                sum_DOF.add_(micro_DOF)
                self.noise.add(site.fqn, site.factor, micro_DOF, adapter)
        self._rows.arrived(site.fqn)


@dataclass(frozen=True)
class _Site:
    """One tapped linear layer; also its forward hook."""

    capture: GradientCapture
    fqn: str
    factor: str

    def __call__(self, linear: nn.Linear, args: tuple[Tensor, ...], output: Tensor | None) -> Tensor | None:
        return self.capture._forward(self, linear, args[0], output)

    def __str__(self) -> str:
        return f"{self.fqn}.lora_{self.factor.upper()}"


class _Tap(torch.autograd.Function):
    """The identity in the forward pass; hands over the saved input and the output's gradient in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, y_BTO: Tensor, x_BTF: Tensor, anchor: Tensor | None, site: _Site, domains: DomainRuns | None
    ) -> Tensor:
        ctx.save_for_backward(x_BTF)
        ctx.site, ctx.domains = site, domains
        return y_BTO.view_as(y_BTO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x_BTF,) = ctx.saved_tensors
        ctx.site.capture._backward(ctx.site, ctx.domains, x_BTF, grad_BTO)
        return grad_BTO if ctx.needs_input_grad[0] else None, None, None, None, None


@dataclass(frozen=True)
class _Rows:
    """The domains of the micro-batch that runs, and where its gradients go."""

    domains: DomainRuns
    into: str
    on_complete: Callable[[str], None] | None = None
    awaited: Counter[str] = field(default_factory=Counter)

    def expect(self, fqn: str) -> None:
        """A tapped layer of the adapter runs forward.

        Also without gradients, which is how reentrant checkpointing runs it first; but not in the backward pass, where
        checkpointing of either kind runs it again.
        """
        if self.on_complete is not None and torch._C._current_graph_task_id() == -1:
            self.awaited[fqn] += 1

    def arrived(self, fqn: str) -> None:
        """One gradient of the adapter has been added."""
        if self.on_complete is None:
            return
        self.awaited[fqn] -= 1
        if self.awaited[fqn] <= 0:
            self.on_complete(fqn)


def _check_set(into: str) -> None:
    if into not in SETS:
        raise ValueError(f"unknown set '{into}'; known: {', '.join(SETS)}")
