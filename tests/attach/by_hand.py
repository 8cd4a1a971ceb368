"""The oracle: one process, the whole batch, a backward pass per domain by plain autograd, AdamW or SGD by the formula."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from igascale.hooks import AdapterFactors, DomainFactorGrads, HookContext

DOMAINS = ("maths", "law", "medicine")
D = len(DOMAINS)


def make_batches(number: int, rows: int = 6, seed: int = 0, ragged: bool = True) -> list[dict[str, torch.Tensor]]:
    """Micro-batches with every domain in each; ``ragged``: other lengths and numbers of supervised tokens in every row."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(number):
        ids = torch.randint(6, 120, (rows, 9), generator=generator)
        labels, mask = ids.clone(), torch.ones_like(ids)
        for row in range(rows if ragged else 0):
            length = int(torch.randint(5, 10, (1,), generator=generator))
            labels[row, length:], mask[row, length:] = -100, 0
            labels[row, : int(torch.randint(0, 4, (1,), generator=generator))] = -100
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels, "domain": torch.arange(rows) % D})
    return batches


def token_losses(model, batch):
    """Cross-entropy of each token that is learnt, and where it is: ``[B, T-1]`` and a mask."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    labels = batch["labels"][:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return losses, labels != -100


class ByHand:
    """The same steps as an attached loop takes, from first principles.

    Args:
        model: a PEFT model of its own.
        hook: an instance of its own.
        lr: learning rate.
        optimizer: ``sgd``, ``adamw`` (weight decay 0.01) or ``adamw-reference``.
        max_grad_norm: or ``None``.
        reduction: ``token`` or ``instance``.
    """

    def __init__(self, model, hook, lr, optimizer="adamw", max_grad_norm=None, reduction="token"):
        self.model, self.hook, self.lr, self.kind = model, hook, lr, optimizer
        self.max_grad_norm, self.reduction = max_grad_norm, reduction
        self.factors = {
            name.removeprefix("base_model.model.").removesuffix(".default.weight"): p
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        self.adapters = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in self.factors))
        self.moments = {k: [torch.zeros_like(p), torch.zeros_like(p)] for k, p in self.factors.items()}
        self.factor_lr = dict.fromkeys(self.factors, lr)
        self.t = 0
        self.losses = []

    def domain_gradients(self, batches, statistic=None):
        """Per domain: mean loss and its gradients by factor."""
        results = []
        for d in range(D):
            total, count = 0.0, 0.0
            for batch in batches:
                if statistic is None:
                    losses, learnt = token_losses(self.model, batch)
                else:
                    logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                    labels = batch["labels"][:, 1:]
                    learnt = labels != -100
                    flat = statistic(logits[:, :-1].flatten(0, 1).float(), labels.clamp(min=0).flatten())
                    losses = flat.view(labels.shape)
                for row in range(len(losses)):
                    if batch["domain"][row] != d or not learnt[row].any():
                        continue
                    tokens = losses[row][learnt[row]]
                    total = total + (tokens.sum() if self.reduction == "token" else tokens.mean())
                    count += int(learnt[row].sum()) if self.reduction == "token" else 1
            mean = total / count
            results.append((mean.item(), dict(zip(self.factors, torch.autograd.grad(mean, self.factors.values())))))
        return results

    def stacked(self, results):
        return {
            fqn: DomainFactorGrads(
                torch.stack([g[f"{fqn}.lora_A"].float() for _, g in results]),
                torch.stack([g[f"{fqn}.lora_B"].float() for _, g in results]),
            )
            for fqn in self.adapters
        }

    def step(self, batches):
        results = self.domain_gradients(batches)
        self.losses.append([loss for loss, _ in results])
        aux, aux_values = {}, None
        if self.hook.auxiliary is not None:
            aux_results = self.domain_gradients(batches, self.hook.auxiliary)
            aux, aux_values = self.stacked(aux_results), torch.tensor([v for v, _ in aux_results]).double()
        grads = self.stacked(results)
        scaling = next(m for n, m in self.model.named_modules() if n.endswith(self.adapters[0])).scaling["default"]
        factors = {
            fqn: AdapterFactors(
                self.factors[f"{fqn}.lora_A"].detach().float(), self.factors[f"{fqn}.lora_B"].detach().float(), scaling
            )
            for fqn in self.adapters
        }
        shapes = {fqn: (f.B.shape[0], f.A.shape[1], f.A.shape[0]) for fqn, f in factors.items()}
        losses = torch.tensor(self.losses[-1], dtype=torch.float64)
        context = HookContext(self.t, DOMAINS, losses, seed=0, shapes=shapes, aux=aux, aux_values=aux_values)
        combined = self.hook.combine(grads, factors, context)
        norm = torch.stack([t.double().square().sum() for c in combined.values() for t in (c.a, c.b)]).sum().sqrt()
        scale = min(1.0, self.max_grad_norm / float(norm)) if self.max_grad_norm else 1.0
        self.t += 1
        for fqn, c in combined.items():
            self._update(f"{fqn}.lora_A", c.a * scale, None if c.reference_a is None else c.reference_a * scale)
            self._update(f"{fqn}.lora_B", c.b * scale, None if c.reference_b is None else c.reference_b * scale)

    @torch.no_grad()
    def _update(self, name, g, reference):
        p, (m, v), lr = self.factors[name], self.moments[name], self.factor_lr[name]
        if self.kind == "sgd":
            p -= lr * g
            return
        largest = torch.maximum(g.abs(), reference.abs()) if self.kind == "adamw-reference" else g
        p *= 1 - lr * 0.01
        m.mul_(0.9).add_(0.1 * g)
        v.mul_(0.999).add_(0.001 * largest**2)
        p -= lr * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)


def worst(ours, theirs) -> float:
    """Largest difference of any trained parameter of two models."""
    mine = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    return max(float((p - mine[n]).abs().max()) for n, p in theirs.named_parameters() if p.requires_grad)
