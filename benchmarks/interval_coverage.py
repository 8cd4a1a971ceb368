"""How often 95% intervals hold the truth, by simulation: python -m benchmarks.interval_coverage (docs/compare.md).

Accuracies: groups share a chance of success drawn from a beta distribution, so that answers within a group lean together. Differences: groups
share the chances that only the first, or only the second run is right, drawn from a Dirichlet distribution.
"""

import argparse
from functools import partial

import numpy as np

from igascale.evaluation.bootstrap import bootstrap_interval
from igascale.evaluation.intervals import interval_of

#: groups, instances per group, accuracy, correlation within a group
ACCURACIES = ((30, 1, 0.98, 0.0), (30, 4, 0.9, 0.3), (100, 1, 0.98, 0.0), (100, 4, 0.5, 0.3), (500, 1, 0.7, 0.0))
#: groups, instances per group, share that only the first has right, only the second, correlation within a group
DIFFERENCES = ((30, 1, 0.05, 0.02, 0.0), (30, 4, 0.05, 0.02, 0.3), (100, 1, 0.1, 0.05, 0.0), (100, 4, 0.2, 0.1, 0.3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=599)
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    print("| what | groups x instances | truth | score | percentile | bca |\n|---|---|---|---|---|---|")
    for K, m, p, rho in ACCURACIES:
        row("accuracy", K, m, f"{p:.0%}", partial(accuracies, rng, K, m, p, rho), p, False, options)
    for K, m, b, c, rho in DIFFERENCES:
        truth = f"{b:.0%} - {c:.0%}"
        row("difference", K, m, truth, partial(differences, rng, K, m, b, c, rho), b - c, True, options)


def row(what, K, m, shown, draw, truth, paired, options) -> None:
    hits = np.zeros(3)
    for _ in range(options.trials):
        groups = draw()
        found = [
            interval_of([groups], paired=paired),
            *(bootstrap_interval([groups], method=how, resamples=options.resamples) for how in ("percentile", "bca")),
        ]
        hits += [interval.low - 1e-12 <= truth <= interval.high + 1e-12 for interval in found]
    cells = " | ".join(f"{100 * hit / options.trials:.1f}%" for hit in hits)
    print(f"| {what} | {K} x {m} | {shown} | {cells} |", flush=True)


def accuracies(rng, K, m, p, rho):
    scale = (1 - rho) / max(rho, 1e-3)
    shares = rng.beta(p * scale, (1 - p) * scale, size=K)
    return {k: (rng.random(m) < shares[k]).astype(float).tolist() for k in range(K)}


def differences(rng, K, m, b, c, rho):
    shares = rng.dirichlet(np.array([b, c, 1 - b - c]) * (1 - rho) / max(rho, 1e-6), size=K)
    return {k: rng.choice([1.0, -1.0, 0.0], m, p=shares[k]).tolist() for k in range(K)}


if __name__ == "__main__":
    main()
