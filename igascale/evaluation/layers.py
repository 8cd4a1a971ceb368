"""The states of a model's layers, averaged over tokens as it runs.

Layers are numbered as ``hidden_states`` of transformers is: 0 is what enters the first decoder layer (the embeddings, with
whatever the model adds to them or multiplies them by), k what layer k of 1 to L - 1 hands on, and L what the decoder returns:
the last layer's output after the final norm. So the last layer's output before that norm has no number.

Shape legend: B rows, T tokens, H hidden size, S layers that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from igascale.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def depth_of(model: nn.Module) -> int:
    """L, the number of decoder layers.

    Raises:
        UserError: the model's configuration does not say.
    """
    config: Any = model.config
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int) or depth < 1:
        raise UserError(
            f"the configuration of {type(model).__name__} has no num_hidden_layers: its layers cannot be told"
        )
    return depth


def penultimate_layer(model: PreTrainedModel) -> int:
    """``L - 1`` of the L + 1 hidden states of a model with L layers: the paper's layer 31 of 32."""
    return depth_of(model) - 1


class LayerStates:
    """Averages over real tokens of the states at chosen layers, gathered by module hooks while the model runs.

    No layer's states outlive the layer: of each a ``[B, H]`` average stays. Works with any decoder whose layers lie in one
    ``ModuleList``, plain or wrapped by PEFT; the model's output is unaltered. Use as a context manager.

    Args:
        model: causal LM.
        layers: indices as of ``hidden_states`` (see the module).

    Raises:
        UserError: the decoder's layers cannot be found, or an index is not one of the model's.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        self._model, self.layers = model, tuple(layers)
        self._decoder, self._stack = find_decoder(model)
        depth = len(self._stack)
        for layer in self.layers:
            if not 0 <= layer <= depth:
                raise UserError(
                    f"there is no layer {layer}: the model has {depth} layers, numbered from 0 (embeddings) to {depth}"
                )
        self._mask_BT: Tensor | None = None
        self._found: dict[int, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> LayerStates:
        depth = len(self._stack)
        for layer in self.layers:
            if layer == depth:
                handle = self._decoder.register_forward_hook(lambda _, __, output: self._take(depth, _first(output)))
            else:
                handle = self._stack[layer].register_forward_pre_hook(self._entering(layer), with_kwargs=True)
            self._handles.append(handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def averages(self, inputs: dict[str, Any], mask_BT: Tensor) -> Tensor:
        """Run the model once.

        Args:
            inputs: what it is called with.
            mask_BT: 1 where there is a real token, on either side of the padding.

        Returns:
            ``[S, B, H]``, float64 on the CPU, in the order of ``layers``.
        """
        self._mask_BT = mask_BT
        self._found.clear()
        self._model(**inputs)
        missing = [layer for layer in self.layers if layer not in self._found]
        if missing:
            raise UserError(
                f"{type(self._decoder).__name__} ran without its layer {missing[0]}: its states cannot be read"
            )
        return torch.stack([self._found[layer].cpu().double() for layer in self.layers])

    def _entering(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._take(layer, args[0] if args else kwargs.get("hidden_states"))

        return hook

    def _take(self, layer: int, states_BTH: Any) -> None:
        mask_BT = self._mask_BT
        assert mask_BT is not None
        if not isinstance(states_BTH, Tensor) or states_BTH.shape[:-1] != mask_BT.shape:
            found = list(states_BTH.shape) if isinstance(states_BTH, Tensor) else type(states_BTH).__name__
            raise UserError(
                f"layer {layer} of {type(self._decoder).__name__} has no states of [rows, tokens, hidden size] ({found}): "
                "LCS cannot be measured on this architecture"
            )
        if layer in self._found:
            raise UserError(
                f"layer {layer} of {type(self._decoder).__name__} runs twice in one pass: which states are meant?"
            )
        self._found[layer] = _average(states_BTH.detach(), mask_BT.to(states_BTH.device))


def _average(states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """``[B, H]``; added up in float64 where the device has it (of bfloat16 states the sum would lose all but the first digits)."""
    keep_BT1 = mask_BT.bool()[:, :, None]
    if not bool(keep_BT1.all()):  # masked_fill, not a product: what stands at padding may be NaN
        states_BTH = states_BTH.masked_fill(~keep_BT1, 0.0)
    wide = torch.float32 if states_BTH.device.type == "mps" else torch.float64
    return states_BTH.sum(1, dtype=wide) / keep_BT1.sum(1)


def _first(output: Any) -> Any:
    """The states in what a decoder returns: a model output, a tuple or the tensor itself."""
    states: Any = getattr(output, "last_hidden_state", None)
    return states if states is not None else output[0] if isinstance(output, tuple) else output


def find_decoder(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The decoder, whose output is the last hidden state, and its layers.

    Raises:
        UserError: no ``ModuleList`` in it has as many entries as the model has layers, or several have.
    """
    depth = depth_of(model)
    wrapped: Any = model
    base: Any = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped  # of PEFT
    root: nn.Module = base.get_decoder() if hasattr(base, "get_decoder") else base
    stacks = {name: m for name, m in root.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth}
    level = min((name.count(".") for name in stacks), default=0)  # inside a layer there may be others, of experts say
    names = [name for name in stacks if name.count(".") == level]
    if len(names) != 1:
        found = f"several ({', '.join(names)})" if names else "none"
        raise UserError(
            f"LCS looks for the one ModuleList of the {depth} layers of {type(base).__name__} and found {found}; "
            "it cannot be measured on this architecture"
        )
    parent = names[0].rpartition(".")[0]
    return root.get_submodule(parent), stacks[names[0]]
