"""Fingerprints of programs and arrays: equal texts for equal ones.

Equal programs have equal fingerprints in every process: names of functions, where they
lie in memory, which parts JAX keeps once for several uses, and what nothing uses do
not count.
"""

import hashlib
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


# Parameters of primitives that say how a program is called, kept or differentiated.
_IGNORED = frozenset(
    """
    bwd compiler_options_kvs ctx_mesh fwd_jaxpr_thunk inline jvp_jaxpr_fun
    jvp_jaxpr_thunk keep_unused name out_sharding sharding
    """.split()  # noqa: SIM905
)


def fingerprint(*parts: Any) -> str:
    """Of programs, arrays, PyTrees of them, and plain values."""
    digest = hashlib.sha256()
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()[:16]


def _add(digest: Any, thing: Any) -> None:
    if isinstance(thing, ClosedJaxpr):
        _add_program(digest, thing.jaxpr)
        _add(digest, list(thing.consts))
    elif isinstance(thing, Jaxpr):
        _add_program(digest, thing)
    elif isinstance(thing, np.ndarray | np.generic | jax.Array):
        array = np.asarray(thing)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    elif isinstance(thing, tuple | list):
        digest.update(f"{len(thing)}(".encode())
        for item in thing:
            _add(digest, item)
    elif isinstance(thing, dict):
        _add(digest, sorted(thing.items()))
    elif thing is None or isinstance(thing, bool | int | float | str | np.dtype):
        digest.update(f"{thing!r};".encode())
    elif isinstance(leaves := jax.tree.leaves(thing), list) and leaves != [thing]:
        _add(digest, [str(jax.tree.structure(thing)), leaves])
    else:
        digest.update(f"{type(thing).__name__};".encode())


def _used(jaxpr: Jaxpr) -> list[Any]:
    """The equations that the results depend on."""
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            kept.append(eqn)
            needed.update(a for a in eqn.invars if not isinstance(a, Literal))
    return kept[::-1]


def _add_program(digest: Any, jaxpr: Jaxpr) -> None:
    numbers: dict[Any, int] = {}

    def variable(var) -> str:
        return f"{numbers.setdefault(var, len(numbers))}:{var.aval.str_short()}"

    def read(atom) -> Any:
        return atom.val if isinstance(atom, Literal) else variable(atom)

    _add(digest, [variable(var) for var in (*jaxpr.constvars, *jaxpr.invars)])
    for eqn in _used(jaxpr):
        _add(digest, [eqn.primitive.name, *map(read, eqn.invars)])
        _add(digest, [variable(var) for var in eqn.outvars])
        for key in sorted(eqn.params.keys() - _IGNORED):
            _add(digest, key)
            _add(digest, eqn.params[key])
    _add(digest, [read(atom) for atom in jaxpr.outvars])
