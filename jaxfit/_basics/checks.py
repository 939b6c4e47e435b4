"""Checks of options: messages with the argument, what came, and what to do.

And where warnings of all this point to.
"""

import difflib
import inspect
import math
import operator
from collections.abc import Iterable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


_NUMERIC = (jax.Array, np.ndarray, np.generic, complex, float, int)


def one_of(name: str, value: Any, choices: Any) -> Any:
    """`value` if it is one of the `Literal` choices."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
    return value


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError as err:
        raise TypeError(f"`{name}` must be an integer, got {value!r}.") from err
    if number < 1:
        raise ValueError(f"`{name}` must be at least 1, got {number}.")
    return number


def check_tolerance(name: str, value: Any) -> None:
    """Refuse a tolerance that is negative or not a number; None and tracers pass."""
    if value is None or isinstance(value, Tracer):
        return
    if not isinstance(value, float | int) and not hasattr(value, "dtype"):
        raise TypeError(f"`{name}` must be a number or None, got {value!r}.")
    if not (float(value) >= 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be finite and not negative, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Refuse what is no positive finite number; tracers pass."""
    if isinstance(value, Tracer):
        return
    if value is None or isinstance(value, str | bool) or np.ndim(value):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {value!r}.")


def is_concrete(tree) -> bool:
    """Whether all values can be looked at from here.

    Not while they are traced, nor where other processes hold a part of them.
    """
    return all(_is_here(leaf) for leaf in jax.tree.leaves(tree))


def _is_here(leaf) -> bool:
    if isinstance(leaf, Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def real_tree(tree, name: str, inexact: bool = False):
    """The tree with array leaves; `inexact` turns integers into floats."""

    def convert(path, leaf):
        where = name + jax.tree_util.keystr(path)
        if not isinstance(leaf, _NUMERIC):
            raise TypeError(
                f"`{where}` must be an array or a number, got {type(leaf).__name__}: "
                "put anything else into the function."
            )
        # One of JAX's is what it is, and to ask for it takes 7 us.
        array = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(
                f"`{where}` must be real, got {array.dtype}: fit real and imaginary "
                "parts as two arrays."
            )
        if inexact and not jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(jnp.result_type(float))
        return array

    return jax.tree_util.tree_map_with_path(convert, tree)


def list_to_array(tree):
    """A plain list of numbers is data, not a PyTree of scalars."""
    plain = isinstance(tree, list) and all(isinstance(e, _NUMERIC[3:]) for e in tree)
    return np.asarray(tree) if plain and tree else tree


def boolean(leaf) -> Array:
    leaf = jnp.asarray(leaf)
    if leaf.dtype != jnp.bool_:
        raise TypeError(f"`mask` must be boolean, got {leaf.dtype}.")
    return leaf


def same_structure(tree, like, name: str, like_name: str) -> None:
    got, want = jax.tree.structure(tree), jax.tree.structure(like)
    if got != want:
        raise ValueError(f"{name} has structure {got} but {like_name} has {want}.")


def broadcast_like(prefix, tree, name: str, tree_name: str, keep_scalars: bool = False):
    """`prefix` broadcast to the structure and shapes of `tree`."""
    try:
        full = jax.tree.broadcast(prefix, tree)
    except ValueError as err:
        raise ValueError(
            f"`{name}` must be one value, a prefix of `{tree_name}` or a PyTree like "
            f"it, got {jax.tree.structure(prefix)} for {jax.tree.structure(tree)}."
        ) from err

    # On values at hand NumPy is a hundred times faster than JAX op by op.
    xp = np if is_concrete(full) else jnp

    def broadcast(path, leaf, like):
        shape = jnp.shape(like)
        if isinstance(leaf, jax.Array) and leaf.shape == shape:
            return leaf  # wherever it is: it may be spread over devices
        leaf = xp.asarray(leaf)
        if leaf.ndim > len(shape) or any(
            a not in (1, b) for a, b in zip(leaf.shape[::-1], shape[::-1], strict=False)
        ):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"`{name}{where}` has shape {leaf.shape}, which does not fit "
                f"`{tree_name}{where}` of shape {shape}."
            )
        scalar = keep_scalars and leaf.ndim == 0
        return leaf if scalar else xp.broadcast_to(leaf, shape)

    return jax.tree_util.tree_map_with_path(broadcast, full, tree)


def flatten(tree) -> np.ndarray | Array:
    """The leaves as one vector, as `ravel_pytree` does, in NumPy where it can."""
    xp = np if is_concrete(tree) else jnp
    return xp.concatenate([xp.ravel(xp.asarray(a)) for a in jax.tree.leaves(tree)])


def refuse(bad, params, what: str, values: dict | None = None) -> None:
    """Raise a ValueError naming the first parameter for which `bad` holds."""
    if not bad.any():
        return
    i = int(np.argmax(bad))
    names = [
        jax.tree_util.keystr(path) + (f"[{j}]" if np.ndim(leaf) else "")
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        for j in range(np.size(leaf))
    ]
    shown = ", ".join(f"{k} {float(v[i])!r}" for k, v in (values or {}).items())
    raise ValueError(f"{what} at params{names[i]}" + (f": {shown}." if shown else "."))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean `...`?", or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], where: str, also: Iterable[str] = ()
) -> None:
    """Refuse keywords that are not known, with the nearest one that is.

    Those of `also` are taken elsewhere: they may be meant too.
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            raise TypeError(
                f"{where} got an unexpected keyword argument `{name}`."
                f"{did_you_mean(name, [*known, *also])} It takes {', '.join(known)}."
            )


def outside() -> int:
    """The `stacklevel` by which a warning points to the caller of the library."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "")[:7] == "jaxfit.":
        level, frame = level + 1, frame.f_back
    return level
