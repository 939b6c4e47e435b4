"""Settings of JAX for the time of a call: double precision for what is double.

The doors fit in float64 by `jax.enable_x64`, whatever the process has set. Results that
hold such arrays compute with them in the same way. Promotion of ranks and transfers,
which a process may forbid to find its own mistakes, are no mistakes in here: lanes lie
along the last axis, and a door is called with data of the host.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def own_settings() -> contextlib.AbstractContextManager[None]:
    """What the arithmetic of a fit needs to be allowed, in this thread, for a while."""
    return _NOTHING if _is_all_allowed() else _all_allowed()


_NOTHING = contextlib.nullcontext()
_GUARDS = tuple(
    f"jax_transfer_guard{which}"
    for which in ("", "_host_to_device", "_device_to_device", "_device_to_host")
)


def _is_all_allowed() -> bool:
    """Whether it is, as mostly: to allow it again costs a tenth of a small fit."""
    config = jax.config
    return config.jax_numpy_rank_promotion == "allow" and all(  # type: ignore
        [getattr(config, name) in (None, "allow") for name in _GUARDS]
    )


@contextlib.contextmanager
def _all_allowed() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"), jax.transfer_guard("allow"):
        yield


def in_own_settings(fn: Callable) -> Callable:
    """A function that runs, and is traced, in settings of its own."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any):
        with own_settings():
            return fn(*args, **kwargs)

    return run


def full_products() -> contextlib.AbstractContextManager[None]:
    """All digits in products of matrices, while something is traced.

    Where nobody has chosen, an accelerator multiplies float32 matrices with 10 bits of
    their 23, which makes three digits of the six that a fit in float32 has.
    """
    chosen = jax.config.jax_default_matmul_precision  # type: ignore
    return jax.default_matmul_precision("highest") if chosen is None else _NOTHING


def in_full_products(fn: Callable) -> Callable:
    """A rule of differentiation, which JAX traces when it needs it."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any):
        with full_products():
            return fn(*args, **kwargs)

    return run


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager[None]:
    """Double precision for float64, for the time and the thread of the caller only."""
    if dtype != np.float64 or jax.config.jax_enable_x64:  # type: ignore
        return own_settings()
    return jax.enable_x64(True) if _is_all_allowed() else _all_allowed_in_double()


@contextlib.contextmanager
def _all_allowed_in_double() -> Iterator[None]:
    with _all_allowed(), jax.enable_x64(True):
        yield


def in_own_precision(method: Callable) -> Callable:
    """A method of a PyTree that computes in float64 if one of its arrays is of that."""

    @functools.wraps(method)
    def run(self, *args: Any, **kwargs: Any):
        double = any(
            getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(self)
        )
        with precision(np.dtype(np.float64 if double else np.float32)):
            return method(self, *args, **kwargs)

    return run
