"""Can it solve 20,000 equations in 20,000 unknowns without ever forming J?

The Broyden tridiagonal problem (More, Garbow and Hillstrom 30) from -1, by
TRF(linear_solver="matrix_free"). Peer: scipy.optimize.least_squares (trf, lsmr) handed
the exact J as a sparse matrix. A dense J would take 3.2 GB.
"""

import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse
from problems import broyden_tridiagonal
from tools.measure import fresh
from tools.report import report, table, target

import jaxfit


SIZE = 20_000
TOLERANCES = {"ftol": 1e-8, "xtol": 1e-8}


def peak_mb() -> float:
    """The most memory that this process ever held."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def jaxfit_run(size: int) -> dict[str, Any]:
    """Time, evaluations, cost and memory of jaxfit."""
    problem = jaxfit.Problem(lambda x, _: broyden_tridiagonal(x), -jnp.ones(size))
    solver = jaxfit.TRF(linear_solver="matrix_free", gtol=0.0, atol=1e-8, **TOLERANCES)
    before = peak_mb()
    compiled = jax.jit(jaxfit.solve).lower(problem, solver).compile()
    plan = compiled.memory_analysis()
    compiled(problem, solver).params.block_until_ready()
    start = time.perf_counter()
    solution = compiled(problem, solver)
    solution.params.block_until_ready()
    return {
        "seconds": time.perf_counter() - start,
        "status": int(solution.status),
        "nfev": int(solution.nfev),
        "njev": int(solution.njev),
        "cost": float(solution.cost),
        "planned_mb": (plan.temp_size_in_bytes + plan.output_size_in_bytes) / 1e6,
        "peak_mb": peak_mb() - before,
    }


def scipy_run(size: int) -> dict[str, Any]:
    """The same of SciPy."""

    def residual(x):
        left, right = np.pad(x, (1, 0))[:-1], np.pad(x, (0, 1))[1:]
        return (3.0 - 2.0 * x) * x - left - 2.0 * right + 1.0

    def jacobian(x):
        ones = np.ones(size - 1)
        diagonals = [-ones, 3.0 - 4.0 * x, -2.0 * ones]
        return scipy.sparse.diags(diagonals, [-1, 0, 1], format="csr")

    before = peak_mb()
    start = time.perf_counter()
    solution = scipy.optimize.least_squares(
        residual,
        -np.ones(size),
        jacobian,
        method="trf",
        x_scale="jac",
        tr_solver="lsmr",
        gtol=1e-8,
        **TOLERANCES,
    )
    return {
        "seconds": time.perf_counter() - start,
        "status": int(solution.status),
        "nfev": int(solution.nfev),
        "njev": int(solution.njev),
        "cost": float(solution.cost),
        "planned_mb": None,
        "peak_mb": peak_mb() - before,
    }


def main(quick: bool) -> dict[str, Any]:
    size = 2_000 if quick else SIZE
    runs = {
        "jaxfit, matrix-free": fresh("large.matrix_free", "jaxfit_run", size),
        "SciPy trf, lsmr, sparse J": fresh("large.matrix_free", "scipy_run", size),
    }
    ours, theirs = runs.values()
    dense = 8 * size**2 / 1e6
    keys = ["seconds", "status", "nfev", "njev", "cost", "planned_mb", "peak_mb"]
    return report(
        __doc__,
        [
            target("the fit succeeds", ours["status"], at_least=1),
            target("its cost: at most 1e-12", ours["cost"], at_most=1e-12),
            target(
                "memory planned by XLA over that of a dense J: at most 0.1",
                ours["planned_mb"] / dense,
                at_most=0.1,
            ),
        ],
        [
            table(
                f"Broyden tridiagonal with {size:,} unknowns; a dense J takes "
                f"{dense:,.0f} MB",
                [
                    "solver",
                    "s",
                    "status",
                    "residuals",
                    "Jacobians",
                    "cost",
                    "planned MB",
                    "MB above the start",
                ],
                [[name, *(run[key] for key in keys)] for name, run in runs.items()],
            ),
        ],
        [
            f"jaxfit takes {ours['seconds'] / theirs['seconds']:.2f} times as long as "
            "SciPy, each in a process of its own.",
            "'MB above the start' is the growth of the process's peak, compilation "
            "included for jaxfit.",
        ],
    )
