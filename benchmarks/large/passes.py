"""What does one pass over 1,000,000 rows cost, and what does a fit make of it?

Warm, in float64, data in JAX arrays, of three models: a decay of 3 parameters, one on
a parabola (5), and an oscillation that decays (5), whose sine and cosine XLA evaluates
anew in every kernel that uses them. A pass is one linearisation, cost, J'r and J'J, or
the cost alone, ten of them in a loop; peers are the bare sum of the model compiled by
JAX and, for whole fits with their covariance, scipy.optimize.curve_fit(method="lm")
with a NumPy model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tools.measure import interleave
from tools.report import report, table, target

import jaxfit
from jaxfit._problem.objective import Objective


POINTS = 1_000_000
ODD = {"999,999 rows": 999_999, "999,983 rows, a prime": 999_983}
TURNS = 10
SOLVER = jaxfit.TRF()


@dataclass(frozen=True)
class Model:
    """`fn(xp, x, params)` in xp, which is NumPy or jax.numpy."""

    name: str
    fn: Callable
    true: tuple[float, ...]
    start: tuple[float, ...]
    at_most: float  # of the time of SciPy's lm
    predicted: float

    def jax(self, x, params):
        return self.fn(jnp, x, params)

    def numpy(self, x, *params):
        return self.fn(np, x, params)

    def data(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """x in [0, 4] and y with normal noise of 0.05."""
        x = np.linspace(0.0, 4.0, m)
        noise = 0.05 * np.random.default_rng(0).standard_normal(m)
        return x, self.fn(np, x, self.true) + noise

    def problem(self, m: int) -> jaxfit.Problem:
        x, y = map(jnp.asarray, self.data(m))
        return jaxfit.curve_problem(self.jax, x, y, jnp.array(self.start))


def decay(xp, x, p):
    return p[0] * xp.exp(-p[1] * x) + p[2]


def on_parabola(xp, x, p):
    return p[0] * xp.exp(-p[1] * x) + p[2] + p[3] * x + p[4] * x**2


def oscillation(xp, x, p):
    return p[0] * xp.sin(p[1] * x + p[2]) * xp.exp(-p[3] * x) + p[4]


MODELS = (
    Model("decay", decay, (2.5, 1.3, 0.5), (1.0, 1.0, 1.0), 0.10, 0.16),
    Model(
        "decay on a parabola",
        on_parabola,
        (2.5, 1.3, 0.5, 0.2, -0.1),
        (2.0, 1.0, 0.4, 0.1, 0.0),
        0.10,
        0.08,
    ),
    Model(
        "oscillation",
        oscillation,
        (2.0, 3.0, 0.4, 0.5, 0.3),
        (1.5, 2.9, 0.3, 0.4, 0.2),
        0.15,
        0.12,
    ),
)


def passes(model: Model, m: int) -> dict[str, Callable[[], Any]]:
    """Ten linearisations, costs and bare sums, each in one program."""
    problem = model.problem(m)

    def repeated(fn):
        """The last of ten values, each at a point of its own."""

        @jax.jit
        def run(problem):
            objective = Objective.of(problem, problem.params, SOLVER)

            def turn(_, carry):
                x, total = carry
                return x + 1e-9, total + fn(objective, problem, x)

            zero = jnp.zeros((), problem.params.dtype)
            return jax.lax.fori_loop(0, TURNS, turn, (problem.params, zero))

        return lambda: jax.block_until_ready(run(problem))

    def linearise(objective, _, x):
        lin = objective.linearise(x)
        return lin.cost + jnp.sum(lin.grad) + jnp.sum(lin.gram)

    return {
        "linearise": repeated(linearise),
        "cost": repeated(lambda objective, _, x: objective.cost(x)),
        "sum of the model": repeated(
            lambda _, problem, x: jnp.sum(model.jax(problem.args.x, x))
        ),
    }


@jax.jit
def solve(problem: jaxfit.Problem) -> tuple[Any, Any]:
    """Parameters and covariance, compiled together."""
    solution = jaxfit.solve(problem, SOLVER)
    return solution.params, solution.covariance()


def fits(model: Model) -> dict[str, Callable[[], Any]]:
    """One call of each; each returns the parameters as its first item."""
    x, y = model.data(POINTS)
    problem, start = model.problem(POINTS), np.array(model.start)

    def ours(x, *params):
        return model.jax(x, params)

    return {
        "SciPy curve_fit, lm": lambda: scipy.optimize.curve_fit(
            model.numpy, x, y, start, method="lm"
        ),
        "jaxfit.solve": lambda: jax.device_get(solve(problem)),
        "jaxfit.curve_fit": lambda: jaxfit.curve_fit(ours, x, y, start),
        "fit_large_dataset, chunked": lambda: jaxfit.fit_large_dataset(
            ours, x, y, start, strategy="chunked"
        ),
    }


def main(quick: bool) -> dict[str, Any]:
    rounds = 1 if quick else 5
    targets, ns, ms = [], [], []
    for model in MODELS:
        calls = passes(model, POINTS)
        for name, m in ODD.items():
            calls[name] = passes(model, m)["linearise"]
        times = interleave(calls, rounds)
        per_row = {name: 1e9 * times.median(name) / TURNS / POINTS for name in calls}
        bare = [times.ratio(name, "sum of the model") for name in calls]
        for name, ratio in zip(calls, bare, strict=True):
            ns.append([model.name, name, per_row[name], ratio])
        for name in ODD:
            asked = f"{model.name}, {name}: a pass over that of 1,000,000, at most 1.2"
            ratio = times.ratio(name, "linearise")
            targets.append(target(asked, ratio, at_most=1.2))

        calls = fits(model)
        times = interleave(calls, rounds, 0.0)
        best = calls["jaxfit.solve"]()[0]
        for name, call in calls.items():
            params = np.asarray(call()[0])
            error = float(np.max(np.abs(params / best - 1)))
            ratio = times.ratio(name, "SciPy curve_fit, lm")
            ms.append([model.name, name, 1e3 * times.median(name), ratio, error])
        ratio = times.ratio("jaxfit.solve", "SciPy curve_fit, lm")
        asked = (
            f"{model.name}: a fit over SciPy's, at most {model.at_most} "
            f"(predicted {model.predicted})"
        )
        targets.append(target(asked, ratio, at_most=model.at_most))
        ratio = times.ratio("jaxfit.curve_fit", "fit_large_dataset, chunked")
        asked = f"{model.name}: curve_fit over fit_large_dataset, at most 1.1"
        targets.append(target(asked, ratio, at_most=1.1))
    notes = [
        "Predictions were written down before the script was run for the first time, "
        "from the time of a pass and the number of passes of a fit.",
        "Ratios are medians over rounds in which all were timed in turn. XLA runs a "
        "pass on one core: the loops, and the operations in them, one after the other.",
        "The relative error is that of the worst parameter against jaxfit.solve.",
    ]
    columns = ["model", "pass", "ns a row", "over the sum of the model"]
    fit_columns = ["model", "library", "ms", "over SciPy", "relative error"]
    return report(
        __doc__,
        targets,
        [
            table("One pass over 1,000,000 rows", columns, ns),
            table("One fit of 1,000,000 points, warm", fit_columns, ms),
        ],
        notes,
    )
