"""Check a merged model against base + adapter, by two roads that share no code with the merge.

The weights: every merged matrix against PEFT's own factors in float64, to within one rounding. The logits:
the merged folder in plain transformers against the base with the adapter in PEFT, both computed in float32,
on fixed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from igascale.errors import UserError
from igascale.lora_folder import LoraFactors

# Largest relative difference of the logits, ‖merged − adapter‖ / ‖adapter‖, by the precision of the stored
# weights. One rounding of a weight is 2^-24, 2^-11 and 2^-9 of it; depth adds an order of magnitude.
LOGITS_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Verification:
    """What the comparison saw.

    Attributes:
        max_abs_difference: largest absolute difference of a logit.
        relative_difference: ``‖merged − adapter‖ / ‖adapter‖`` over all logits.
        tolerance: what ``relative_difference`` may be.
        adapter_effect: ``‖base − adapter‖ / ‖adapter‖``: what a forgotten adapter would have looked like.
        weight_error: largest error of a merged weight, in units of what one rounding may do to it (at most
            1).
    """

    max_abs_difference: float
    relative_difference: float
    tolerance: float
    adapter_effect: float
    weight_error: float


def verify_merge(base: Path, adapter: Path, merged: Path, targets: Mapping[str, LoraFactors]) -> Verification:
    """Compare the folder ``merged`` with ``base`` + ``adapter``.

    Raises:
        UserError: they differ by more than rounding, or one of them cannot be loaded.
    """
    weight_error, dtype, with_adapter, without = _peft_side(base, adapter, merged, targets)
    ours = _logits_of_folder(merged)
    relative, effect = _relative(ours, with_adapter), _relative(without, with_adapter)
    result = Verification(
        max_abs_difference=float((ours - with_adapter).abs().max()),
        relative_difference=relative,
        tolerance=LOGITS_TOLERANCE[dtype],
        adapter_effect=effect,
        weight_error=weight_error,
    )
    # `not <=` so that NaN fails.
    if not relative <= result.tolerance:
        raise UserError(
            f"the merged model's logits differ from base + adapter by {relative:.2e} "
            f"(tolerance {result.tolerance:.0e}); nothing was written. "
            "Is the base the one that the adapter was trained on?"
        )
    if not weight_error <= 1:
        raise UserError(
            f"a merged weight is {weight_error:.1f} roundings away from base + adapter; nothing was written. "
            "Please report this adapter_config.json"
        )
    return result


def _peft_side(
    base: Path, adapter: Path, merged: Path, targets: Mapping[str, LoraFactors]
) -> tuple[float, torch.dtype, Tensor, Tensor]:
    """Weight error, coarsest stored dtype, and the logits of the base with and without the adapter."""
    from peft import PeftModel

    try:
        model = PeftModel.from_pretrained(_load(base), adapter).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"PEFT cannot load {adapter} on {base}: {' '.join(str(error).split())[:300]}") from None
    modules = dict(model.get_base_model().named_modules())
    worst, dtypes = 0.0, set()
    for file in sorted(merged.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            for name in set(shard.keys()) & set(targets):
                weight = shard.get_tensor(name)
                dtypes.add(weight.dtype)
                worst = max(worst, _weight_error(weight, modules[name.removesuffix(".weight")]))
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    tokens = _fixed_tokens(model.config)
    with torch.no_grad():
        with_adapter = model(input_ids=tokens).logits
        with model.disable_adapter():
            without = model(input_ids=tokens).logits
    return worst, coarsest, with_adapter, without


def _weight_error(merged: Tensor, layer: Any) -> float:
    """Error of a merged matrix ``[O, I]``, over what float32 arithmetic and one rounding allow."""
    A, B = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    scaling = layer.scaling["default"]
    base = layer.base_layer.weight.double()
    exact = base + scaling * (B @ A)
    magnitude = base.abs() + abs(scaling) * (B.abs() @ A.abs())
    info = torch.finfo(merged.dtype)
    single = (A.shape[0] + 4) * torch.finfo(torch.float32).eps * magnitude
    allowed = (info.eps / 2) * (exact.abs() + single) + single + info.smallest_normal * info.eps
    return float(((merged.double() - exact).abs() / allowed).max())


def _logits_of_folder(folder: Path) -> Tensor:
    model = _load(folder)
    with torch.no_grad():
        return model(input_ids=_fixed_tokens(model.config)).logits


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _fixed_tokens(config: Any) -> Tensor:
    """``[2, 32]`` token ids, the same for every call with one vocabulary."""
    vocabulary = config.get_text_config().vocab_size
    return torch.randint(vocabulary, (2, 32), generator=torch.Generator().manual_seed(0))


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference.double()).norm() / reference.double().norm())
