"""A gradient hook inside somebody else's training loop: :func:`attach`, and the :class:`Surgery` that it returns.

Shape legend: B rows of a micro-batch, T positions, V vocabulary, E entries of a loss, D domains.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from igascale import hooks
from igascale.capture import SETS, GradientCapture
from igascale.engine.attached import AttachedEngine, attached_engine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.loss import domain_token_losses
from igascale.loss_record import LossRecord, auxiliary_sums, by_domain, domain_numbers, entry_sums, token_weights
from igascale.step import StepReport, adapter_costs, take_step

Domains = Tensor | Sequence[int] | Sequence[str]
#: Models that have a surgery; a second one would capture everything twice.
_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def attach(
    engine: Any,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    hook: str | GradientHook = "iga",
    domains: Sequence[str],
    max_grad_norm: float | None = None,
    loss_reduction: Literal["token", "instance"] = "token",
    on_missing: Literal["error", "skip"] = "error",
    seed: int = 0,
    **options: Any,
) -> Surgery:
    """Let a gradient hook combine the per-domain gradients of a loop that stays yours.

    Call it on every rank, after ``deepspeed.initialize`` (and after ``load_checkpoint``), before the first step.

    Args:
        engine: what ``deepspeed.initialize`` returned first; or a PEFT model, together with ``optimizer``.
        optimizer: of a plain PyTorch loop.
        hook: a name (``iga``, ``pcgrad``, ``package.module:Class``) or a hook.
        domains: the names of the D domains.
        max_grad_norm: clip the combined gradient, and the reference where there is one, to this norm over all adapters.
        loss_reduction: of :meth:`Surgery.loss`. ``token``: a domain's loss is the mean over its supervised tokens of the
            whole step; ``instance``: the mean over its rows of their means.
        on_missing: what to do at a step in which a domain has no row on any rank: an error, or no step (said once).
        seed: for hooks that draw random numbers; the same on every rank.
        options: of the hook, where it is given by name.

    Raises:
        UserError: something in the model, the optimizer, DeepSpeed's configuration or the hook's options does not fit.
    """
    for name, value, allowed in (
        ("loss_reduction", loss_reduction, ("token", "instance")),
        ("on_missing", on_missing, ("error", "skip")),
    ):
        if value not in allowed:
            raise UserError(f"{name} must be '{allowed[0]}' or '{allowed[1]}', not {value!r}")
    if max_grad_norm is not None and not (isinstance(max_grad_norm, int | float) and 0 < max_grad_norm < math.inf):
        raise UserError(f"max_grad_norm must be a number > 0, or None for no clipping, not {max_grad_norm!r}")
    settings = {"hook": hook if isinstance(hook, str) else type(hook).__name__, "domains": tuple(domains), **options}
    settings |= {
        "max_grad_norm": max_grad_norm,
        "loss_reduction": loss_reduction,
        "on_missing": on_missing,
        "seed": seed,
    }
    if isinstance(hook, str):
        hook = hooks.build(hook, options)
    elif options or not isinstance(hook, GradientHook):
        raise UserError("hook is a name with options, or a GradientHook that has them already")
    if isinstance(domains, str) or len(set(domains)) != len(domains) or len(domains) < hook.min_domains:
        raise UserError(
            f"domains must be at least {hook.min_domains} different names for {type(hook).__name__}, not {domains!r}"
        )
    attached = attached_engine(engine, optimizer, hook, max_grad_norm)
    if attached.model in _attached:
        attached.leave()
        raise UserError("this model has a surgery already; call its detach() first")
    if problem := _differs(attached.comm.gather_objects(settings)):
        attached.leave()
        raise UserError(problem)
    return Surgery(attached, hook, tuple(domains), max_grad_norm, loss_reduction, on_missing == "skip", seed)


def _differs(settings: list[dict[str, Any]]) -> str:
    """What is not the same on every rank, in words; a rank of its own mind would give wrong results in silence."""
    for key, first in settings[0].items():
        for rank, other in enumerate(settings):
            if repr(other.get(key)) != repr(first):
                return f"attach: {key} is {first!r} on rank 0 but {other.get(key)!r} on rank {rank}; give every rank the same"
    return ""


class Surgery:
    """What :func:`attach` returns; its methods go into the loop.

    Attributes:
        report: what the last optimizer step did (:class:`igascale.step.StepReport`), the same on every rank.
        steps: optimizer steps so far, those that were skipped included.
        skipped_steps: how many of them were skipped.
    """

    def __init__(
        self,
        engine: AttachedEngine,
        hook: GradientHook,
        domains: tuple[str, ...],
        max_grad_norm: float | None,
        loss_reduction: str,
        skip_missing: bool,
        seed: int,
    ):
        self.hook, self.domains = hook, domains
        self.report: StepReport | None = None
        self.steps = self.skipped_steps = 0
        self._engine, self._max_grad_norm, self._seed = engine, max_grad_norm, seed
        self._loss_reduction, self._skip_missing = loss_reduction, skip_missing
        self._domain_B: Tensor | None = None
        self._passes_before = 0
        self._record = LossRecord(len(domains), self._begin_backward)
        self._capture = GradientCapture(engine.adapters, len(domains), hook.uses_noise)
        self._capture.install()
        engine.distribute(adapter_costs(hook, engine.adapters, len(domains)))
        _attached.add(engine.model)
        self.reset()
        for warning in hook.warnings():
            engine.say(warning, warning)

    def __enter__(self) -> Surgery:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the hooks off the model and the optimizer; the loop is what it was."""
        self._capture.remove()
        self._engine.leave()
        _attached.discard(self._engine.model)

    # The forward and backward pass.

    @contextmanager
    def rows(self, domain: Domains) -> Iterator[None]:
        """Forward and backward pass of one micro-batch run inside.

        Args:
            domain: the domain of each row of the model's batch, by number or by name.
        """
        if self._domain_B is not None:
            raise UserError("surgery.rows(...) inside of surgery.rows(...)")
        numbers = domain_numbers(domain, self.domains)
        if torch.is_grad_enabled():
            self._engine.enter_rows()
        self._domain_B, self._losses, passes = numbers, 0, self._record.passes
        try:
            # What the rows weigh, for the measurement of noise, is known when the loss is.
            with self._capture.rows(numbers, weight_B=torch.zeros(len(numbers))):
                yield
            if self.hook.auxiliary is not None and self._losses and self._record.passes == passes:
                self._broken = True  # its auxiliary pass ran alone
        except BaseException:
            self._broken = True
            raise
        finally:
            self._domain_B = None

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Next-token cross-entropy of a causal language model, kept apart by domain.

        Args:
            logits: ``[B, T, V]``.
            labels: ``[B, T]``, token ids, -100 where there is nothing to learn. Not shifted.

        Returns:
            0-d, to call ``backward`` on; see :meth:`loss_from`.
        """
        domain_B, num_domains = self._begin_loss().to(logits.device), len(self.domains)
        if logits.shape[:2] != labels.shape or len(labels) != len(domain_B):
            raise UserError(
                f"surgery.loss: logits {list(logits.shape)} and labels {list(labels.shape)} do not fit each other, or the "
                f"{len(domain_B)} rows of surgery.rows(domain); for losses of your own there is surgery.loss_from"
            )
        labels = labels.to(logits.device)
        weights_BT = token_weights(labels, self._loss_reduction)
        if self.hook.auxiliary is not None and torch.is_grad_enabled():
            values_D = auxiliary_sums(self.hook.auxiliary, logits, labels, weights_BT, domain_B, num_domains)
            with self._capture.rows(domain_B, into="aux"):
                self._engine.backward(self._record.auxiliary_scalar(values_D), retain_graph=True)
        losses_D = domain_token_losses(logits, labels, weights_BT, domain_B, num_domains)
        return self._record.scalar(losses_D, by_domain(weights_BT.sum(1), domain_B, num_domains))

    def loss_from(self, losses: Tensor, weights: Tensor | None = None, domain: Domains | None = None) -> Tensor:
        """Any losses that belong to a domain each: of rows, tokens or pairs, by a head or an objective of your own.

        A domain's loss is ``sum(weights * losses) / sum(weights)`` over the entries of the whole optimizer step: all
        micro-batches, all ranks. Do not divide by anything yourself, nor by the accumulation steps.

        Args:
            losses: ``[E, ...]``; E is B unless ``domain`` is given.
            weights: the same shape, what each counts; 1 by default, 0 for padding.
            domain: of each of the E entries, if they are not the rows (a DPO pair is two rows of one domain).

        Returns:
            0-d: the mean over the micro-batch's domains of their mean losses, for the eye. Call ``backward`` on it
            inside ``rows``, once: only what is back-propagated counts.
        """
        domain_E = self._begin_loss()
        if self.hook.auxiliary is not None:
            raise UserError(f"{type(self.hook).__name__} works on logits: use surgery.loss(logits, labels)")
        if domain is not None:
            domain_E = domain_numbers(domain, self.domains)
        return self._record.scalar(*entry_sums(losses, weights, domain_E, len(self.domains)))

    def _begin_backward(self, factor: float, weight_D: Tensor) -> float:
        """Called by the backward pass of a loss before it reaches the model; returns what it starts with."""
        if self._domain_B is None:
            raise UserError("the backward pass belongs inside of surgery.rows(domain)")
        if self._capture.noise is not None:
            self._capture.noise.begin(weight_D)
        return self._engine.seed(factor)

    def _begin_loss(self) -> Tensor:
        """The rows' domains; one loss a micro-batch."""
        if self._domain_B is None:
            raise UserError("the loss belongs inside of surgery.rows(domain)")
        self._losses += torch.is_grad_enabled()
        if self._losses > 1:
            raise UserError("two losses in one surgery.rows(...) block: add up those of each row, or use two blocks")
        return self._domain_B

    # The step.

    def step(self) -> StepReport | None:
        """In place of ``engine.step()`` or ``optimizer.step()``: combine and step.

        Returns:
            What happened; ``None`` where DeepSpeed goes on accumulating. With a NaN or an infinity anywhere, on any rank, every
            rank skips the step: parameters and moments stay as they are.
        """
        if self._domain_B is not None:
            raise UserError("surgery.step() belongs outside of surgery.rows(...)")
        if self._broken:
            raise UserError("a micro-batch was interrupted, or left before its backward pass; call surgery.reset()")
        if not self._engine.at_boundary():
            if self._record.passes == self._passes_before:
                raise UserError(
                    "surgery.step() was called twice after one backward pass: once per micro-batch is right"
                )
            self._passes_before = self._record.passes
            self._engine.pass_by()
            return None
        missing = self._record.missing(self.domains, self._engine.comm.sum)
        if missing and not self._skip_missing:
            raise UserError(missing)
        if missing:
            self.report = StepReport(losses=[math.nan] * len(self.domains), skipped=missing)
        else:
            self.report = take_step(
                self._engine,
                self.hook,
                self._sums["main"],
                self._record.loss_D,
                self._record.weight_D,
                domains=self.domains,
                step=self.steps,
                seed=self._seed,
                lr=math.nan,  # not ours to know: the loop sets it
                max_grad_norm=self._max_grad_norm,
                aux_sums=self._sums.get("aux"),
                aux_value_D=self._record.aux_D if self.hook.auxiliary else None,
                noise=self._capture.noise,
            )
        if self.report.skipped:
            self._engine.pass_by()
            self.skipped_steps += 1
            self._engine.say("skipped", f"step {self.steps} was skipped on every rank: {self.report.skipped}")
        elif self.report.adapter_stats:
            for name, message in self.hook.alarms(self.report.stats).items():
                self._engine.say(name, f"step {self.steps}: {message}")
        self.steps += 1
        self.reset()
        return self.report

    def reset(self) -> None:
        """Drop what was captured since the last step, after an exception in the middle of a micro-batch, say."""
        names = SETS if self.hook.auxiliary else SETS[:1]
        self._sums = {name: self._engine.new_sums(len(self.domains)) for name in names}
        self._capture.reset(self._sums)
        self._record.reset()
        self._broken = False
        self._passes_before = 0
        self._engine.open = False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model and the optimizer. Call it on every rank; each gets the same."""
        if self._engine.open:
            raise UserError("surgery.state_dict() in the middle of an accumulation; call it after the optimizer step")
        states = self._engine.comm.gather_objects(self.hook.state_dict())
        state, owners = dict(states[0]), self._engine.owners
        if "adapters" in state:  # each from the rank that owns the adapter
            held = [s.get("adapters", {}) for s in states]
            state["adapters"] = {fqn: held[r][fqn] for fqn, r in owners.items() if fqn in held[r]}
        counts = {"steps": self.steps, "skipped_steps": self.skipped_steps}
        return counts | {"domains": list(self.domains), "hook": type(self.hook).__name__, "hook_state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`'s result.

        Raises:
            UserError: it is another hook's, or of other domains.
        """
        for key, ours in (("hook", type(self.hook).__name__), ("domains", list(self.domains))):
            if state[key] != ours:
                raise UserError(f"the state is of {key} {state[key]}, this surgery's is {ours}")
        self.hook.load_state_dict(state["hook_state"])
        self.steps, self.skipped_steps = state["steps"], state["skipped_steps"]
