"""Bring in a universal checkpoint of DeepSpeed: masters and both moments of a LoRA training under ZeRO-1 or 2.

``python -m deepspeed.checkpoint.ds_to_universal`` writes ``zero/PARAMETER/{fp32,exp_avg,exp_avg_sq,step}.pt``. These are pickles;
they are read by PyTorch's restricted reader only, which makes tensors and plain containers and runs nothing. Tested against
DeepSpeed 0.19.8.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from igascale.engine.base import MasterState
from igascale.errors import UserError

#: Their files -> our names.
_FILES = {"fp32.pt": "master", "exp_avg.pt": "exp_avg", "exp_avg_sq.pt": "exp_avg_sq"}
_FACTOR = re.compile(r"(?:module\.)?(?:base_model\.model\.)?(?P<fqn>.+)\.lora_(?P<factor>[AB])\.(?:[^.]+\.)?weight")


def read_universal(folder: Path, shapes: Mapping[str, Sequence[int]], steps: int | None = None) -> MasterState:
    """The state of every trained parameter.

    Args:
        folder: what ``ds_to_universal`` wrote.
        shapes: ``{adapter}.lora_A`` or ``.lora_B`` -> shape, of every parameter that the run trains.
        steps: optimizer steps taken; ``None``: as the files say.

    Raises:
        UserError: it is no universal checkpoint, a file cannot be read without running code from it, or its parameters are
            not those of the run.
    """
    zero = folder / "zero"
    parameters = sorted(path.parent for path in zero.glob("*/fp32.pt"))
    if not parameters:
        raise UserError(
            f"{folder}: no universal checkpoint of DeepSpeed, it has no zero/*/fp32.pt; make one: python -m "
            "deepspeed.checkpoint.ds_to_universal --input_folder FOLDER/TAG --output_folder FOLDER/TAG_universal "
            "--inject_missing_state"
        )
    tensors: dict[str, Tensor] = {}
    counted: dict[str, int] = {}
    for path in parameters:
        name = _our_name(path, shapes)
        for file, kind in _FILES.items():
            tensors[f"{name}.{kind}"] = _read_tensor(path / file, tuple(shapes[name]))
        if (path / "step.pt").is_file():
            counted[path.name] = int(_read(path / "step.pt"))
    missing = [name for name in shapes if f"{name}.master" not in tensors]
    if missing:
        raise UserError(
            f"{zero}: holds nothing of {missing[0]}, which this run trains (of {len(missing)} such parameters)"
        )
    return MasterState(_steps(zero, counted) if steps is None else steps, tensors)


def _our_name(path: Path, shapes: Mapping[str, Sequence[int]]) -> str:
    match = _FACTOR.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path}: was trained, but is no LoRA factor; igascale trains LoRA factors only")
    name = f"{match['fqn']}.lora_{match['factor']}"
    if name not in shapes:
        raise UserError(f"{path}: this run has no {name}; set model.path and lora.target_modules as they were there")
    return name


def _read_tensor(path: Path, shape: tuple[int, ...]) -> Tensor:
    content = _read(path)
    tensor = content.get("param") if isinstance(content, dict) else content
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise UserError(f"{path}: holds no tensor under 'param'")
    if tuple(tensor.shape) != shape:
        raise UserError(f"{path}: is {list(tensor.shape)}, but {list(shape)} in this run; set lora.r as it was there")
    if tensor.dtype != torch.float32:
        raise UserError(f"{path}: is {str(tensor.dtype).removeprefix('torch.')}, but masters and moments are float32")
    return tensor.contiguous().clone()


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the conversion to a universal checkpoint did not end") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors, or is damaged; reading it could run code, so it is refused"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def _steps(zero: Path, found: Mapping[str, int]) -> int:
    """Optimizer steps taken. Where the optimizer counted them per group, DeepSpeed keeps them in a file that the reader refuses."""
    values = set(found.values())
    if len(values) != 1:
        told = f"differ: {sorted(values)}" if values else "are not in it"
        raise UserError(f"{zero}: the optimizer's steps {told}; say how many it has taken: --optimizer-steps N")
    return values.pop()
