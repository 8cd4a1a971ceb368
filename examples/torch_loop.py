"""A plain PyTorch loop with a gradient hook in it. The lines marked `# igascale` are all that is added.

    python examples/torch_loop.py

Small and random on purpose: a Llama of two layers learns to count up (one domain) and down (the other) by LoRA.
"""

from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import igascale  # igascale

DOMAINS = ("up", "down")
VOCABULARY, LENGTH, ROWS, STEPS, ACCUMULATION = 32, 12, 8, 30, 2


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


def batches(number: int) -> Iterator[dict]:
    """Rows of both domains; "domain" says which row is of which."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        domain = torch.arange(ROWS) % 2
        start = torch.randint(VOCABULARY, (ROWS, 1), generator=generator)
        ids = (start + (1 - 2 * domain)[:, None] * torch.arange(LENGTH)) % VOCABULARY
        labels = ids.clone()
        labels[:, :2] = -100  # which way it goes cannot be known yet
        yield {"input_ids": ids, "labels": labels, "domain": domain}


def main() -> None:
    model = build_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    loader = batches(STEPS * ACCUMULATION)
    # loop
    optimizer = igascale.AdamW(parameters, lr=5e-3, use_reference=True)  # igascale
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    surgery = igascale.attach(model, optimizer, hook="iga", domains=DOMAINS, max_grad_norm=1.0)  # igascale
    for micro_step, batch in enumerate(loader, start=1):
        domain, labels = batch.pop("domain"), batch.pop("labels")
        with surgery.rows(domain):  # igascale
            loss = surgery.loss(model(**batch).logits, labels)  # igascale
            loss.backward()
        if micro_step % ACCUMULATION == 0:
            report = surgery.step()  # igascale
            scheduler.step()
            print(f"step {surgery.steps:2d}  loss", *(f"{n} {x:.4f}" for n, x in zip(DOMAINS, report.losses)))
    # end of loop


if __name__ == "__main__":
    main()
