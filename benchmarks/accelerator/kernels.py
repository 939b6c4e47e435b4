"""How many kernels does a step launch?

Read from the compiled HLO of the loop that steps, the same way on every device; and
where a profiler sees the streams of a GPU, counted there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools import peak
from tools.budget import Budget
from tools.compiled import compiled
from tools.launches import launches, measured_launches
from tools.pixels import data, problem
from tools.report import report, table

import jaxfit


GRAM = jaxfit.TRF(linear_solver="gram", trials=1)
LANES = 1_000


def one(bounded: bool, solver: jaxfit.TRF):
    """One fit of a peak: its steps, and all that a user would ask for."""

    def fit(x, y):
        solution = jaxfit.solve(peak.problem(x, y, bounded), solver)
        return solution.num_steps, solution.params, solution.covariance()

    return jax.jit(fit)


@jax.jit
def vmapped(images, starts):
    """Spots of light by `jax.vmap` of `jaxfit.solve`; the steps of the slowest."""

    def fit(image, start):
        solution = jaxfit.solve(problem(image, start), GRAM)
        return solution.num_steps, solution.params

    steps, params = jax.vmap(fit)(images, starts)
    return jnp.max(steps), params


@jax.jit
def batched(images, starts):
    """The same by `jaxfit.solve_batch`, every lane with one problem."""
    problems = jax.vmap(problem)(images, starts)
    found = jaxfit.solve_batch(problems, lanes=len(images))
    return jnp.max(found.num_steps), found.params


def main(quick: bool, budget: Budget) -> dict[str, Any]:
    kinds = ("float64",) if quick else ("float64", "float32")
    cases: dict[Any, tuple[Any, tuple]] = {}
    for kind in kinds:
        points = jax.jit(peak.data, static_argnums=(0, 1))(100, kind)
        spots = tuple(jnp.asarray(a, kind) for a in data(LANES))
        solver = jaxfit.TRF()
        cases["one fit of 100 points", kind] = one(False, solver), points
        cases["the same, bounded", kind] = one(True, solver), points
        cases["the same, gram, 1 trial", kind] = one(True, GRAM), points
        cases[f"{LANES:,} lanes by vmap", kind] = vmapped, spots
        cases[f"{LANES:,} lanes by solve_batch", kind] = batched, spots
    rows, notes = [], []
    if budget.allows("kernels of a step", 0 if quick else 25):
        for (name, kind), program in compiled(cases).items():
            found = launches(program.as_text())
            step = found.largest_loop
            args = cases[name, kind][1]
            steps = int(np.asarray(program(*args)[0]))
            inner = step.all - step.once
            row = [name, kind, step.once, inner, found.all - step.all, steps]
            seen = None
            try:
                seen = measured_launches(functools.partial(program, *args))
            except Exception as err:  # a profiler that is not installed: told, below
                notes.append(f"No profile of {name}, {kind}: {err}")
            rows.append([*row, None if seen is None else seen / max(steps, 1)])
    columns = ["program", "precision", "in the loop's body", "in one turn of each loop"]
    columns[-1] += " within"
    columns += ["outside", "steps", "measured, all over the steps"]
    return report(
        __doc__,
        [],
        [table("Kernels launched", columns, rows)],
        [
            *notes,
            "An instruction of the compiled HLO counts as a kernel if it computes or "
            "copies; the condition counts with the body, and of branches the largest.",
            "Measured: what a profiler saw on the streams of a GPU in one call, copies "
            "included, over the number of steps; nothing where there is none.",
        ],
    )
