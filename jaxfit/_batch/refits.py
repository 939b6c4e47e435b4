"""Fits, in slices, of many problems that a function makes by number.

What a slice holds is made, fitted and dropped, so that neither its size nor the cache
depends on how many fits there are. On a CPU a few threads work on slices; inside a
trace, and on other devices, they follow one another.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._basics.checks import is_concrete
from .._basics.machine import cores
from .._basics.trees import as_rows, joined, take
from .._problem.placement import all_on_auto_axes
from .._programs.by_work import ByWork
from .._programs.program import program
from .._programs.slices import ON_A_THREAD, Slices, run
from .._solve.solver import TRF
from .queue import SHARE_OF_SHORT
from .solve_batch import solve_stack
from .stack import Stack


# The data of the slices that are worked on at a time, in numbers.
_NUMBERS = 2**24
# A slice fills its lanes, and a thread's is not so long that others wait for it.
_ENOUGH, _LEAST, _MOST = 2**6, 2**10, 2**13


def refits(
    make: Any, n: int, numbers: int, solver: TRF, lanes: int | None, mesh: Any
) -> tuple[Float[Array, "n k"], Int[Array, " n"], Float[Array, " n"]]:
    """Parameters as rows, status and cost of the problems make(0) to make(n - 1).

    `make` is a function that is a PyTree; `numbers` is the size of a problem's data.
    """
    threads = mesh is None and jax.default_backend() == "cpu" and _is_alone(make)
    workers = cores() if threads else 1
    parts = 1 if mesh is None else mesh.size
    most = max(_ENOUGH * parts, _NUMBERS // (workers * numbers))
    if threads:
        most = min(most, _MOST)
    turns = -(-n // (workers * most))
    size = min(n, max(-(-n // (workers * turns)), min(_LEAST, most)))
    how = size, lanes, mesh
    if not threads:
        return _in_turn(make, solver, n, how)
    return _on_threads(make, solver, n, how, workers, _on_a_thread.of(n * numbers))


def _is_alone(make) -> bool:
    """Whether all is at hand, on one device.

    Programs of several devices wait for one another: threads must not mix them.
    """
    return is_concrete(make) and all(
        len(leaf.devices()) == 1 for leaf in jax.tree.leaves(make)
    )


def _fits(make, solver, first, n, how):
    """A slice from number `first` on, of n in all."""
    size, lanes, mesh = how
    which = first + jnp.arange(size, dtype=jnp.int32)
    stack = Stack.by(make, which, [True])
    count = jnp.minimum(n - first, size).astype(jnp.int32)
    found = solve_stack(stack, solver, count, lanes, mesh, None, SHARE_OF_SHORT)
    return as_rows(found.params), found.status, found.cost


@program(static=(2, 3))
def _in_turn(make, solver, n, how):
    size = how[0]

    @all_on_auto_axes
    def slices(make, solver):
        firsts = jnp.arange(0, n, size, dtype=jnp.int32)
        return jax.lax.map(lambda first: _fits(make, solver, first, n, how), firsts)

    found = slices(make, solver)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], found)


_on_a_thread = ByWork(_fits, static=(4,), compiler_options=ON_A_THREAD)


def _on_threads(make, solver, n, how, workers, fits):
    size = how[0]
    parts: dict[int, Any] = {}
    double = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(make))
    dtype = np.dtype(np.float64 if double else np.float32)

    def arguments(begin: int, end: int) -> tuple:
        return make, solver, begin, n, how

    def put(begin: int, end: int, found: Any) -> None:
        parts[begin] = found

    if not run(fits, Slices(n, size, workers), dtype, arguments, put).whole:
        raise KeyboardInterrupt
    found = joined([parts[begin] for begin in range(0, n, size)])
    return jax.tree.map(jnp.asarray, take(found, slice(n)))
