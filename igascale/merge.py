r"""Merge a LoRA adapter into its base model, shard by shard.

.. math:: W = W_0 + s\,B A

in float32, rounded once to the base's dtype. Only one shard of the base is in memory at a time. Everything is
written to a hidden folder beside ``out`` and renamed at the end: ``out`` is either complete, or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from igascale.errors import UserError
from igascale.lora_folder import LoraFactors, read_lora_folder
from igascale.merge_check import Verification, verify_merge

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
REPORT_FILE = "merge.json"

# Weights in any format; everything else beside them (config, generation config, tokenizer, licence, code) is
# copied.
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"}
_NOT_COPIED = {INDEX_FILE, "pytorch_model.bin.index.json", "README.md", ".gitattributes", REPORT_FILE}
_COPIED_FOLDERS = {"additional_chat_templates"}
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class MergeReport:
    """What was merged, and what the verification saw (``None`` if it was switched off)."""

    base: str
    adapter: str
    out: str
    merged_modules: int
    shards: int
    dtype: str
    verification: Verification | None

    def describe(self) -> str:
        """A few lines for the terminal."""
        files = "1 weight file" if self.shards == 1 else f"{self.shards} weight files"
        lines = [f"Merged {self.merged_modules} modules into {self.out} ({files}, {self.dtype})."]
        check = self.verification
        if check is None:
            lines.append("Not verified (--no-verify).")
        else:
            lines.append(
                f"Verified against base + adapter: logits differ by at most {check.max_abs_difference:.2e}, "
                f"relative {check.relative_difference:.2e} (tolerance {check.tolerance:.0e}; the adapter "
                f"itself changes them by {check.adapter_effect:.2e})."
            )
            if check.adapter_effect < check.relative_difference:
                lines.append(f"Warning: the adapter's effect is smaller than the rounding of {self.dtype}.")
        return "\n".join(lines)


@dataclass(frozen=True)
class Checkpoint:
    """A local safetensors checkpoint.

    Attributes:
        folder: where it is.
        shards: file name to the names of its tensors, in file order.
        shapes: tensor name to shape.
        dtypes: tensor name to safetensors' dtype name (``"BF16"``).
    """

    folder: Path
    shards: Mapping[str, list[str]]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]


def merge_adapter(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Write ``base`` with ``adapter`` merged in to the new folder ``out``.

    Args:
        base: model folder or Hub id. File names, dtypes, config and tokenizer of the result are the base's.
        adapter: PEFT folder with plain LoRA or rsLoRA.
        out: must not exist, or be empty.
        verify: load the result with plain transformers and base + adapter with PEFT and compare them. Needs
            memory for the whole model in float32; merging alone needs about one shard.
        progress: called with (shards done, shards in all).

    Raises:
        UserError: the adapter is not plain LoRA, does not fit the base, ``out`` is taken, or the verification
            failed. ``out`` is not created then.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"output folder {out} exists and is not empty; choose another or remove it first")
    lora = read_lora_folder(Path(adapter))
    with _safetensors_folder(str(base)) as base_folder:
        checkpoint = read_checkpoint(base_folder)
        targets = match_targets(lora, checkpoint)
        out.parent.mkdir(parents=True, exist_ok=True)
        work = out.parent / f".{out.name}.merging-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)  # of a killed process that had our number
        work.mkdir()
        try:
            write_merged(checkpoint, targets, work, progress)
            copy_companions(base_folder, work)
            verification = verify_merge(base_folder, Path(adapter), work, targets) if verify else None
            dtypes = sorted({checkpoint.dtypes[name] for name in targets})
            report = MergeReport(
                base=str(base),
                adapter=str(adapter),
                out=str(out),
                merged_modules=len(targets),
                shards=len(checkpoint.shards),
                dtype="+".join(dtypes),
                verification=verification,
            )
            (work / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
            work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return report


def read_checkpoint(folder: Path) -> Checkpoint:
    """List the tensors of a safetensors folder from the file headers alone.

    Raises:
        UserError: a shard named by the index is missing, damaged, or not beside the index.
    """
    if (folder / INDEX_FILE).is_file():
        try:
            weight_map = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
            files = list(dict.fromkeys(weight_map.values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{folder / INDEX_FILE} is damaged: it should hold a weight_map") from None
    else:
        weight_map, files = None, [SINGLE_FILE]
    shards: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for file in files:
        if Path(file).name != file or not (folder / file).is_file():
            raise UserError(f"base model {folder}: the shard {file} is missing; download the model again")
        with _open(folder / file) as shard:
            shards[file] = list(shard.keys())
            for name in shards[file]:
                view = shard.get_slice(name)
                shapes[name], dtypes[name] = tuple(view.get_shape()), view.get_dtype()
    if weight_map is not None and set(weight_map) != set(shapes):
        name = min(set(weight_map) ^ set(shapes))
        raise UserError(f"base model {folder}: {INDEX_FILE} and the shards disagree about {name}")
    return Checkpoint(folder, shards, shapes, dtypes)


def match_targets(lora: Mapping[str, LoraFactors], checkpoint: Checkpoint) -> dict[str, LoraFactors]:
    """Base tensor name to the factors that go into it.

    Raises:
        UserError: the base is quantised, lacks a target, has it in another shape, or ties it to the
            embedding.
    """
    config = _read_config(checkpoint.folder)
    if config.get("quantization_config"):
        raise UserError(f"base model {checkpoint.folder} is quantised; merge into its unquantised original")
    targets = {}
    for fqn, factors in lora.items():
        name = f"{fqn}.weight"
        if name not in checkpoint.shapes:
            tied = config.get("tie_word_embeddings") and fqn.endswith("lm_head")
            why = "; it is tied to the embedding and cannot be merged" if tied else "; is this the adapter's base?"
            raise UserError(f"base model {checkpoint.folder} has no tensor {name} that the adapter changes{why}")
        if config.get("tie_word_embeddings") and fqn.endswith("lm_head"):
            raise UserError(f"{name} is tied to the embedding (tie_word_embeddings), so the adapter cannot be merged")
        expected = (factors.B.shape[0], factors.A.shape[1])
        if checkpoint.shapes[name] != expected:
            raise UserError(
                f"{name} is {list(checkpoint.shapes[name])} in base model {checkpoint.folder} but the "
                f"adapter was trained for {list(expected)}; is this the adapter's base?"
            )
        if checkpoint.dtypes[name] not in _FLOATS:
            raise UserError(f"{name} of {checkpoint.folder} is {checkpoint.dtypes[name]}; need F32, BF16 or F16")
        targets[name] = factors
    return targets


def write_merged(
    checkpoint: Checkpoint,
    targets: Mapping[str, LoraFactors],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write every shard of ``checkpoint`` to ``out`` under its own name, with the targets changed."""
    for done, (file, names) in enumerate(checkpoint.shards.items(), start=1):
        with _open(checkpoint.folder / file) as shard:
            metadata = shard.metadata() or {"format": "pt"}
            tensors = {name: shard.get_tensor(name) for name in names}
        for name in names:
            if name in targets:
                tensors[name] = merged_weight(tensors[name], targets[name])
        save_file(tensors, out / file, metadata=metadata)
        del tensors
        if progress is not None:
            progress(done, len(checkpoint.shards))
    if (checkpoint.folder / INDEX_FILE).is_file():
        # Same names, shapes and dtypes: the base's index, total size included, holds for the result.
        shutil.copyfile(checkpoint.folder / INDEX_FILE, out / INDEX_FILE)


def merged_weight(weight: Tensor, factors: LoraFactors) -> Tensor:
    """``W0 + s * B @ A`` in float32, rounded once to the dtype of ``weight [O, I]``."""
    delta_OI = factors.B.float() @ factors.A.float()
    merged = torch.add(weight.float(), delta_OI, alpha=factors.scaling).to(weight.dtype)
    if not torch.isfinite(merged).all() and torch.isfinite(weight).all():
        raise UserError(f"{factors.fqn}: the merged weight overflows {weight.dtype}; use a bfloat16 or float32 base")
    return merged


def copy_companions(base: Path, out: Path) -> None:
    """Copy what a model folder holds beside its weights: configuration, tokenizer, chat template."""
    for item in sorted(base.iterdir()):
        if item.is_dir():
            if item.name in _COPIED_FOLDERS:
                shutil.copytree(item, out / item.name)
        elif item.suffix not in _WEIGHT_SUFFIXES and item.name not in _NOT_COPIED:
            shutil.copyfile(item, out / item.name)


@contextmanager
def _safetensors_folder(base: str) -> Iterator[Path]:
    """``base`` as a local safetensors folder: itself, a Hub snapshot, or converted from an older format."""
    folder = Path(base) if Path(base).is_dir() else _download(base)
    if not (folder / "config.json").is_file():
        raise UserError(f"base model folder {folder} has no config.json")
    if (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="igascale-base-") as converted:
        _convert(folder, Path(converted))
        yield Path(converted)


def _download(base: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, ignore_patterns=["*.gguf", "*.onnx", "*.h5", "*.msgpack", "original/*"]))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"base model {base} is no folder here, and the Hub did not give it: {reason}") from None


def _convert(folder: Path, converted: Path) -> None:
    """Write pickled weights (``pytorch_model.bin``) as safetensors; this needs the whole model in memory."""
    from transformers import AutoModelForCausalLM

    copy_companions(folder, converted)
    try:
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").save_pretrained(converted)
    except Exception as error:
        raise UserError(f"base model {folder} has no safetensors, and transformers cannot read it: {error}") from None


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError

    try:
        handle = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: {error}") from None
    with handle as opened:
        yield opened


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} is not a JSON object: {error}") from None
