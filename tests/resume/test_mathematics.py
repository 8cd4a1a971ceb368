"""Which changed keys make it another run: without training, from configurations alone."""

import copy

import pytest

from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.resuming.mathematics import check_allowed, compare
from igascale.resuming.sources import Sources

KNOWN = Sources("aa", {"config.json": "bb"})


def config(**sections):
    values = {"output_dir": "run", "model": {"path": "model"}, "data": {"train": "train.jsonl"}}
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section if isinstance(section, dict) else section
    return RunConfig.model_validate(values)


def changes(before, after, old=KNOWN, new=KNOWN):
    saved = before if isinstance(before, dict) else before.model_dump(mode="json")
    return {c.key: c.kind for c in compare(saved, after, old, new)}


def test_every_key_has_been_thought_about():
    """A new key is mathematics until someone says that it is not: this list says which are."""
    mathematics = {
        *("seed", "model.path", "model.dtype", "lora.r", "lora.alpha", "lora.dropout", "lora.target_modules"),
        *(
            "lora.use_rslora",
            "lora.full_rank",
            "data.train",
            "data.domains",
            "data.num_domains",
            "data.pairing",
            "data.pool",
        ),
        *("data.augment", "data.max_length", "train.epochs", "train.max_steps", "train.groups_per_batch"),
        "train.schedule_steps",
        *("train.gradient_accumulation_steps", "train.loss_reduction", "optimizer.lr", "optimizer.weight_decay"),
        *("optimizer.beta1", "optimizer.beta2", "optimizer.eps", "optimizer.warmup_ratio", "optimizer.max_grad_norm"),
    }
    rounding = {
        *("engine.name", "engine.ds_config", "engine.threads", "engine.reduce_bucket_mb", "engine.overlap_reduce"),
        *("train.micro_batch_size", "train.packing", "model.activation_checkpointing", "model.attn_implementation"),
    }
    free = {
        "output_dir",
        "train.max_skipped_steps",
        "data.validation",
        "data.ood",
        "data.allow_leakage",
        "lora.init_from",
    }
    sections = ("eval", "checkpoint", "logging", "supervision", "selection")
    now = config()
    kinds = {"mathematics": set(), "rounding": set(), "none": set()}
    for key, value in flat(now.model_dump(mode="json")).items():
        saved = now.model_dump(mode="json")
        put(saved, key, "something else" if not isinstance(value, int | float) else value + 1)
        if key.startswith("hook."):
            continue
        for changed, kind in changes(saved, now, Sources(None, None), Sources(None, None)).items():
            kinds[kind].add(changed)
    assert kinds["mathematics"] == mathematics
    assert kinds["rounding"] == rounding
    assert {key for key in kinds["none"] if key.partition(".")[0] not in sections} == free


def flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def put(tree, key, value):
    *above, last = key.split(".")
    for name in above:
        tree = tree[name]
    tree[last] = value


def test_missing_keys_are_read_as_defaults():
    now = config(hook={"name": "iga"})
    saved = now.model_dump(mode="json")
    for section, key in (
        ("train", "packing"),
        ("model", "attn_implementation"),
        ("optimizer", "eps"),
        ("lora", "full_rank"),
    ):
        del saved[section][key]
    del saved["eval"], saved["seed"]
    assert changes(saved, now) == {}
    assert changes(saved, config(hook={"name": "iga"}, optimizer={"eps": 1e-6})) == {"optimizer.eps": "mathematics"}
    assert changes(saved, config(hook={"name": "iga"}, seed=1)) == {"seed": "mathematics"}


def test_unknown_keys_are_named():
    now = config()
    saved = copy.deepcopy(now.model_dump(mode="json"))
    saved["train"]["curriculum"] = "hard first"
    saved["logging"]["colour"] = "blue"
    assert changes(saved, now) == {"train.curriculum": "mathematics", "logging.colour": "none"}
    with pytest.raises(
        UserError, match=r"train\.curriculum: 'hard first' in the checkpoint, no key of this version now"
    ):
        check_allowed(compare(saved, now, KNOWN, KNOWN), [], set(), 3)
    assert check_allowed(compare(saved, now, KNOWN, KNOWN), ["train.curriculum"], set(), 3)


def test_hook_options_by_the_hooks_own_defaults():
    plain, written = (
        config(hook={"name": "iga"}),
        config(hook={"name": "iga", "tau": 0.5, "rank": "2R", "memory_mb": 1024.0}),
    )
    assert changes(plain, written) == {}
    assert changes(plain, config(hook={"name": "iga", "tau": 0.6})) == {"hook.tau": "mathematics"}
    assert changes(plain, config(hook={"name": "iga", "memory_mb": 64})) == {"hook.memory_mb": "rounding"}
    # A preset is nothing but its options.
    paper = {"name": "iga", "preset": "paper"}
    stable = {"name": "iga", "preset": "paper", "rank": "2R", "extraction": "anchored"}
    assert changes(config(hook=stable), config(hook={"name": "iga", "preset": "paper-stable"})) == {}
    assert changes(plain, config(hook=paper))["hook.extraction"] == "mathematics"
    assert changes(plain, config(hook={"name": "mean"}))["hook.name"] == "mathematics"
    gone = plain.model_dump(mode="json") | {"hook": {"name": "iga", "gone": 1}}
    assert changes(gone, plain)["hook.gone"] == "mathematics"


def test_the_split_of_a_batch_is_rounding_unless_dropout_draws_by_pass():
    whole, split = (
        {"groups_per_batch": 8, "gradient_accumulation_steps": 1},
        {"groups_per_batch": 4, "gradient_accumulation_steps": 2},
    )
    both = {"train.groups_per_batch": "rounding", "train.gradient_accumulation_steps": "rounding"}
    assert changes(config(train=whole), config(train=split)) == both
    assert set(changes(config(train=whole), config(train=split | {"groups_per_batch": 5})).values()) == {"mathematics"}
    drop = {"dropout": 0.1}
    assert set(changes(config(train=whole, lora=drop), config(train=split, lora=drop)).values()) == {"mathematics"}
    small = {"micro_batch_size": 2}
    assert changes(config(), config(train=small)) == {"train.micro_batch_size": "rounding"}
    assert changes(config(lora=drop), config(train=small, lora=drop)) == {"train.micro_batch_size": "mathematics"}


def test_sources():
    now, moved = config(), config(data={"train": "elsewhere.jsonl"}, model={"path": "other"})
    assert changes(now, moved) == {"data.train": "none", "model.path": "none"}
    other = Sources("cc", {"config.json": "bb", "model.safetensors": "1:dd"})
    assert changes(now, now, KNOWN, other) == {"data.train": "mathematics", "model.path": "mathematics"}
    with pytest.raises(UserError, match=r"model\.safetensors differ"):
        check_allowed(compare(now.model_dump(mode="json"), now, KNOWN, other), ["data"], set(), 3)
    unknown = Sources("aa", None)  # an earlier version's checkpoint
    assert changes(now, now, unknown, KNOWN) == {}
    assert changes(now, moved, unknown, KNOWN) == {"data.train": "none", "model.path": "mathematics"}


def test_what_allow_change_takes():
    before, now = config(optimizer={"lr": 1e-4}), config(optimizer={"lr": 1e-3, "eps": 1e-6})
    found = compare(before.model_dump(mode="json"), now, KNOWN, KNOWN)
    with pytest.raises(UserError) as error:
        check_allowed(found, ["optimizer.lr"], set(), 7)
    assert "optimizer.eps: 1e-08 in the checkpoint, 1e-06 now" in str(error.value)
    assert "optimizer.lr:" not in str(error.value)
    assert "--allow-change optimizer.eps goes on from step 7" in str(error.value)
    assert [c.key for c in check_allowed(found, ["optimizer"], set(), 7)] == ["optimizer.eps", "optimizer.lr"]
    assert len(check_allowed(found, ["optimizer.lr", "optimizer.eps"], set(), 7)) == 2
    for name, message in (("seed", "nothing of that name differs"), ("ranks", "nothing of that name differs")):
        with pytest.raises(UserError, match=f"--allow-change {name}: {message}"):
            check_allowed(found, ["optimizer", name], set(), 7)
    with pytest.raises(UserError, match=r"no such key; did you mean 'optimizer\.lr'\?"):
        check_allowed(found, ["optimizer", "optimizer.lrr"], set(), 7)
    same = compare(now.model_dump(mode="json"), now, KNOWN, KNOWN)
    assert check_allowed(same, ["optimizer.lr"], {"optimizer.lr"}, 9) == []  # the same command after a restart
