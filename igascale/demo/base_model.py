"""Build the demo's base model: train a BPE tokenizer, pre-train a small Llama, save both as a normal model folder."""

from __future__ import annotations

import itertools
import math
import re
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
from igascale.isomers.kinds import KINDS

# B batch, T time.
VOCABULARY_SIZE = 512
_BUCKET = 16  # batches sorted by length together, to pad less


@dataclass(frozen=True)
class BaseModelSettings:
    """Sizes and schedule; the defaults take about 75 seconds on two CPU cores."""

    steps: int = 1800
    batch_size: int = 32
    learning_rate: float = 4e-3  # AdamW: embeddings and norms
    matrix_learning_rate: float = 1e-2  # Muon: all other matrices
    hidden_size: int = 64
    intermediate_size: int = 128
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
        prepare_heads(model)
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
    tokenizer.train_from_iterator(
        (" ".join([text.prompt, text.completion, *itertools.chain(*text.questions)]) for text in texts), trainer
    )
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
        # About 1/sqrt(hidden): the usual 0.02 leaves attention flat for the first steps.
        initializer_range=0.7 / math.sqrt(settings.hidden_size),
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},  # texts are short: see prepare_heads
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def prepare_heads(model: LlamaForCausalLM) -> None:
    """Start attention near what looking up needs; from random weights it is not found in the steps we have.

    Every head begins by matching like with like (queries as keys) and by copying (outputs as values,
    transposed), as in mimetic initialization. In the first layer one or two places back are looked at, whatever
    stands there: one dimension of the embedding is the same for all tokens, and RoPE turns it by the distance.
    """
    config = model.config
    size, hidden = config.head_dim, config.hidden_size
    shared = config.num_attention_heads // config.num_key_value_heads
    for layer in model.model.layers:
        attention = layer.self_attn
        keys, values = (
            w.view(-1, size, hidden).repeat_interleave(shared, 0).reshape(-1, hidden)
            for w in (attention.k_proj.weight, attention.v_proj.weight)
        )
        attention.q_proj.weight.mul_(0.3).add_(keys)
        attention.o_proj.weight.mul_(0.3).add_(values.T)
    model.model.embed_tokens.weight[:, 0] = 0.5 * config.initializer_range * math.sqrt(hidden)
    constant = 0.5 / math.sqrt(1.25) * math.sqrt(hidden)  # that dimension after the first norm
    fast = 3  # only the frequencies that tell neighbours apart
    turn = 100.0 ** (-torch.arange(fast) * 2 / size)
    queries = model.model.layers[0].self_attn.q_proj.weight.mul_(0.3).view(-1, size, hidden)
    first_keys = model.model.layers[0].self_attn.k_proj.weight.mul_(0.3).view(-1, size, hidden)
    queries[:, :, 0] = first_keys[:, :, 0] = 0
    first_keys[:, :fast, 0] = 4 / constant
    for head, back in zip(range(len(queries)), itertools.cycle((1, 2, 2, 1))):
        queries[head, :fast, 0] = 4 / constant * torch.cos(back * turn)
        queries[head, size // 2 : size // 2 + fast, 0] = -4 / constant * torch.sin(back * turn)


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
    for step, (ids_BT, learned_BT) in enumerate(_batches(tokenizer, texts, settings)):
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * _schedule(step, settings.steps)
        # Padding is on the right: causal attention never sees it, and needs no mask.
        hidden_BTD = model.model(input_ids=ids_BT).last_hidden_state
        learned = learned_BT[:, 1:]
        loss = F.cross_entropy(model.lm_head(hidden_BTD[:, :-1][learned]), ids_BT[:, 1:][learned])
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
        matrices, lr=settings.matrix_learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", ns_steps=3
    )
    adamw = torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, settings.matrix_learning_rate), (adamw, settings.learning_rate)]


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth, then cosine to a twentieth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[Text], settings: BaseModelSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, which are learned) of each step. Texts of similar length go together, a few batches at a time."""
    size = settings.batch_size
    generator = torch.Generator().manual_seed(len(texts))
    known: dict[str, list[int]] = {}
    for start in range(0, len(texts), _BUCKET * size):
        rows = [_encode(tokenizer, text, known) for text in texts[start : start + _BUCKET * size]]
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield _pad(batches[index], tokenizer.pad_token_id)


def _encode(
    tokenizer: PreTrainedTokenizerFast, text: Text, known: dict[str, list[int]]
) -> tuple[list[int], list[bool]]:
    """Ids, and which of them are learned. `known` keeps the ids of every word: the tokenizer never joins two."""
    ids, learned = [tokenizer.bos_token_id], [False]
    lines = [line for given, answer in text.questions for line in ((given, False), (answer, True), ("\n", False))]
    parts = [(f"{text.prompt}\n", False), (text.completion, True), *lines]
    for part, learn in parts:
        for word in re.findall(r"\n|[^ \n]+", part):
            if word not in known:
                known[word] = tokenizer.encode(word, add_special_tokens=False)
            ids += known[word]
            learned += [learn] * len(known[word])
    return [*ids, tokenizer.eos_token_id], [*learned, not text.questions]


def _pad(rows: Sequence[tuple[list[int], list[bool]]], pad: int) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.full((len(rows), length), pad)
    learned_BT = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (ids, learned) in enumerate(rows):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        learned_BT[row, : len(ids)] = torch.tensor(learned)
    return ids_BT, learned_BT
