"""What is measured inside of a model on isomer groups, beside the answers it gives: LCS, and the gradients of its adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from igascale.errors import UserError
from igascale.evaluation.answering import Progress
from igascale.evaluation.consistency import LCS_TEXTS, measure
from igascale.evaluation.generation import enough_memory
from igascale.evaluation.layer_names import parse_layers, shown_layer
from igascale.evaluation.layers import depth_of, penultimate_layer
from igascale.evaluation.residual import check_adapter, held_out_residual
from igascale.evaluation.results import Consistency, HeldOutResidual
from igascale.isomers.schema import IsomerGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Measured:
    """What was found on one side's groups; fields as of :class:`igascale.evaluation.results.SplitResult`."""

    consistency: Consistency | None = None
    layers: tuple[Consistency, ...] = ()
    gir: HeldOutResidual | None = None


class Inside:
    """Measures a model on groups, side by side.

    Args:
        model: causal LM, plain or PEFT.
        tokenizer: as in training.
        lcs_layers: where LCS is measured (:func:`igascale.evaluation.layer_names.parse_layers`).
        lcs_text: whose tokens it averages.
        batch_size: sequences per forward.
        gir_groups: also measure GIR on so many groups of each side; needs an adapter.
        progress: called with (stage, done, in all).

    Raises:
        UserError: an unknown text or layer, or GIR of a model without a plain LoRA adapter.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        lcs_layers: str = "penultimate",
        lcs_text: str = "prompt",
        batch_size: int = 16,
        gir_groups: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if lcs_text not in LCS_TEXTS:
            raise UserError(f"lcs_text is '{lcs_text}'; known: {', '.join(LCS_TEXTS)}")
        self._model, self._tokenizer, self._text = model, tokenizer, lcs_text
        self._layers = parse_layers(lcs_layers, depth_of(model))
        self._shown = shown_layer(self._layers, penultimate_layer(model))
        self._batch_size, self._gir_groups, self._progress = batch_size, gir_groups, progress
        if gir_groups is not None:
            check_adapter(model)  # before any answer is asked for

    def measure(self, side: str, groups: Sequence[IsomerGroup]) -> Measured:
        """Of a side's groups; the model is in evaluation mode."""
        with enough_memory(self._batch_size):
            layers = measure(
                self._model,
                self._tokenizer,
                groups,
                layers=self._layers,
                text=self._text,
                batch_size=self._batch_size,
                progress=self._stage(f"{side.upper()} consistency"),
            ).results()
        shown = next((found for found in layers if found.layer == self._shown), None)
        return Measured(shown, tuple(layers), self._residual(side, groups))

    def _residual(self, side: str, groups: Sequence[IsomerGroup]) -> HeldOutResidual | None:
        if self._gir_groups is None:
            return None
        stage = self._stage(f"{side.upper()} gradients")
        return held_out_residual(self._model, self._tokenizer, groups, most_groups=self._gir_groups, progress=stage)

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What stands in the result's settings."""
        layers = ",".join(map(str, self._layers))
        return {
            "lcs_text": self._text,
            "lcs_layer": self._shown,
            "lcs_layers": layers,
            "gir_groups": self._gir_groups,
        }

    def _stage(self, name: str) -> Callable[[int, int], None] | None:
        report = self._progress
        return None if report is None else lambda done, total: report(name, done, total)
