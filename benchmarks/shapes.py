"""The models and batches that the benchmarks run: Llama by shape with random weights, LoRA r=16 on q, k, v and o."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from igascale.assemble import Data, Split, Student
from igascale.config import RunConfig
from igascale.isomers.batches import GroupSchedule
from igascale.isomers.encode import Example

DOMAINS = ("mathematics", "medicine", "law", "science")


@dataclass(frozen=True)
class Shape:
    """A model, and one optimizer step on it.

    Attributes:
        layers: decoder layers that are run.
        hidden: width.
        intermediate: width of the MLP.
        heads: attention heads.
        kv_heads: key/value heads.
        vocab: tokens.
        groups: isomer groups (of four instances) of an optimizer step, over all ranks.
        accumulation: forward passes they are cut into.
        length: tokens of an instance; all are supervised.
        dtype: of the model.
        checkpointing: of activations.
        layers_in_full: layers of the model whose shape this is; more than ``layers`` where it does not fit.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    groups: int
    accumulation: int
    length: int
    dtype: str = "float32"
    checkpointing: str = "none"
    layers_in_full: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.groups * len(DOMAINS) * self.length


SHAPES = {
    # 4,096 tokens a step and hidden size 512: the smallest that the target for a CPU is stated for.
    "cpu": Shape(4, 512, 1376, 8, 8, 4096, groups=4, accumulation=2, length=256),
    "cpu-wide": Shape(2, 1024, 2752, 16, 16, 4096, groups=4, accumulation=2, length=256),
    "tiny": Shape(1, 64, 128, 2, 1, 256, groups=2, accumulation=1, length=16),
    # 16 instances of 512 tokens, accumulated 4 times.
    "7b": Shape(32, 4096, 11008, 32, 32, 32000, 16, 4, 512, "bfloat16", "non-reentrant", 32),
    "13b": Shape(40, 5120, 13824, 40, 40, 32000, 16, 4, 512, "bfloat16", "non-reentrant", 40),
    # Eight of the eighty layers: time and memory of the others are alike.
    "70b-layers": Shape(8, 8192, 28672, 64, 8, 32000, 16, 4, 512, "bfloat16", "non-reentrant", 80),
}


def build_model(shape: Shape, device: torch.device) -> Any:
    """The PEFT model, in training mode; B is not zero, as after some steps."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from igascale.model import set_activation_checkpointing

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        use_cache=False,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, shape.dtype))
    try:
        with device:
            lora = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
            model = get_peft_model(LlamaForCausalLM(config), lora, autocast_adapter_dtype=False)
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.data.normal_(std=0.01)
    finally:
        torch.set_default_dtype(before)
    set_activation_checkpointing(model, shape.checkpointing)  # type: ignore[arg-type]
    return model.to(device).train()


def run_config(shape: Shape, hook: dict[str, Any], engine: str, packing: bool = False) -> RunConfig:
    """The configuration with which the trainer takes such steps."""
    return RunConfig.model_validate(
        {
            "output_dir": "unused",
            "model": {"path": "unused", "dtype": shape.dtype, "activation_checkpointing": shape.checkpointing},
            "data": {"train": "unused"},
            "hook": hook,
            "train": {
                "groups_per_batch": shape.groups // shape.accumulation,
                "gradient_accumulation_steps": shape.accumulation,
                "epochs": 1000,
                "packing": packing,
            },
            "engine": {"name": engine},
        }
    )


def make_data(shape: Shape, steps: int = 4) -> Data:
    """Random tokens: the cost of a step does not depend on what it learns."""
    g = torch.Generator().manual_seed(0)

    def example(domain: int, group: int) -> Example:
        ids = torch.randint(0, shape.vocab, (shape.length,), generator=g).tolist()
        return Example(ids, list(ids), domain, str(group), f"{group}/{domain}")

    count = steps * shape.groups
    groups = [[example(d, k) for d in range(len(DOMAINS))] for k in range(count)]
    split = Split("random tokens", DOMAINS, groups, 0, frozenset(), "")
    return Data(split, None, None, GroupSchedule(count, shape.groups, 0), 10**6, DOMAINS)


def student(model: Any) -> Student:
    """What the trainer wants to know of a model."""
    from types import SimpleNamespace

    from igascale.adapters import find_adapters

    return Student(model, find_adapters(model), SimpleNamespace(pad_token_id=0))


def described(shape: Shape) -> dict[str, Any]:
    """For the JSON."""
    return asdict(shape) | {"tokens": shape.tokens, "domains": len(DOMAINS)}
