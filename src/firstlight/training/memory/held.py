"""The memory of tensors, counted as it comes and goes."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from firstlight.training.lightning import storage_id


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, until they are freed.

    `most` is the largest number of them at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Results may be views of arguments, or arguments that were changed in place.
        given = {storage_id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and storage_id(made) not in given:
                self._count(made)
        return result

    def _count(self, made: Tensor) -> None:
        # Storages, not tensors: a view takes no memory.
        storage = made.untyped_storage()
        key, n_bytes = storage_id(made), storage.nbytes()
        if key in self.seen:
            return

        def gone(_: Any) -> None:
            self.now -= n_bytes
            del self.seen[key]

        self.seen[key] = weakref.ref(storage, gone)
        self.now += n_bytes
        self.most = max(self.most, self.now)
