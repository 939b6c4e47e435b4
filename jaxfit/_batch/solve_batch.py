"""Many fits as one traced function: `solve_batch`.

What `jax.vmap(jaxfit.solve)` computes, at the speed of the hardware: a queue of
problems worked off by lanes (`queue`) that step by arithmetic (`lockstep`) or, where
that does not serve, by the kernel's step (`vmapped`); over several devices by
`shard_map`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from .._basics.checks import positive_int
from .._basics.precision import in_full_products, in_own_settings
from .._basics.trees import padded, take, unravel_as
from .._basics.varying import axes_of, varying
from .._problem.problem import Problem
from .._programs.fork import check_process
from .._programs.program import program
from .._solve.solver import TRF
from .derivative import solutions, squares_of_each
from .lane_data import LaneData
from .lockstep import Lockstep
from .queue import SHARE, Known, Results, run
from .solution import BatchSolution
from .stack import Stack
from .vmapped import OneByOne


# Up to so many parameters lanes work by arithmetic. Elimination alone is faster than a
# library's up to about 10 in float64 and 14 in float32, as measured by
# benchmarks/many/batch_algebra.py.
ARITHMETIC = 12
# What a step of the lanes touches should stay in a core's cache.
_CACHE_BYTES = 2**20
_MOST_LANES = {"cpu": 2**10}
# Other devices want many lanes; a library is never handed so many matrices at once that
# it might fail.
_ELSEWHERE, _LIBRARY = 2**17, 2**12


@in_own_settings
def solve_batch(
    problems: Problem | Sequence[Problem],
    solver: TRF | None = None,
    *,
    in_axes: Any = 0,
    covariance: bool = True,
    lanes: int | None = None,
    devices: int | Sequence[Any] | None = None,
    mesh: Mesh | None = None,
) -> BatchSolution:
    """Solve many problems of equal structure.

    A pure function: `jax.jit(solve_batch)(problems)` works, inside `pmap` and
    `shard_map` too. A fixed number of lanes steps together, and a
    lane whose fit has ended writes its result and takes the next problem. Fits do not
    see one another: a fit's result is the same whatever the others hold.

    **Arguments:**

    - `problems`: a [`jaxfit.Problem`][] whose leaves have the problems along their
        first axis, as `jax.vmap` of a function that makes one returns it; or a list of
        problems of equal structure, which are stacked.
    - `solver`: a [`jaxfit.TRF`][]; the default if None. With `linear_solver` "auto" or
        "gram" and up to 12 parameters a lane works by arithmetic on J'J alone; else
        by the kernel's step under `jax.vmap`. `history` is refused.
    - `in_axes`: as of `jax.vmap`: 0, or a prefix of the PyTree `problems` with None for
        what all problems share, such as x.
    - `covariance`: whether to keep (J'J)^-1 of every fit.
    - `lanes`: the number of lanes; chosen from the sizes and the device if None. With
        another number sums may be rounded in another way.
    - `devices`, `mesh`: over which devices to split the batch: a number of local
        devices, or a list of them; or all devices of a mesh. None leaves the
        batch where it is. The result does not depend on it.

    **Returns:** a [`jaxfit.BatchSolution`][], whose parameters, costs and errors can be
    differentiated as those of [`jaxfit.solve`][]. A fit with fewer data than free
    parameters ends with status TOO_FEW_DATA where it started.

    **Raises:** `TypeError` or `ValueError` naming the leaf that does not fit the
    others, or the argument; `ValueError` for a solver that keeps its history or has
    a mesh.
    """
    check_process()
    solver = TRF() if solver is None else solver
    if not isinstance(solver, TRF):
        raise TypeError(f"`solver` must be a jaxfit.TRF or None, got {solver!r}.")
    if solver.history:
        raise ValueError("`solver` has history=True, which is for single fits.")
    if solver.mesh is not None:
        raise ValueError(
            "`solver` has a mesh, which spreads the rows of a single fit: give it to "
            "solve_batch, as `mesh`, to spread the fits."
        )
    if solver.linear_solver == "matrix_free" and covariance:
        raise ValueError("a matrix-free solver forms no J'J: ask for covariance=False.")
    if not isinstance(problems, Problem | list | tuple):
        raise TypeError(
            "`problems` must be a jaxfit.Problem with stacked leaves or a list of "
            f"problems, got {type(problems).__name__}."
        )
    stack = Stack.of(
        problems.current()
        if isinstance(problems, Problem)
        else [p.current() if isinstance(p, Problem) else p for p in problems],
        in_axes,
    )
    if lanes is not None:
        lanes = positive_int("lanes", lanes)
    count = jnp.array(stack.size, jnp.int32)
    chosen = mesh_of(devices, mesh)
    return _solve(stack, solver, count, lanes, chosen, "held" if covariance else None)


def mesh_of(devices: int | Sequence[Any] | None, mesh: Mesh | None) -> Mesh | None:
    """The mesh of what was asked for, or None."""
    if devices is None:
        return mesh
    if mesh is not None:
        raise ValueError("give `devices` or `mesh`, not both.")
    if isinstance(devices, int | np.integer):
        local, count = jax.local_devices(), positive_int("devices", devices)
        if count > len(local):
            raise ValueError(
                f"`devices` is {count} but there are {len(local)}: "
                'jax.config.update("jax_num_cpu_devices", ...) makes more of a CPU.'
            )
        devices = local[:count]
    known = isinstance(devices, Sequence | np.ndarray) and not isinstance(devices, str)
    if not known or not all(isinstance(d, jax.Device) for d in devices):
        raise TypeError(
            "`devices` must be a number of devices or a list of them, such as "
            f"jax.local_devices(), got {devices!r}."
        )
    if len(devices) == 0:
        raise ValueError("`devices` is empty: give one or more.")
    return Mesh(np.asarray(devices), ("fits",))


def solve_stack(
    stack: Stack,
    solver: TRF,
    count: Int[Array, ""],
    lanes: int | None,
    mesh: Mesh | None,
    covariance: Known | None,
    share: int = SHARE,
) -> BatchSolution:
    """The fits of the first `count` problems of a stack; the others stay RUNNING.

    `covariance` tells which parameters (J'J)^-1 takes for known, if it is asked for.
    One lane in `share` may take its next problem at a step.
    """
    stack, solver, count = varying((stack, solver, count), axes_of(stack))
    n = stack.num_params
    arithmetic = n <= ARITHMETIC and solver.linear_solver in ("auto", "gram")
    nominal = _lanes(stack, n, arithmetic) if lanes is None else lanes

    def fits(stack, solver, count):
        # A part of the batch may need fewer lanes; what they do is the same.
        lanes = min(nominal, _vectors(stack.size))
        data = LaneData.of(stack, solver, lanes, nominal)
        engine = (Lockstep if arithmetic else OneByOne)(data, solver)
        return run(stack, engine, lanes, count, covariance, share)

    if mesh is None or mesh.size == 1:
        results, efficiency = fits(stack, solver, count)
    else:
        results, efficiency = _split(fits, stack, solver, count, mesh)
    found = _solution(stack, results, efficiency, covariance is not None)
    if covariance is None:
        return found
    return dataclasses.replace(
        found, squares=squares_of_each(stack, found.params, solver)
    )


@eqx.filter_custom_jvp
def _differentiable(stack, solver, count, lanes, mesh, covariance):
    return solve_stack(stack, solver, count, lanes, mesh, covariance)


@_differentiable.def_jvp
@in_own_settings
@in_full_products
def _batch_jvp(primals, tangents):
    stack, solver, *_ = primals
    found = _differentiable(*primals)

    def moved(stack):
        return solutions(stack, found, solver)

    _, moves = eqx.filter_jvp(moved, (stack,), (tangents[0],))
    nothing = jax.tree.map(lambda _: None, found)
    return found, eqx.tree_at(
        lambda s: (s.params, s.cost, s.half, s.squares),
        nothing,
        moves,
        is_leaf=lambda leaf: leaf is None,
    )


@program(static=(3, 4, 5))
def _solve(stack, solver, count, lanes, mesh, covariance):
    return _differentiable(stack, solver, count, lanes, mesh, covariance)


def _split(fits, stack, solver, count, mesh):
    """The batch in equal parts, one for each device, padded by copies of the last."""
    share = -(-stack.size // mesh.size)
    extra = share * mesh.size - stack.size
    every = PartitionSpec(mesh.axis_names)

    leaves = [
        padded(a, len(a) + extra) if batched and extra else a
        for a, batched in zip(stack.leaves, stack.batched, strict=True)
    ]
    specs = [every if batched else PartitionSpec() for batched in stack.batched]
    structure = jax.tree.structure(stack.problems)
    first = jnp.arange(mesh.size, dtype=jnp.int32) * share

    def part(leaves, solver, count, first):
        problems = jax.tree.unflatten(structure, leaves)
        own = Stack(problems, stack.batched, share)
        here = jnp.clip(count - first[0], 0, share)
        results, efficiency = fits(own, solver, here)
        return results, efficiency[None]

    results, efficiency = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(specs, PartitionSpec(), PartitionSpec(), every),
        out_specs=(every, every),
        check_vma=False,
    )(leaves, solver, count, first)
    return take(results, slice(stack.size)), jnp.mean(efficiency)


def _lanes(stack: Stack, n: int, arithmetic: bool) -> int:
    """A power of two, or as many as there are problems."""
    numbers = 2 * n * n + 10 * n + 40
    for leaf, batched in zip(jax.tree.leaves(stack.one), stack.batched, strict=True):
        numbers += leaf.size * batched
    size = jnp.result_type(*jax.tree.leaves(stack.one.params)).itemsize
    elsewhere = _ELSEWHERE if arithmetic else _LIBRARY
    most = _MOST_LANES.get(jax.default_backend(), elsewhere)
    fitting = most
    if jax.default_backend() == "cpu":
        # A lane should see 8 problems or more, or the last fits keep too many waiting.
        fitting = min(_CACHE_BYTES // (size * numbers), stack.size // 8)
        fitting = 2 ** max(fitting.bit_length() - 1, 6)
    return min(fitting, most, _vectors(stack.size))


def _vectors(size: int) -> int:
    """So many lanes in whole vectors of the widest registers."""
    return -(-size // 16) * 16


def _solution(stack: Stack, results: Results, efficiency, covariance) -> BatchSolution:
    one, n = stack.one, stack.num_params
    reals, counts = results
    problems = stack.problems
    fixed = None
    if problems.lower is not None:
        fixed = problems.lower == problems.upper

    params = jax.tree.map(
        lambda a, like: a.astype(like.dtype),
        unravel_as(one.params, reals[:, :n]),
        one.params,
    )
    return BatchSolution(
        params=params,
        cost=reals[:, n],
        optimality=reals[:, n + 1],
        counts=counts[:, :4],
        active_mask=unravel_as(one.params, counts[:, 5 : 5 + n]),
        num_rows=counts[:, 4],
        num_params=n,
        fixed=fixed,
        half=reals[:, n + 2 :] if covariance else None,
        lost=counts[:, 5 + n : 5 + 2 * n] != 0 if covariance else None,
        differenced=counts[:, 5 + 2 * n] > 0,
        squares=None,
        lane_efficiency=efficiency,
    )
