"""Fair selection: learning rate, steps and a rule's own options, chosen for every method with the same budget (docs/tune.md)."""

from igascale.tuning.claims import Compared, claims, departures, describe_selection

__all__ = ["Compared", "claims", "departures", "describe_selection"]
