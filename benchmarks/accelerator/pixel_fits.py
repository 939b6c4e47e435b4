"""How many fits a second are Gpufit's case: spots of light on 5x5 pixels?

Five parameters, by `curve_fit_batch` with arrays of NumPy in and out, and by
`solve_batch` with data that lie on the device and stay there. Several numbers of lanes
and lengths of slices are tried.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.budget import Budget
from tools.compiled import compiled, together, workers
from tools.measure import least_seconds
from tools.pixels import batch, data, problem
from tools.report import report, table, target

import jaxfit


KINDS = "float32", "float64"
# As measured on an H200: one program alone, its trace, and fits a second.
COMPILE_SECONDS, TRACE_SECONDS, RATE = 10.0, 1.5, 2.5e6
ALL = "bounds and covariance"
DOOR = "curve_fit_batch, NumPy to NumPy"


@dataclasses.dataclass(frozen=True)
class Case:
    """One setting of one call."""

    kind: str
    what: str  # ALL or "neither"
    count: int
    lanes: int | None = None  # None: jaxfit's choice
    slice_size: int | None = None

    def call(self, images: np.ndarray, starts: np.ndarray) -> Any:
        """The fits of the first images."""
        more: dict[str, Any] = {"lanes": self.lanes, "slice_size": self.slice_size}
        return batch(
            images[: self.count],
            starts[: self.count],
            bounded=self.what == ALL,
            covariance=self.what == ALL,
            dtype=self.kind,
            **more,
        )

    def row(self, way: str, seconds: float, successes: Any) -> list[Any]:
        """Of the table."""
        lanes, length = (
            "chosen" if a is None else f"{a:,}" for a in (self.lanes, self.slice_size)
        )
        row = [way, self.kind, self.what, f"{self.count:,}", lanes, length]
        return [*row, self.count / seconds, float(np.mean(successes))]


def on_device(case: Case) -> Any:
    """The same by `solve_batch`, to be compiled; parameters and successes."""
    bounded = case.what == ALL

    def fits(images, starts):
        problems = jax.vmap(lambda y, p: problem(y, p, bounded))(images, starts)
        root = float(np.sqrt(np.finfo(case.kind).eps))
        found = jaxfit.solve_batch(
            problems,
            jaxfit.TRF(root, root, root),  # the tolerances of curve_fit_batch
            lanes=case.lanes,
            covariance=bounded,
        )
        return found.params, found.success, found.covariance() if bounded else None

    return jax.jit(fits)


def compiling(programs: int) -> float:
    """Seconds that so many programs take together."""
    turns = -(-programs // workers())
    return COMPILE_SECONDS * turns + TRACE_SECONDS * programs


def through_the_door(
    cases: list[Case], given: dict[str, Any], budget: Budget, what: str, free: bool
) -> list[list[Any]]:
    """Rows of `curve_fit_batch`; `free`: whatever the expected time."""
    fitting = 5 * sum(case.count for case in cases) / RATE
    if not budget.allows(what, 0 if free else compiling(len(cases)) + fitting):
        return []
    calls = {case: lambda case=case: case.call(*given[case.kind]) for case in cases}
    together(calls)
    rows = []
    for case, call in calls.items():
        took = least_seconds(call, 3)
        successes = call().success
        rows.append(case.row(DOOR, took, successes))
    return rows


def on_the_device(
    cases: list[Case], given: dict[str, Any], budget: Budget, free: bool
) -> list[list[Any]]:
    """Rows of `solve_batch`."""
    fitting = 5 * sum(case.count for case in cases) / RATE
    expected = 0 if free else compiling(len(cases)) + fitting
    if not budget.allows("fits whose data lie on the device", expected):
        return []
    arrays = {
        case: [jnp.asarray(a[: case.count]) for a in given[case.kind]] for case in cases
    }
    calls = compiled({case: (on_device(case), (*arrays[case],)) for case in cases})
    rows = []
    for case, call in calls.items():
        took = least_seconds(lambda call=call, case=case: call(*arrays[case]), 3)
        successes = call(*arrays[case])[1]
        rows.append(case.row("solve_batch, on the device", took, successes))
    return rows


def millions(
    cases: list[Case], given: dict[str, Any], budget: Budget
) -> list[list[Any]]:
    """Rows of the largest batch, timed once: its program was compiled for smaller."""
    rows, again = [], 10
    longer = {
        kind: [np.tile(a, (again, 1)) for a in arrays] for kind, arrays in given.items()
    }
    for case in cases:
        what = f"{case.count:,} fits, {case.kind}, {case.what}"
        if budget.allows(what, 1.5 * case.count / RATE):
            begin = time.perf_counter()
            found = case.call(*longer[case.kind])
            took = time.perf_counter() - begin - found.compile_time
            rows.append(case.row(DOOR, took, found.success))
    return rows


def main(quick: bool, budget: Budget) -> dict[str, Any]:
    most = 2_000 if quick else 10**6
    counts = (1_000, most) if quick else (10**4, 10**5, most)
    images, starts = data(most)
    given = {kind: [images.astype(kind), starts.astype(kind)] for kind in KINDS}

    plain = [
        Case(kind, what, count)
        for kind in (KINDS[:1] if quick else KINDS)
        for what in (ALL, "neither")
        for count in counts
    ]
    lanes = (256,) if quick else (2**14, 2**16, 2**18)
    slices = (1_024,) if quick else (2**17, 2**20)
    tried = [Case(kind, "neither", most, lanes=k) for kind in KINDS for k in lanes]
    tried += [
        Case(kind, "neither", most, slice_size=k) for kind in KINDS for k in slices
    ]
    inside = [Case(kind, what, most) for what in ("neither", ALL) for kind in KINDS]
    largest = [dataclasses.replace(case, count=10 * most) for case in inside]
    inside += [Case(KINDS[0], "neither", most, lanes=k) for k in lanes]

    rows = through_the_door(plain, given, budget, "fits at defaults", quick)
    rows += on_the_device(inside[: 1 if quick else None], given, budget, quick)
    what = "lanes and slices tried"
    rows += through_the_door(tried[: 1 if quick else None], given, budget, what, quick)
    if not quick:
        rows += millions(largest, given, budget)
    single = [row[-2] for row in rows if row[1] == "float32"]
    asked = "float32: fits a second at the best setting, 2e7"
    columns = ["by", "precision", "with", "fits", "lanes", "slices", "fits a second"]
    return report(
        __doc__,
        [target(asked, max(single), at_least=2e7)] if single and not quick else [],
        [table("Spots of light on 5x5 pixels", [*columns, "successes"], rows)],
        [
            "The least of three calls after one that does not count. The largest batch "
            "is one call of the million images ten times over, its time without "
            "compilation.",
        ],
    )
