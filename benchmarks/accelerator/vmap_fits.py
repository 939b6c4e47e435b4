"""How fast are fits by `jax.vmap` of `jaxfit.solve`?

Decays of 100 points and three parameters that differ, each a lane of one program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.budget import Budget
from tools.compiled import compiled
from tools.decay import model, numpy_model
from tools.measure import least_seconds
from tools.report import report, table

import jaxfit


SOLVERS = {
    "qr": jaxfit.TRF(linear_solver="qr"),
    "gram": jaxfit.TRF(linear_solver="gram", trials=1),
}


def decays(lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """x (100,) and y (lanes, 100)."""
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 4.0, 100)
    a, b, c = rng.uniform([[1.0], [0.5], [0.0]], [[4.0], [3.0], [1.0]], (3, lanes))
    y = numpy_model(x, a[:, None], b[:, None], c[:, None])
    return x, y + 0.05 * rng.standard_normal(y.shape)


def main(quick: bool, budget: Budget) -> dict[str, Any]:
    programs: dict[Any, tuple[Any, tuple]] = {}
    for lanes in (100,) if quick else (1_000, 100_000):
        x, y = decays(lanes)
        for kind in ("float64", "float32"):
            where, start = jnp.asarray(x, kind), jnp.ones(3, kind)
            for name, solver in SOLVERS.items():
                if lanes > 1_000 and name == "qr":
                    continue  # a library factors the lanes one after the other

                def fit(y, where=where, start=start, solver=solver):
                    found = jaxfit.curve_problem(model, where, y, start)
                    solution = jaxfit.solve(found, solver)
                    return solution.params, solution.success

                data = (jnp.asarray(y, kind),)
                programs[lanes, kind, name] = jax.jit(jax.vmap(fit)), data
    rows = []
    if budget.allows("fits by vmap", 0 if quick else 15):
        for key, call in compiled(programs).items():
            lanes, kind, name = key
            data = programs[key][1]
            took = least_seconds(lambda call=call, data=data: call(*data))
            share = float(np.mean(call(*data)[1]))
            rows.append([f"{lanes:,}", kind, name, 1e3 * took, lanes / took, share])
    columns = ["lanes", "precision", "linear solver", "ms", "fits a second"]
    return report(
        __doc__,
        [],
        [table("Decays of 100 points", [*columns, "successes"], rows)],
        ["gram is with one trial; data and results stay on the device."],
    )
