"""Build the demo's base model: train a BPE tokenizer, pre-train a small Llama, save both as a normal model folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from igascale.demo.corpus import Text, pretraining_texts
from igascale.errors import UserError
from igascale.isomers.encode import encode_prompt
from igascale.isomers.kinds import KINDS

# B batch, T time.
VOCABULARY_SIZE = 512
_BUCKET = 16  # batches sorted by length together, to pad less


@dataclass(frozen=True)
class BaseModelSettings:
    """Sizes and schedule; the defaults take about a minute and a half on two CPU cores."""

    steps: int = 1300
    batch_size: int = 32
    learning_rate: float = 3e-3  # AdamW: embeddings and norms
    matrix_learning_rate: float = 6e-3  # Muon: all other matrices
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    kinds: tuple[str, ...] = tuple(KINDS)  # reasoning kinds whose single steps are taught


@dataclass(frozen=True)
class BaseModelReport:
    """What came of it."""

    parameters: int
    steps: int
    seconds: float
    first_loss: float
    last_loss: float  # mean over the last twentieth of the steps


def build_base_model(
    out_dir: str | Path,
    seed: int = 0,
    settings: BaseModelSettings | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> BaseModelReport:
    """Pre-train from scratch and save config, weights (safetensors) and tokenizer in `out_dir`.

    The number of steps is fixed, not the time, so that the same machine makes the same model again.

    Args:
        out_dir: folder to write; must not hold anything yet.
        seed: of text, initial weights and order.
        settings: sizes and schedule.
        progress: called as ``progress(step, steps, loss)`` after every step.

    Raises:
        UserError: the folder exists and is not empty.
    """
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists and is not empty; choose another folder or delete it")
    settings = settings or BaseModelSettings()
    started = time.perf_counter()
    texts = pretraining_texts(settings.steps * settings.batch_size, seed, settings.kinds)
    tokenizer = train_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(settings, tokenizer))
    losses = _pretrain(model, tokenizer, texts, settings, progress)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    tail = losses[-max(1, len(losses) // 20) :]
    return BaseModelReport(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=settings.steps,
        seconds=time.perf_counter() - started,
        first_loss=losses[0],
        last_loss=sum(tail) / len(tail),
    )


def train_tokenizer(texts: Sequence[Text]) -> PreTrainedTokenizerFast:
    """A BPE tokenizer in which a name is the same token wherever it stands: at the start of a line, too."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[.,:?]"), "isolated"),
        ]
    )
    # The newline's own marker and the one after it stand for no space in the text.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Fuse(),
            decoders.Replace(Regex("▁?\n▁?"), "\n"),
            decoders.Replace("▁", " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator((f"{text.prompt}\n{text.completion}" for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _config(settings: BaseModelSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=512,
        initializer_range=0.06,  # about 1/sqrt(hidden): the usual 0.02 leaves attention flat for the first steps
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[Text],
    settings: BaseModelSettings,
    progress: Callable[[int, int, float], None] | None,
) -> list[float]:
    optimizers = _optimizers(model, settings)
    model.train()
    losses = []
    for step, (ids_BT, weights_BT) in enumerate(_batches(tokenizer, texts, settings)):
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * _schedule(step, settings.steps)
        logits = model(input_ids=ids_BT, attention_mask=(ids_BT != tokenizer.pad_token_id).long()).logits
        loss = _weighted_loss(logits, ids_BT, weights_BT)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, settings.steps, losses[-1])
    model.eval()
    return losses


def _optimizers(model: LlamaForCausalLM, settings: BaseModelSettings) -> list[tuple[torch.optim.Optimizer, float]]:
    """(optimizer, peak learning rate). Muon learns to look things up in about half the steps AdamW needs."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(parameter) for parameter in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=settings.matrix_learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [(muon, settings.matrix_learning_rate), (adamw, settings.learning_rate)]


def _weighted_loss(logits_BTV: Tensor, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the next token over the weights."""
    weights = weights_BT[:, 1:]
    each = F.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], reduction="none")
    return (each * weights).sum() / weights.sum()


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth, then cosine to a twentieth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[Text], settings: BaseModelSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, weights) of each step. Texts of similar length go together, a few batches at a time."""
    size = settings.batch_size
    generator = torch.Generator().manual_seed(len(texts))
    for start in range(0, len(texts), _BUCKET * size):
        rows = [_encode(tokenizer, text) for text in texts[start : start + _BUCKET * size]]
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield _pad(batches[index], tokenizer.pad_token_id)


def _encode(tokenizer: PreTrainedTokenizerFast, text: Text) -> tuple[list[int], int]:
    """All ids, and how many of them are the prompt's."""
    prompt = encode_prompt(tokenizer, text.prompt)
    completion = tokenizer.encode(text.completion, add_special_tokens=False)
    return [*prompt, *completion, tokenizer.eos_token_id], len(prompt)


def _pad(rows: Sequence[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.full((len(rows), length), pad)
    weights_BT = torch.zeros(len(rows), length)
    for row, (ids, prompt) in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        weights_BT[row, prompt : len(ids)] = 1.0
    return ids_BT, weights_BT
