"""Run on every rank: `igascale train`, where rank 1 finds another file under the name of the training file."""

import os
import sys
from pathlib import Path

from igascale import assemble
from igascale.cli import main

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
load_data = assemble.load_data


def load_own(config, *arguments):
    if os.environ["RANK"] == "1":
        data = config.data.model_copy(update={"train": str(folder / "data" / "other.jsonl")})
        config = config.model_copy(update={"data": data})
    return load_data(config, *arguments)


assemble.load_data = load_own
main(["train", str(folder / "run.yaml"), f"output_dir={out / 'run'}", "engine.name=deepspeed"])
