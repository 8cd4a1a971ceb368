"""Load the base model and its tokenizer, add LoRA, choose the activation checkpointing."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from igascale.errors import UserError, did_you_mean
from igascale.imports import uncollected

if TYPE_CHECKING:
    from igascale.adapters import LoraAdapter

Checkpointing = Literal["none", "non-reentrant", "reentrant"]

_LOG = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model folder or Hub id, padding on the right.

    Without a padding token the EOS token pads (and a warning is logged): padding is masked by its place.

    Raises:
        UserError: no such folder, no tokenizer in it, or one without an EOS token.
    """
    with uncollected():
        from transformers import AutoTokenizer
    with _one_error(path, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(existing(path))
    if not hasattr(tokenizer, "eos_token_id"):
        raise UserError(f"{path}: holds no tokenizer")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: the tokenizer has no EOS token to end a completion with; set eos_token in it")
    if tokenizer.pad_token_id is None:
        _LOG.warning("%s: the tokenizer has no padding token; its EOS token %r pads", path, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_base_model(path: str | Path, dtype: torch.dtype | str, attn_implementation: str | None = None) -> nn.Module:
    """A causal language model from a folder or the Hub, all weights present.

    Args:
        path: folder, or Hub id.
        dtype: ``torch.bfloat16`` or ``torch.float32``, or its name.
        attn_implementation: one that :func:`igascale.attention.check_attention` lets pass; ``None``: the model's own choice.

    Raises:
        UserError: no such model, not a causal LM, quantized, incomplete, float16 was asked for, or an attention that its
            architecture does not have.
    """
    with uncollected():
        import transformers.modeling_utils  # noqa: F401  # every model's own module needs it
        from transformers import AutoConfig, AutoModelForCausalLM
    dtype = _check_dtype(dtype)
    source = existing(path)
    with _one_error(path, "a model configuration"):
        config = AutoConfig.from_pretrained(source)
    check_causal(path, config)
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    with _one_error(path, "a causal language model"), _attention_error(attn_implementation):
        model, report = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{path}: {len(missing)} weights are not in the files (the first: {missing[0]}) and would be random; "
            "get the whole model"
        )
    return model


def add_lora(
    model: nn.Module,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str],
    use_rslora: bool,
    init_from: str | Path | None,
    seed: int,
    full_rank: bool = False,
) -> Any:
    """Put LoRA on a base model; the factors have the base's dtype.

    A is drawn from ``seed`` alone (B is zero), so that every rank has the same; the global random state is
    untouched.

    Args:
        model: the base model.
        r: LoRA rank R.
        alpha: the scaling is ``alpha / r``, with rsLoRA ``alpha / sqrt(r)``.
        dropout: on the adapters' input.
        target_modules: last parts of module names, ``q_proj`` say.
        use_rslora: see ``alpha``.
        init_from: PEFT folder whose factors to start from, or ``None``.
        seed: of A.
        full_rank: train W itself, as an adapter of full rank: A is the identity and frozen, the scaling 1, B starts at zero,
            so that ``dL/dB = dL/dW`` and what is saved is a PEFT adapter like any other. ``r`` and ``alpha`` are not used;
            the weight decay pulls towards the base model's W. For small models: B has as many entries as W.

    Returns:
        The ``PeftModel``, with the key/value cache off.

    Raises:
        UserError: a target names no module, or ``init_from`` does not agree with the other arguments. With ``full_rank``:
            the targets' inputs differ in width, or there is dropout, rsLoRA or ``init_from``.
    """
    with uncollected():
        from peft import LoraConfig, get_peft_model
    from igascale.adapters import find_adapters

    _check_targets(model, target_modules)
    if full_rank:
        r = _input_width(model, target_modules, plain=not (dropout or use_rslora or init_from))
        alpha = float(r)
    config = LoraConfig(
        r=r,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(target_modules),
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # PEFT's own
        torch.manual_seed(seed)
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=False)
    adapters = find_adapters(peft_model)
    if init_from is not None:
        _load_factors(peft_model, Path(init_from), r, alpha, use_rslora)
    if full_rank:
        _train_whole_weights(adapters)
    model.config.use_cache = False  # type: ignore[union-attr]
    return peft_model


def set_activation_checkpointing(model: Any, mode: Checkpointing) -> None:
    """Recompute activations in the backward pass, or not.

    Args:
        model: what :func:`add_lora` returned.
        mode: ``none``, ``non-reentrant`` or ``reentrant``.

    Raises:
        UserError: the model's architecture cannot.
    """
    if mode not in ("none", "non-reentrant", "reentrant"):
        raise UserError(f"model.activation_checkpointing: unknown '{mode}'; none, non-reentrant or reentrant")
    base = model.get_base_model()
    supported = getattr(base, "supports_gradient_checkpointing", False)
    if supported:
        _checkpointing_method(base, "disable")()
    if hasattr(base, "_require_grads_hook"):
        base.disable_input_require_grads()
    if mode == "none":
        return
    if not supported:
        raise UserError(
            f"{type(base).__name__} has no activation checkpointing; set model.activation_checkpointing: none"
        )
    base.config.use_cache = False
    _checkpointing_method(base, "enable")({"use_reentrant": mode == "reentrant"})
    if mode == "reentrant" and not hasattr(base, "_require_grads_hook"):
        # A reentrant block is differentiated only if its input asks for it, and the embeddings are frozen.
        base.enable_input_require_grads()


def check_vocabulary(tokenizer: Any, model: nn.Module) -> None:
    """The tokenizer may not know ids that the model has no embedding for.

    Raises:
        UserError: it does.
    """
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows}; "
            "use the tokenizer that belongs to the model"
        )


def _checkpointing_method(base: Any, verb: str) -> Any:
    """Transformers 5.23 renamed the methods, and warns of the old names."""
    return getattr(base, f"activation_checkpointing_{verb}", None) or getattr(base, f"gradient_checkpointing_{verb}")


def existing(path: str | Path) -> str:
    """A folder, or something that may be a Hub id, as ``model.path`` names it.

    Raises:
        UserError: neither.
    """
    if Path(path).is_dir():
        if not any((Path(path) / name).is_file() for name in ("config.json", "tokenizer_config.json")):
            raise UserError(f"{path}: holds no config.json; model.path must be a Hugging Face model folder")
        return str(path)
    if Path(path).exists():
        raise UserError(f"{path}: is a file; model.path must be a Hugging Face model folder")
    folder_is_meant = "/" in str(path) and Path(path).parent.exists()
    if folder_is_meant or not _HUB_ID.fullmatch(str(path)):
        raise UserError(f"{path}: no such model folder; check model.path")
    return str(path)


@contextmanager
def _one_error(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # safetensors, tokenizers and the Hub client have exceptions of their own.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if Path(path).is_dir():
            raise UserError(f"{path}: cannot load {what} from this folder: {reason}") from None
        raise UserError(
            f"{path}: no such folder, and {what} of this name could not be had from the Hugging Face Hub; "
            f"check model.path or the connection: {reason}"
        ) from None


@contextmanager
def _attention_error(attn_implementation: str | None) -> Iterator[None]:
    """What transformers has against an attention implementation, under the key that asked for it."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if attn_implementation is None or not re.search("attention", str(error), re.IGNORECASE):
            raise
        raise UserError(
            f"model.attn_implementation: {attn_implementation} cannot be used with this model: "
            f"{' '.join(str(error).split())}; use eager, or null for the model's own"
        ) from None


def _check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    name = str(dtype).removeprefix("torch.")
    if name in known:
        return known[name]
    if name in ("float16", "half", "fp16"):
        raise UserError("model.dtype: float16 needs loss scaling, which is not supported; use bfloat16 or float32")
    raise UserError(f"model.dtype: unknown '{name}'{did_you_mean(name, known)}; use bfloat16 or float32")


def check_causal(path: str | Path, config: Any) -> None:
    """Refuse a configuration that is not a causal language model's, or a quantized one."""
    from transformers.models.auto import modeling_auto as auto

    architectures = list(getattr(config, "architectures", None) or [])
    if getattr(config, "quantization_config", None):
        raise UserError(f"{path}: the model is quantized; use its bfloat16 or float32 version")
    if architectures:
        # Not by model type: BERT's, say, has a causal variant that its published weights do not fit.
        causal = any(re.search(r"ForCausalLM|LMHeadModel", name) for name in architectures)
        kind = ", ".join(architectures)
    else:
        bidirectional = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        causal = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not bidirectional
        kind = config.model_type
    if not causal:
        raise UserError(f"{path}: not a causal language model (it is {kind}); model.path needs a ...ForCausalLM")


def _check_targets(model: nn.Module, target_modules: Sequence[str]) -> None:
    if not target_modules:
        raise UserError("lora.target_modules is empty; name at least one linear module")
    names = [name for name, _ in model.named_modules() if name]
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(
                f"lora.target_modules: the model has no module '{target}'{did_you_mean(target, linear)}; "
                f"its linear modules: {', '.join(sorted(linear))}"
            )


def _input_width(model: nn.Module, target_modules: Sequence[str], plain: bool) -> int:
    """The in-features that all targets share, for an adapter of full rank: an adapter folder has one rank."""
    if not plain:
        raise UserError("lora.full_rank trains W itself: it goes with no lora.dropout, use_rslora or init_from")
    widths = {
        target: module.in_features
        for name, module in model.named_modules()
        for target in target_modules
        if isinstance(module, nn.Linear) and (name == target or name.endswith(f".{target}"))
    }
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{target} {width}" for target, width in widths.items())
        raise UserError(
            f"lora.full_rank: the target modules must have one input width, but there are {shown}; "
            "take some out of lora.target_modules"
        )
    return next(iter(widths.values()), 1)


def _train_whole_weights(adapters: Mapping[str, LoraAdapter]) -> None:
    for adapter in adapters.values():
        nn.init.eye_(adapter.A)
        nn.init.zeros_(adapter.B)
        adapter.A.requires_grad_(False)
    count = sum(adapter.B.numel() for adapter in adapters.values())
    _LOG.warning(
        "lora.full_rank: %s parameters are trained, the weights themselves; their gradient takes %.1f GiB for each domain",
        f"{count:,}",
        count * 4 / 2**30,
    )


def _load_factors(peft_model: Any, folder: Path, r: int, alpha: float, use_rslora: bool) -> None:
    """Copy saved factors in, if they are the same adapter as the configured one."""
    from igascale.adapters import find_adapters
    from igascale.locate import read_adapter_config
    from igascale.lora_folder import read_lora_folder

    if not folder.is_dir():
        raise UserError(f"lora.init_from: no such folder: {folder}")
    saved, config = read_lora_folder(folder), read_adapter_config(folder)
    for key, theirs, ours in (
        ("r", config["r"], r),
        ("alpha", config["lora_alpha"], alpha),
        ("use_rslora", bool(config.get("use_rslora")), use_rslora),
    ):
        if theirs != ours:
            raise UserError(
                f"lora.init_from: {folder} was trained with {key}={theirs}, but lora.{key} is {ours}; "
                f"set lora.{key}={str(theirs).lower()}"
            )
    adapters = find_adapters(peft_model)
    if saved.keys() != adapters.keys():
        odd = sorted(saved.keys() ^ adapters.keys())[0]
        raise UserError(
            f"lora.init_from: {folder} {'has' if odd in saved else 'lacks'} an adapter on {odd}, the configured model "
            f"{'does not' if odd in saved else 'has one'}; set lora.target_modules as in its adapter_config.json: "
            f"{config.get('target_modules')}"
        )
    for fqn, adapter in adapters.items():
        factors = saved[fqn]
        for letter, here, there in (("A", adapter.A, factors.A), ("B", adapter.B, factors.B)):
            if here.shape != there.shape:
                raise UserError(
                    f"lora.init_from: {folder}: {fqn}.lora_{letter} is {list(there.shape)}, but {list(here.shape)} "
                    "in this model; the adapter belongs to another base model"
                )
        with torch.no_grad():
            adapter.A.copy_(factors.A)
            adapter.B.copy_(factors.B)
