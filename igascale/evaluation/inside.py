"""What is measured inside of a model on isomer groups, beside the answers it gives: LCS, and the gradients of its adapter."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igascale.errors import UserError
from igascale.evaluation.answering import ALONE, Progress, Share
from igascale.evaluation.consistency import LCS_TEXTS, ConsistencyAccumulator, GroupTexts, consistency, group_texts
from igascale.evaluation.generation import enough_memory, max_positions
from igascale.evaluation.layer_names import parse_layers, shown_layer
from igascale.evaluation.layers import depth_of, penultimate_layer
from igascale.evaluation.residual import check_adapter, held_out_residual
from igascale.evaluation.results import Consistency, HeldOutResidual
from igascale.files import write_atomically
from igascale.isomers.schema import IsomerGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Measured:
    """What was found on one side's groups; fields as of :class:`igascale.evaluation.results.SplitResult`."""

    consistency: Consistency | None = None
    layers: tuple[Consistency, ...] = ()
    gir: HeldOutResidual | None = None


class Exchange:
    """Passes what each process measured of its share of the groups to the first, by files in the folder of the answers.

    A file stays with the answers: an interrupted evaluation finds it again, under a name that tells model, settings and texts.

    Args:
        folder: of the answers; may not exist yet.
        share: this process's part.
        settings: what decides a measurement, the model's identity among it.
    """

    _POLL = 0.2

    def __init__(self, folder: Path, share: Share, settings: Mapping[str, Any]) -> None:
        self._folder, self.share, self._settings = folder, share, dict(settings)

    def name(self, *what: Any) -> str:
        """Of a measurement of ``what``, beside the settings."""
        told = json.dumps([self._settings, what], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def find(self, name: str, rank: int) -> dict[str, Any] | None:
        """What a process has left, or ``None``."""
        try:
            return dict(json.loads(self._path(name, rank).read_bytes()))
        except (OSError, ValueError):
            return None

    def leave(self, name: str, state: Mapping[str, Any]) -> None:
        """For the first process, and for a later attempt.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self._path(name, self.share.rank)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(state))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    def collect(self, name: str) -> list[dict[str, Any]]:
        """Of every process, in their order; waits for them. Whoever started the processes ends this one when another has died."""
        found = []
        for rank in range(self.share.world):
            while (state := self.find(name, rank)) is None:
                time.sleep(self._POLL)
            found.append(state)
        return found

    def _path(self, name: str, rank: int) -> Path:
        return self._folder / f"consistency-{name}-{rank}-of-{self.share.world}.json"


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
        self.exchange: Exchange | None = None  # None: this process measures all groups
        self._batch_size, self._gir_groups, self._progress = batch_size, gir_groups, progress
        if gir_groups is not None:
            check_adapter(model)  # before any answer is asked for

    def measure(self, side: str, groups: Sequence[IsomerGroup]) -> Measured:
        """Of a side's groups; the model is in evaluation mode. With an exchange every process measures its share, and the first
        returns the whole; what the others return is empty. GIR is measured by the first alone.
        """
        share = ALONE if self.exchange is None else self.exchange.share
        texts = group_texts(self._tokenizer, groups, self._text, max_positions(self._model))
        found = self._consistency(side, texts, share)
        if share.rank > 0:
            return Measured()
        layers = found.results()
        shown = next((each for each in layers if each.layer == self._shown), None)
        return Measured(shown, tuple(layers), self._residual(side, groups))

    def _consistency(self, side: str, texts: Sequence[GroupTexts], share: Share) -> ConsistencyAccumulator:
        """This process's part; on the first one all parts together."""
        exchange = self.exchange
        if exchange is None:
            return self._lcs(side, texts)
        name = exchange.name(side, self._layers, self._text, [(text.ids, text.domains) for text in texts])
        if exchange.find(name, share.rank) is None:
            exchange.leave(name, self._lcs(side, texts[share.rank :: share.world]).state())
        found = ConsistencyAccumulator(self._layers, self._text)
        if share.rank == 0:
            for state in exchange.collect(name):
                found.merge(ConsistencyAccumulator.from_state(state))
        return found

    def _lcs(self, side: str, texts: Sequence[GroupTexts]) -> ConsistencyAccumulator:
        with enough_memory(self._batch_size):
            return consistency(
                self._model,
                texts,
                layers=self._layers,
                text=self._text,
                batch_size=self._batch_size,
                progress=self._stage(f"{side.upper()} consistency"),
            )

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
