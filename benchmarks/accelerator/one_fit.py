"""How long does one fit of ever more points take, and at what share of the bandwidth?

A peak on a slope, five parameters, made and fitted on the device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools import peak
from tools.budget import Budget
from tools.compiled import compiled
from tools.measure import least_seconds
from tools.report import report, table, target

import jaxfit


KINDS = "float64", "float32"
# Of one program and its data together, on 16 cores, as measured on an H200; and
# nanoseconds of a point in a whole fit there, of which half is the making of the data.
COMPILE_SECONDS, POINT_SECONDS = 1.5, 1e-9


def fit(x, y):
    """Parameters, counts and outcome."""
    solution = jaxfit.solve(peak.problem(x, y))
    return solution.params, solution.nfev, solution.njev, solution.success


def bandwidth(kind: str, numbers: int) -> float:
    """Bytes a second that a sum of so many numbers reads."""
    values = jnp.ones(numbers, kind)
    add = jax.jit(jnp.sum)
    return values.nbytes / least_seconds(lambda: add(values))


def measured(kind: str, m: int, make: Any, call: Any, fastest: float) -> list[Any]:
    """One row of the table."""
    x, y = make()
    rounds = 10 if m <= 10**6 else 4
    took = least_seconds(lambda: call(x, y), rounds)
    params, nfev, njev, success = call(x, y)
    read = int(njev) * (x.nbytes + y.nbytes) / took
    far = float(np.max(np.abs(np.asarray(params, float) - peak.TRUTH)))
    row = [kind, f"{m:,}", 1e3 * took, int(nfev), int(njev), read / 1e9]
    return [*row, read / fastest, far, "yes" if success else "no"]


def main(quick: bool, budget: Budget) -> dict[str, Any]:
    powers = range(2, 5) if quick else range(2, 9)
    rows, times = [], {}
    sizes = [10**power for power in powers]
    programs: dict[Any, tuple[Any, tuple]] = {}
    for m in sizes:
        for kind in KINDS:
            like = jax.ShapeDtypeStruct((m,), kind)
            make = jax.jit(peak.data, static_argnums=(0, 1))
            programs[m, kind, "data"] = make, (m, kind)
            programs[m, kind, "fit"] = jax.jit(fit), (like, like)
    expected = 0 if quick else COMPILE_SECONDS * len(programs)
    if budget.allows("one fit, all sizes", expected):
        ready = compiled(programs)
        fastest = {k: bandwidth(k, 10**6 if quick else 10**8) for k in KINDS}
        for m in sizes:
            for kind in KINDS:
                # A quick run is on a CPU, where a point costs a hundred times as much.
                if budget.allows(f"one fit of {m:,} points, {kind}", POINT_SECONDS * m):
                    both = ready[m, kind, "data"], ready[m, kind, "fit"]
                    rows.append(measured(kind, m, *both, fastest[kind]))
                    times[m, kind] = rows[-1][2]
    targets = [
        target(f"10 million points, {kind}: at most 20 ms", took, at_most=20)
        for (m, kind), took in times.items()
        if m == 10**7
    ]
    columns = ["precision", "points", "ms", "nfev", "njev", "GB/s"]
    columns += ["share of the bandwidth of a sum", "off the truth by", "success"]
    return report(
        __doc__,
        targets,
        [table("One fit of five parameters", columns, rows)],
        [
            "GB/s: the bytes of x and y once for each linearisation, over the time; "
            "what is read twice, or written and read again, is not counted.",
            "Programs are compiled before, several at a time.",
        ],
    )
