"""Peak bytes of the tensors alive, counted operation by operation: what a GPU's allocator would show, on any machine."""

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the storages that operations inside create, while they live.

    Attributes:
        live: bytes now.
        peak: the most at any time.
    """

    def __init__(self, *existing: Tensor):
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()
        for tensor in existing:
            self._known.add(id(tensor.untyped_storage()))
        self._existing = [tensor.untyped_storage() for tensor in existing]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage) -> None:
        if id(storage) in self._known:
            return
        key, size = id(storage), storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
