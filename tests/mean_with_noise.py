"""ERM with the capture of the rules that mask."""

from igascale.hooks.mean import Mean


class MeanWithNoise(Mean):
    """Computes what its base computes."""

    uses_noise = True
