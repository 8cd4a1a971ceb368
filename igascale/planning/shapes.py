"""The model of a run without its weights: the real classes, with real LoRA on them, on PyTorch's meta device.

So parameter counts and shapes are those of the run for every architecture (grouped-query attention, tied embeddings, ...),
and nothing is read but ``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from igascale.adapters import LoraAdapter, find_adapters
from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.model import add_lora, check_causal
from igascale.planning.attention import planned_attention

# Share of the parameters that must be in modules whose work is understood (linear layers, embeddings, norms).
_KNOWN_SHARE = 0.98


@dataclass(frozen=True)
class Shapes:
    """What is predicted from.

    Attributes:
        base_parameters: of the frozen model; shared ones once.
        base_bytes: of its parameters and buffers.
        lora_parameters: P, trained.
        parameter_bytes: of one parameter of either kind (``model.dtype``).
        adapters: ``(O, I, R)`` by name.
        largest_block: bytes of the largest of the repeated blocks, or of the embedding where that is larger: what one rank
            would hold of gathered weights if they were sharded.
        layers: repeated blocks.
        attention_width: query heads times the size of a head.
        max_positions: the longest text the model takes, or ``None``.
    """

    base_parameters: int
    base_bytes: int
    lora_parameters: int
    parameter_bytes: int
    adapters: dict[str, tuple[int, int, int]]
    largest_block: int
    layers: int
    attention_width: int
    max_positions: int | None


def build_meta_model(config: RunConfig, path: str | Path) -> Any:
    """The PEFT model of the run on the meta device.

    Args:
        config: the run's; its ``model``, ``lora`` and ``seed`` sections count.
        path: a model folder, or a ``config.json``.

    Raises:
        UserError: no configuration there, not a causal language model, a target module that is missing.
    """
    from transformers import AutoModelForCausalLM

    if config.lora.full_rank:
        raise UserError("igascale plan knows LoRA only; lora.full_rank trains the weights themselves (small models)")
    model_config = _read_config(Path(path))
    check_causal(path, model_config)
    dtype = getattr(torch, config.model.dtype)
    attention = planned_attention(model_config, config.model.attn_implementation)
    lora = config.lora
    with torch.device("meta"):
        try:
            base = AutoModelForCausalLM.from_config(model_config, dtype=dtype, attn_implementation=attention)
        except Exception as error:  # a configuration is free text: whatever the model's class makes of it
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: the model cannot be built from this configuration: {reason}") from None
        model = add_lora(
            base,
            lora.r,
            lora.alpha,
            lora.dropout,
            lora.target_modules,
            lora.use_rslora,
            init_from=None,
            seed=config.seed,
        )
    for adapter in find_adapters(model).values():  # PEFT does not cast what lies on the meta device
        adapter.lora_A.to(dtype)
        adapter.lora_B.to(dtype)
    _check_known(base, path)
    return model.train()


def read_shapes(model: Any, adapters: Mapping[str, LoraAdapter]) -> Shapes:
    """Count what there is."""
    factors = [p for a in adapters.values() for p in (a.A, a.B)]
    ours = {id(p) for p in factors}
    base = [p for p in model.parameters() if id(p) not in ours]
    config = model.config.get_text_config()
    blocks = _repeated_blocks(model)
    embedding = model.get_input_embeddings().weight
    return Shapes(
        base_parameters=sum(p.numel() for p in base),
        base_bytes=sum(t.numel() * t.element_size() for t in [*base, *model.buffers()]),
        lora_parameters=sum(p.numel() for p in factors),
        parameter_bytes=factors[0].element_size(),
        adapters={fqn: (a.out_features, a.in_features, a.rank) for fqn, a in adapters.items()},
        largest_block=max(_bytes(embedding), *(sum(_bytes(p) for p in b.parameters()) for b in blocks)),
        layers=len(blocks),
        attention_width=config.num_attention_heads
        * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads),
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def find_shapes(model: Any) -> tuple[Shapes, dict[str, LoraAdapter]]:
    """The shapes, and the adapters they were read from."""
    adapters = find_adapters(model)
    return read_shapes(model, adapters), adapters


def _repeated_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers: the longest list of modules."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise UserError(
            f"{type(model).__name__}: no list of layers was found in the model, so nothing can be predicted"
        )
    return max(lists, key=len)


def _read_config(path: Path) -> Any:
    from transformers import AutoConfig

    folder = path.parent if path.name == "config.json" else path
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"{path}: holds no config.json; igascale plan reads a local one (no weights needed): give its folder with --model"
        )
    try:
        json.loads(file.read_text())
        return AutoConfig.from_pretrained(str(folder))
    except Exception as error:  # JSON, unknown model types, values that the class refuses
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{file}: not a model configuration: {reason}") from None


def _check_known(base: nn.Module, path: str | Path) -> None:
    """Refuse a model whose work is not in its linear layers, such as a mixture of experts."""
    known = {
        id(p): p.numel()
        for m in base.modules()
        for p in m.parameters(recurse=False)
        if isinstance(m, nn.Linear | nn.Embedding) or p.ndim == 1
    }
    total = sum(p.numel() for p in base.parameters())
    if sum(known.values()) < _KNOWN_SHARE * total:
        raise UserError(
            f"{path}: {1 - sum(known.values()) / total:.0%} of the parameters of {type(base).__name__} are in neither linear layers "
            "nor embeddings (a mixture of experts?); igascale plan would count their work wrongly"
        )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
