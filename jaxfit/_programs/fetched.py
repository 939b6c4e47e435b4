"""Programs of the doors: results to the host at once, and the time each call takes."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .program import Bound, Program


class Timing(NamedTuple):
    """Seconds spent in tracing and compiling (0 if done before) and in running."""

    compile_time: float
    run_time: float


class _Part(NamedTuple):
    """Where an array lies: in which vector and from where to where; what it is."""

    vector: int
    begin: int
    end: int
    shape: tuple[int, ...]
    dtype: np.dtype
    changed: bool  # it travels as numbers of another type


class _Form:
    """How vectors are cut into arrays, and those are put together."""

    def __init__(self, tree: Any, kinds: list[np.dtype], sizes: list[int]):
        leaves, self.treedef = jax.tree.flatten(tree)
        self.parts = [_part(np.shape(a), a.dtype, kinds, sizes) for a in leaves]

    def read(self, vectors: list[np.ndarray]) -> Any:
        """The PyTree."""
        leaves = []
        for i, begin, end, shape, dtype, changed in self.parts:
            leaf = vectors[i][begin:end].reshape(shape)
            leaves.append(leaf.astype(dtype) if changed else leaf)
        return self.treedef.unflatten(leaves)


def _part(shape, dtype, kinds: list[np.dtype], sizes: list[int]) -> _Part:
    """The next place in the vector of its kind, which grows by it."""
    dtype = np.dtype(dtype)
    kind = _carrier(dtype)
    if kind not in kinds:
        kinds.append(kind)
        sizes.append(0)
    i = kinds.index(kind)
    begin = sizes[i]
    sizes[i] += math.prod(shape)
    return _Part(i, begin, sizes[i], shape, dtype, kind != dtype)


def _carrier(dtype: np.dtype) -> np.dtype:
    """As what numbers travel: floats of the precision at hand if these are exact."""
    wide = np.dtype(jnp.result_type(float))
    return wide if np.can_cast(dtype, wide) else dtype


@jax.tree_util.register_static
class _Forms(tuple):
    """The forms of what a program returns; part of the structure of that."""


class Programs:
    """Programs of a function `fn(*args) -> (kept, later, wanted)` of PyTrees.

    What is kept stays where it is. The rest comes to the host as NumPy arrays, in one
    transfer: every array by itself would cost 4 to 8 us. What is for later is put
    together when it is asked for.
    """

    def __init__(self, fn: Callable[..., tuple[Any, Any, Any]]):
        def packed(*args):
            kept, *trees = fn(*args)
            kinds, sizes = [], []
            forms = _Forms(_Form(tree, kinds, sizes) for tree in trees)
            parts: list[list] = [[] for _ in kinds]
            for tree, form in zip(trees, forms, strict=True):
                for leaf, part in zip(jax.tree.leaves(tree), form.parts, strict=True):
                    i = part.vector
                    parts[i].append(jnp.ravel(leaf).astype(kinds[i]))
            return kept, [jnp.concatenate(of_kind) for of_kind in parts], forms

        packed.__name__ = fn.__name__
        self._program = Program(packed, (), {})

    def __call__(self, *args) -> tuple[Any, Callable[[], Any], Any, Timing]:
        """What is kept, what makes what is for later, what is wanted; the timing."""
        return _brought(self._program.ready, *args)

    def bound(self, *fixed: Any) -> Callable[[Any], tuple]:
        """A call of these arguments and one more, which is looked at alone.

        The others must not change.
        """
        return functools.partial(_brought, Bound(self._program, fixed).ready)


def _brought(ready: Callable, *args: Any) -> tuple:
    """What a program returns, on the host."""
    start = time.perf_counter()
    call, compiled = ready(*args)
    kept, vectors, (later, wanted) = call()
    vectors = [np.asarray(vector) for vector in vectors]
    timing = Timing(compiled, time.perf_counter() - start - compiled)
    return kept, lambda: later.read(vectors), wanted.read(vectors), timing
