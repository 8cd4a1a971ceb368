"""Importing large libraries without the garbage collector walking over them."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Modules that an import brings, from which on what they made is kept from the collector.
_MANY = 300


@contextmanager
def uncollected() -> Iterator[None]:
    """For the first import of PyTorch, transformers, PEFT or DeepSpeed, which takes a quarter less time in it.

    Hundreds of thousands of objects are made that stay until the process ends; the collector would look through them again and
    again while they come, and at every full collection of the training after. They are frozen (:func:`gc.freeze`) until the
    process ends, but not where everything had been imported before: nothing that is not a library's is to be kept.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - before >= _MANY:
            gc.freeze()
            atexit.register(gc.unfreeze)  # extension modules look, at the very end, for what was not collected
        if enabled:
            gc.enable()
