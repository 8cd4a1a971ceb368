"""Small models, real and on the meta device, and the measurements that the predictions are held against."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM

from igascale.config import RunConfig, load_config
from igascale.loss import domain_token_losses
from igascale.model import add_lora, set_activation_checkpointing

import live_bytes
from tiny import tiny_config

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def write_run(folder: Path, shape: dict[str, object] | None = None, **changes: object) -> Path:
    """A model folder without weights and ``run.yaml``, whose data file does not exist."""
    model = folder / "shapes"
    tiny_config(**({"architectures": ["LlamaForCausalLM"]} | (shape or {}))).save_pretrained(model)
    config: dict[str, object] = {
        "output_dir": str(folder / "run"),
        "model": {"path": str(model), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8},
        "data": {"train": str(folder / "none.jsonl"), "domains": ["a", "b", "c", "d"], "max_length": 64},
        "hook": {"name": "iga"},
        "train": {"groups_per_batch": 4, "gradient_accumulation_steps": 2},
        "engine": {"name": "deepspeed"},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def load(path: Path, *overrides: str) -> RunConfig:
    return load_config(path, overrides)


def real_model(config: RunConfig) -> torch.nn.Module:
    """The same model with weights, random ones."""
    from transformers import AutoConfig

    model_config = AutoConfig.from_pretrained(config.model.path)
    base = AutoModelForCausalLM.from_config(
        model_config,
        dtype=getattr(torch, config.model.dtype),
        attn_implementation=config.model.attn_implementation or "sdpa",
    )
    lora = config.lora
    model = add_lora(base, lora.r, lora.alpha, lora.dropout, lora.target_modules, lora.use_rslora, None, 0)
    set_activation_checkpointing(model, config.model.activation_checkpointing)
    return model.train()


class Step:
    """Forward and backward pass of one micro-batch with rows of different lengths and an unsupervised prompt."""

    def __init__(self, model: torch.nn.Module, rows: int, positions: int):
        self.model = model
        self.ids = torch.randint(0, model.config.vocab_size, (rows, positions))
        self.mask = torch.ones_like(self.ids)
        self.mask[0, positions // 2 :] = 0
        self.labels = self.ids.clone()
        self.labels[:, : positions // 4] = -100
        self.supervised = int((self.labels[:, 1:] != -100).sum())

    def __call__(self) -> None:
        logits = self.model(input_ids=self.ids, attention_mask=self.mask).logits
        weights = (self.labels != -100).float()
        domain = torch.zeros(len(self.ids), dtype=torch.long)
        domain_token_losses(logits, self.labels, weights, domain, 1).sum().backward()


def peak_bytes(step: Step) -> int:
    """The most that is allocated at one time during a step, by the CPU allocator's own events."""
    step()  # what is made once, such as oneDNN's copies of weights
    step.model.zero_grad(set_to_none=True)
    return live_bytes.peak_bytes(step)


def plan_json(output: str) -> dict:
    return json.loads(output[output.index("{") :])
