"""igascale: LoRA training with pluggable per-domain gradient hooks on stock DeepSpeed ZeRO.

The first use is Invariant Gradient Alignment (arXiv 2606.05025), which is not the "IGA" of DomainBed
(Inter-environmental Gradient Alignment, arXiv 2008.01883).
"""

from igascale.version import __version__

__all__ = ["__version__"]
