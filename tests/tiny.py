"""Small but real: a Llama with grouped-query attention, LoRA on it by PEFT, a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>")
PHRASES = (
    "is are the of and or not who which what has have more less than then so if all each for in on to",
    "Ann Bob Cid Dee Answer So The What Which Who Q yes no red blue rule case drug law patient court it",
)
WORDS = (
    *"abcdefghijklmnopqrstuvwxyz",
    *"0123456789",
    *" \n.,:;?!+-*/=()'",
    *(word for phrase in PHRASES for word in phrase.split()),
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}\n"
    "{% else %}<|assistant|>{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_config(**changes: object) -> LlamaConfig:
    """Two layers, hidden 64, 4 query and 2 key/value heads: q_proj is 64x64, k_proj and v_proj are 32x64."""
    values: dict[str, object] = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": False,
        "attn_implementation": "eager",
    }
    return LlamaConfig(**(values | changes))


def tiny_llama(dtype: torch.dtype = torch.float32, seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """A random :func:`tiny_config` model; the same for the same seed, up to the cast to ``dtype``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config(**changes)).to(dtype)


def tiny_peft(
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    r: int = 4,
    alpha: int = 8,
    dropout: float = 0.0,
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    b_scale: float = 0.05,
    use_rslora: bool = False,
) -> PeftModel:
    """LoRA on :func:`tiny_llama`, in training mode, with B drawn at random (``b_scale=0``: zero)."""
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        model = get_peft_model(tiny_llama(dtype, seed), config, autocast_adapter_dtype=False)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.copy_(b_scale * torch.randn(parameter.shape))
    return model.train()


def tiny_tokenizer(chat_template: bool = False, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Every known word, digit, space and newline is one token, so that known text decodes to itself.

    The vocabulary fits :func:`tiny_config`; ``words`` adds more (then raise ``vocab_size`` too).
    """
    vocab = {token: i for i, token in enumerate(dict.fromkeys((*SPECIAL, *WORDS, *words)))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+|[0-9]|\s|[^\sA-Za-z0-9]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    if chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tiny_model_folder(
    path: Path | str, chat_template: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """A normal Hugging Face folder: configuration, safetensors weights and the tokenizer."""
    tiny_llama(dtype, seed).save_pretrained(path)
    tiny_tokenizer(chat_template).save_pretrained(path)
    return Path(path)
