"""How much memory does a fit of 1,000,000 points and 5 parameters take?

What XLA plans for jit(solve): arguments, temporaries and outputs, over the size of x
and y. Peer: optimistix LevenbergMarquardt, by the same count. And what the main loop
carries from step to step, read from the jaxpr: nothing as long as the data.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax.extend.core import ClosedJaxpr, Jaxpr
from tools.report import report, table, target

import jaxfit


POINTS = 1_000_000
START = jnp.ones(5)
SOLVERS = {
    "jaxfit, gram": jaxfit.TRF(linear_solver="gram"),
    "jaxfit, qr": jaxfit.TRF(linear_solver="qr"),
    "jaxfit, gram, never cut into blocks": jaxfit.TRF(
        linear_solver="gram", chunk_size=None
    ),
}


def model(x, params):
    """An exponential and a parabola."""
    a, b, c, d, e = params
    return a * jnp.exp(-b * x) + c + d * x + e * x**2


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(0.0, 4.0, POINTS)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + 0.2 * x - 0.1 * x**2
    return x, y + 0.05 * np.random.default_rng(0).standard_normal(POINTS)


def problem() -> jaxfit.Problem:
    return jaxfit.curve_problem(model, *data(), START)


def optimistix_fit(args):
    """The peer's fit; `args` are x and y."""

    def residual(params, args):
        x, y = args
        return model(x, params) - y

    solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)
    return optimistix.least_squares(residual, solver, START, args, throw=False).value


def planned(fn: Callable, *args: Any) -> list[float]:
    """MB of arguments, temporaries, outputs and all of them."""
    plan = jax.jit(fn).lower(*args).compile().memory_analysis()
    sizes = [
        plan.argument_size_in_bytes,
        plan.temp_size_in_bytes,
        plan.output_size_in_bytes,
    ]
    return [size / 1e6 for size in (*sizes, sum(sizes))]


def loops(jaxpr: Jaxpr) -> Iterator[Any]:
    """Every outermost while_loop of a jaxpr, wherever it is."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn
            continue
        for value in jax.tree.leaves(
            list(eqn.params.values()),
            is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr),
        ):
            if isinstance(value, ClosedJaxpr):
                yield from loops(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from loops(value)


def carried(fn: Callable, *args: Any) -> int:
    """The numbers in the largest array that a loop carries from step to step."""
    found = list(loops(jax.make_jaxpr(fn)(*args).jaxpr))
    if not found:
        raise RuntimeError("there is no while_loop to look at")
    return max(out.aval.size for eqn in found for out in eqn.outvars)


def main(quick: bool) -> dict[str, Any]:
    del quick  # nothing is timed
    mine, x_and_y = problem(), tuple(jnp.asarray(a) for a in data())
    own = sum(a.nbytes for a in x_and_y) / 1e6

    def with_solver(solver):
        return lambda problem: jaxfit.solve(problem, solver)

    fits = {name: (with_solver(solver), mine) for name, solver in SOLVERS.items()}
    fits["optimistix LM"] = (optimistix_fit, x_and_y)
    rows = []
    for name, (fn, args) in fits.items():
        sizes = planned(fn, args)
        rows.append([name, *sizes, sizes[-1] / own, sizes[1] / own, carried(fn, args)])
    solution = jax.jit(jaxfit.solve)(mine, SOLVERS["jaxfit, gram"])
    return report(
        __doc__,
        [
            target(
                "all memory with the Gram form over the data's own: at most 3",
                rows[0][5],
                at_most=3.0,
            ),
            target(
                "numbers in the largest array that the loop carries: fewer than points",
                rows[0][7],
                at_most=POINTS - 1,
            ),
            target("the fit itself succeeds", int(solution.status), at_least=1),
        ],
        [
            table(
                f"MB planned by XLA; x and y are {own:.0f} MB",
                [
                    "fit",
                    "arguments",
                    "temporaries",
                    "outputs",
                    "all",
                    "all over data",
                    "temporaries over data",
                    "largest carried array",
                ],
                rows,
            ),
        ],
        ["jaxfit's arguments are the problem: x, y and the start."],
    )
