"""Run on one rank: attach to real DeepSpeed engines with settings under which gradients would be wrong; save the messages."""

import sys

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

import igascale
from igascale.engine.attached_checks import check_deepspeed
from igascale.engine.deepspeed import init_distributed
from igascale.hooks import build

from tiny import tiny_peft

# Name -> changes of the configuration below; the values of zero_optimization are merged.
CONFIGS = {
    "fine": {},
    "fp16": {"fp16": {"enabled": True}},
    "autocast16": {"torch_autocast": {"enabled": True, "dtype": "float16"}},
    "round robin": {"zero_optimization": {"round_robin_gradients": True}},
    "offload": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}, "zero_force_ds_cpu_optimizer": False},
    "unmanaged": {"managed_gradient_accumulation": False},
    "zero3": {"zero_optimization": {"stage": 3}},
    "bf16 zero1 fp32": {
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": 1},
    },
    "bf16 zero0": {"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}},
    "deepcompile": {"compile": {"deepcompile": True}},
}
# Name -> what to do with a good engine.
CALLS = {
    "clips twice": ({"gradient_clipping": 1.0}, {"hook": "mean", "max_grad_norm": 1.0}),
    "clips by default": ({"gradient_clipping": None}, {"hook": "mean", "max_grad_norm": 1.0}),
    "reference and torch": ({}, {"hook": "iga"}),
    "reference, clipped there": ({"gradient_clipping": 1.0}, {"hook": "iga"}),
    "another optimizer": ({}, {"hook": "mean", "optimizer": torch.optim.SGD([torch.zeros(1)], lr=1.0)}),
    "DeepSpeed clips the mean": ({"gradient_clipping": 1.0}, {"hook": "mean"}),
}


def initialize(changes, **parts):
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000},
    }
    changes = dict(changes)
    config["zero_optimization"] |= changes.pop("zero_optimization", {})
    config = {k: v for k, v in (config | changes).items() if v is not None}
    dtype = torch.bfloat16 if "bf16" in config else torch.float16 if "fp16" in config else torch.float32
    model = tiny_peft()
    model.base_model.to(dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = parts.get("optimizer", torch.optim.AdamW)(parts.get("choose", list)(trained), lr=1e-3)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def message(engine, **options):
    try:
        igascale.attach(engine, domains=["a", "b"], **options).detach()
    except igascale.UserError as error:
        return str(error)
    return ""


class Disguise:
    """A good engine but for some answers that cannot be had on one CPU."""

    def __init__(self, engine, **answers):
        self.__dict__.update(answers)
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)


def disguised(engine, **answers):
    try:
        check_deepspeed(Disguise(engine, **answers), build("mean", {}), None)
    except igascale.UserError as error:
        return str(error)
    return ""


def main(out: str) -> None:
    torch.set_num_threads(1)
    init_distributed()
    configs = dict(CONFIGS)
    if not get_accelerator().is_fp16_supported():  # a matter of the processor: DeepSpeed itself refuses then
        del configs["fp16"]
    found = {name: message(initialize(changes), hook="mean") for name, changes in configs.items()}
    for name, (changes, options) in CALLS.items():
        found[name] = message(initialize(changes), **options)
    found["a factor is missing"] = message(initialize({}, choose=lambda ps: ps[1:]), hook="mean")
    found["a factor is missing, zero0"] = message(
        initialize({"zero_optimization": {"stage": 0}}, choose=lambda ps: ps[1:]), hook="mean"
    )
    engine = initialize({})
    found["parallel"] = disguised(engine, dp_world_size=7)
    found["pipeline"] = disguised(engine, pipeline_parallelism=True)
    found["no optimizer"] = disguised(engine, basic_optimizer=None)
    found["muon"] = disguised(engine, basic_optimizer=type("MuonWithAuxAdam", (), {})())
    found["another wrapper"] = disguised(engine, optimizer=object())
    found["also the engine's"] = message(engine, hook="mean", optimizer=engine.optimizer)
    torch.save(found, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
