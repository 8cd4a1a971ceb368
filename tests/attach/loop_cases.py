"""The loops that ``worker_loops.py`` runs on two ranks; the test compares each with one process."""

STEPS, MICRO, WORLD = 4, 2, 2
LR = {"sgd": 0.3, "adamw": 1e-3, "adamw-reference": 1e-3}
CASES = {
    **{f"mean-{s}": {"stage": s, "hook": "mean", "optimizer": "sgd"} for s in (0, 1, 2)},
    **{f"pcgrad-{s}": {"stage": s, "hook": "pcgrad", "optimizer": "adamw"} for s in (0, 1, 2)},
    **{f"iga-{s}": {"stage": s, "hook": "iga", "optimizer": "adamw-reference", "clip": 0.1} for s in (0, 1, 2)},
    **{
        f"clipped-{s}": {"stage": s, "hook": "pcgrad", "optimizer": "sgd", "ds_clip": 0.2, "stale": True}
        for s in (0, 1, 2)
    },
    **{f"irm-{s}": {"stage": s, "hook": "irm", "optimizer": "sgd"} for s in (0, 1, 2)},
    **{f"backward-{s}": {"stage": s, "hook": "pcgrad", "optimizer": "sgd", "plain_backward": True} for s in (1, 2)},
    **{f"several-{s}": {"stage": s, "hook": "pcgrad", "optimizer": "sgd", "several": True} for s in (0, 1, 2)},
    "groups": {"stage": 2, "hook": "iga", "optimizer": "adamw-reference", "groups": True},
    **{f"bf16-{s}": {"stage": s, "hook": "mean", "optimizer": "sgd", "bf16": True} for s in (1, 2)},
}
