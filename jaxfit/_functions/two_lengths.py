"""The comparison of one function traced for data of two lengths.

Where both traces are the same program but for the lengths in shapes, no value depends
on how many rows there are, and rows may be added.
"""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


# Parameters of primitives that hold shapes, those that hold derivative rules, and those
# that tell where arrays lie.
_SHAPES = frozenset({"shape", "new_sizes", "sizes", "limit_indices", "slice_sizes"})
_RULES = frozenset(
    {"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees"}
)
_PLACES = frozenset({"sharding", "out_sharding", "ctx_mesh"})


def _equal(a: Any, b: Any) -> bool:
    """Whether two constants of programs are one array."""
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    a, b = np.asarray(a), np.asarray(b)
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def same_but_for_length(a: Jaxpr, b: Jaxpr, lengths: tuple[int, int]) -> bool:
    """Whether two jaxprs are one program, traced for data of two lengths.

    They may differ where the one has the first length and the other the second, in
    shapes; a length among the values (`x / len(x)`) makes them two programs. Where
    their arrays lie makes no difference.
    """

    def same(p, q, length_here=False) -> bool:
        if isinstance(p, ClosedJaxpr) and isinstance(q, ClosedJaxpr):
            pairs = zip(p.consts, q.consts, strict=False)
            if len(p.consts) != len(q.consts) or not all(_equal(*c) for c in pairs):
                return False
            return same_but_for_length(p.jaxpr, q.jaxpr, lengths)
        if isinstance(p, Jaxpr) and isinstance(q, Jaxpr):
            return same_but_for_length(p, q, lengths)
        if isinstance(p, tuple | list) and isinstance(q, tuple | list):
            pairs = zip(p, q, strict=False)
            return len(p) == len(q) and all(same(*v, length_here) for v in pairs)
        if isinstance(p, np.ndarray | jax.Array) or isinstance(
            q, np.ndarray | jax.Array
        ):
            return _equal(p, q)
        if length_here and (p, q) == lengths:
            return True
        return bool(p == q)

    def same_params(p, q) -> bool:
        keys = [key for key in p if key not in _RULES | _PLACES]
        return all(same(p[key], q[key], key in _SHAPES) for key in keys)

    def alike(p, q) -> bool:
        if isinstance(p, Literal) or isinstance(q, Literal):
            return isinstance(p, type(q)) and bool(p.val == q.val)
        return same(tuple(p.aval.shape), tuple(q.aval.shape), True)

    if len(a.eqns) != len(b.eqns) or len(a.constvars) != len(b.constvars):
        return False
    return all(
        e.primitive is f.primitive
        and len(e.invars) == len(f.invars)
        and all(map(alike, e.invars, f.invars))
        and same_params(e.params, f.params)
        for e, f in zip(a.eqns, b.eqns, strict=True)
    )
