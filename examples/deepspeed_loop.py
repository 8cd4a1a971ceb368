"""A plain `deepspeed.initialize` loop with a gradient hook in it. The lines marked `# igascale` are all that is added.

    deepspeed --num_gpus 2 examples/deepspeed_loop.py

Small and random on purpose: a Llama of two layers learns to count up (one domain) and down (the other) by LoRA. It runs on the
CPU as well (`--num_accelerators 2`).
"""

import argparse
from collections.abc import Iterator

import deepspeed
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import igascale  # igascale

DOMAINS = ("up", "down")
VOCABULARY, LENGTH, ROWS, STEPS, ACCUMULATION = 32, 12, 8, 30, 2
CONFIG = {
    "train_micro_batch_size_per_gpu": ROWS,
    "gradient_accumulation_steps": ACCUMULATION,
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 5_000_000, "allgather_bucket_size": 5_000_000},
    "zero_allow_untested_optimizer": True,  # igascale
    "gradient_clipping": 0.0,  # igascale
}


def build_model() -> PeftModel:
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
            use_cache=False,
        )
    )
    return get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))


def batches(number: int, rank: int, device: torch.device) -> Iterator[dict]:
    """Rows of both domains, others on each rank; "domain" says which row is of which."""
    generator = torch.Generator().manual_seed(rank)
    for _ in range(number):
        domain = torch.arange(ROWS) % 2
        start = torch.randint(VOCABULARY, (ROWS, 1), generator=generator)
        ids = (start + (1 - 2 * domain)[:, None] * torch.arange(LENGTH)) % VOCABULARY
        labels = ids.clone()
        labels[:, :2] = -100  # which way it goes cannot be known yet
        yield {"input_ids": ids.to(device), "labels": labels.to(device), "domain": domain}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)  # the launcher gives it
    parser.parse_args()
    deepspeed.init_distributed()
    model = build_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    # loop
    optimizer = igascale.AdamW(parameters, lr=5e-3, use_reference=True)  # igascale
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=CONFIG)
    surgery = igascale.attach(engine, hook="iga", domains=DOMAINS, max_grad_norm=1.0)  # igascale
    for batch in batches(STEPS * ACCUMULATION, engine.global_rank, engine.device):
        domain, labels = batch.pop("domain"), batch.pop("labels")
        with surgery.rows(domain):  # igascale
            loss = surgery.loss(engine(**batch).logits, labels)  # igascale
            engine.backward(loss)
        report = surgery.step()  # igascale
        if report and engine.global_rank == 0:
            print(f"step {surgery.steps:2d}  loss", *(f"{n} {x:.4f}" for n, x in zip(DOMAINS, report.losses)))
    # end of loop
    engine.destroy()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
