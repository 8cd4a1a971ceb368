"""Find the LoRA adapters of a PEFT model, and refuse by name whatever is not plain LoRA or rsLoRA.

What is refused would train, but the gradients captured per domain would not be those of all that moves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from igascale.errors import UserError

TRAINABLE_DTYPES = (torch.bfloat16, torch.float32, torch.float64)

_QUANTIZED = re.compile(r"4bit|8bit|quant|gptq|awq|hqq|eetq|aqlm|fp8|int8|bnb", re.IGNORECASE)
# LoraConfig keys that change what is trained, or what a saved adapter means, without a plain trace in a
# module.
_PLAIN_CONFIG: dict[str, str] = {
    "trainable_token_indices": "drop trainable_token_indices",
    "target_parameters": "target linear modules by target_modules instead",
    "layer_replication": "drop layer_replication",
    "rank_pattern": "use one rank for all modules",
    "alpha_pattern": "use one alpha for all modules",
    "use_qalora": "set use_qalora=False",
}
_PLAIN_INITS = (True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter, ``W = W0 + scaling * B @ A``.

    Attributes:
        fqn: the module's name in the base model, ``model.layers.0.self_attn.q_proj`` say.
        lora_A: PEFT's down-projection module.
        lora_B: PEFT's up-projection module.
        scaling: ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA.
    """

    fqn: str
    lora_A: nn.Linear  # noqa: N815
    lora_B: nn.Linear  # noqa: N815
    scaling: float

    @property
    def A(self) -> nn.Parameter:  # noqa: N802
        """``[R, I]``."""
        return self.lora_A.weight  # type: ignore[return-value]

    @property
    def B(self) -> nn.Parameter:  # noqa: N802
        """``[O, R]``."""
        return self.lora_B.weight  # type: ignore[return-value]

    @property
    def rank(self) -> int:
        """R."""
        return self.A.shape[0]

    @property
    def in_features(self) -> int:
        """I."""
        return self.A.shape[1]

    @property
    def out_features(self) -> int:
        """O."""
        return self.B.shape[0]


def find_adapters(model: nn.Module) -> dict[str, LoraAdapter]:
    """All adapters of a model, keyed by ``fqn``, in module order.

    Args:
        model: a ``PeftModel`` with one LoRA adapter.

    Raises:
        UserError: anything in it is not plain LoRA or rsLoRA on ``torch.nn.Linear``, is not trainable as
            such, or trains beside it.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    if not isinstance(model, PeftModel):
        raise UserError(f"a PEFT model with LoRA adapters is needed, not {type(model).__name__}; use add_lora")
    name = _only_adapter(model)
    base = model.get_base_model()
    if getattr(base, "is_quantized", False):
        raise UserError("the base model is quantized; load it in bfloat16 or float32 (drop quantization_config)")
    _check_config(model.peft_config[name])
    owners = _parameter_owners(base)
    adapters = {
        fqn: _plain_adapter(fqn, module, name, owners)
        for fqn, module in base.named_modules()
        if isinstance(module, LoraLayer)
    }
    _check_nothing_else_trains(base, adapters)
    if model.peft_config[name].bias != "none":  # a base model without biases; PEFT would save them all the same
        raise UserError(f"LoraConfig.bias={model.peft_config[name].bias!r} trains biases; set bias='none'")
    if not adapters:
        raise UserError("the model holds no LoRA adapter; check lora.target_modules")
    return adapters


def _only_adapter(model: Any) -> str:
    """The name of the one adapter, which is of kind LoRA."""
    from peft import PeftType

    for name, config in model.peft_config.items():
        if config.peft_type != PeftType.LORA:
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise UserError(f"adapter '{name}' is {kind}; only LORA is supported: build it with a LoraConfig")
    names = list(model.peft_config)
    if len(names) != 1:
        raise UserError(
            f"the model holds {len(names)} adapters ({', '.join(names)}); keep one: model.delete_adapter('{names[-1]}')"
        )
    return names[0]


def _plain_adapter(fqn: str, module: Any, name: str, owners: dict[int, list[str]]) -> LoraAdapter:
    """Check one PEFT layer from outside to inside: its kind, its base, its state, its factors."""
    from peft.tuners.lora import Linear

    base = module.get_base_layer()
    kind = type(base).__name__
    if _QUANTIZED.search(kind) or _QUANTIZED.search(type(module).__name__):
        raise UserError(f"{fqn}: its base layer is quantized ({kind}); load the base model in bfloat16 or float32")
    if type(module) is not Linear or type(base) is not nn.Linear:
        raise UserError(
            f"{fqn}: LoRA on {kind} is not supported, only on torch.nn.Linear; take it out of lora.target_modules"
        )
    if variant := module.lora_variant.get(name):
        kind = type(variant).__name__.removesuffix("LinearVariant").replace("Dora", "DoRA")
        raise UserError(f"{fqn}: {kind} is not plain LoRA; build the adapter without it (use_dora=False, ...)")
    if module.merged:
        raise UserError(f"{fqn}: the adapter is merged into the base weights; call model.unmerge_adapter() first")
    if module.disable_adapters or module.active_adapters != [name] or name not in module.lora_A:
        raise UserError(f"{fqn}: the adapter is not active; call model.set_adapter('{name}') first")
    if not base.weight.is_floating_point() or type(base.weight.data) is not Tensor:
        raise UserError(f"{fqn}: its base weight is quantized; load the base model in bfloat16 or float32")
    if base.weight.dtype == torch.float16:
        raise UserError(f"{fqn}: the base weight is float16, which needs loss scaling; use bfloat16 or float32")
    shared = [owner for owner in owners[id(base.weight)] if owner != f"{fqn}.base_layer.weight"]
    if shared:
        raise UserError(
            f"{fqn}: its base weight is shared with {shared[0]}, so the adapter could not be merged; "
            "take it out of lora.target_modules"
        )
    adapter = LoraAdapter(fqn, module.lora_A[name], module.lora_B[name], float(module.scaling[name]))
    _check_factors(adapter, owners)
    return adapter


def _check_factors(adapter: LoraAdapter, owners: dict[int, list[str]]) -> None:
    for letter, linear in (("A", adapter.lora_A), ("B", adapter.lora_B)):
        where = f"{adapter.fqn}.lora_{letter}"
        if type(linear) is not nn.Linear:
            raise UserError(
                f"{where} is {type(linear).__name__}, not torch.nn.Linear; build the adapter with plain LoRA"
            )
        if linear.bias is not None:
            raise UserError(f"{where} has a bias; build the adapter with lora_bias=False")
        if linear.weight.dtype not in TRAINABLE_DTYPES:
            raise UserError(f"{where} is {_short(linear.weight.dtype)}; use bfloat16 or float32")
        if not linear.weight.requires_grad and not (letter == "A" and is_identity(linear.weight)):
            raise UserError(f"{where} is frozen; load the adapter with is_trainable=True")
        if len(owners[id(linear.weight)]) > 1:
            raise UserError(f"{where} is shared: {' and '.join(owners[id(linear.weight)])}; give each module its own")


def is_identity(weight: Tensor) -> bool:
    """What A is, frozen, where B is the change of W itself (``lora.full_rank``)."""
    rows, columns = weight.shape
    return rows == columns and torch.equal(weight, torch.eye(rows, dtype=weight.dtype, device=weight.device))


def _check_nothing_else_trains(base: nn.Module, adapters: dict[str, LoraAdapter]) -> None:
    from peft.utils import ModulesToSaveWrapper

    for fqn, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            raise UserError(f"{fqn}: trained as a whole (modules_to_save); build the adapter without modules_to_save")
    ours = {id(p) for adapter in adapters.values() for p in (adapter.A, adapter.B)}
    for name, parameter in base.named_parameters():
        if not parameter.requires_grad or id(parameter) in ours:
            continue
        name = name.replace(".base_layer.", ".")
        if name.endswith(".bias"):
            raise UserError(f"{name}: a trained bias; build the adapter with bias='none'")
        raise UserError(
            f"{name}: trainable, but not a LoRA factor; freeze it (requires_grad_(False)) or target its module"
        )


def _check_config(config: Any) -> None:
    """What leaves no trace in the modules: settings under which the saved adapter would mean something else."""
    for key, remedy in _PLAIN_CONFIG.items():
        if getattr(config, key, None):
            raise UserError(f"LoraConfig.{key}={getattr(config, key)!r} is not plain LoRA; {remedy}")
    if config.init_lora_weights not in _PLAIN_INITS:
        raise UserError(
            f"LoraConfig.init_lora_weights={config.init_lora_weights!r} changes the base weights; set it to True"
        )


def _parameter_owners(base: nn.Module) -> dict[int, list[str]]:
    owners: dict[int, list[str]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return owners


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
