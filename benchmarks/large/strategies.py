"""Do all strategies find the same, and do plan and warm_up do what they say?

Streamed, in blocks, with the Jacobian as a whole, and spread over 8 devices: the worst
deviations of parameters and covariance over chunk sizes and orders of the chunks, with
bounds and a robust loss. Passes with and without a warm-up. And the memory that
jaxfit.plan predicts, against the peak of a fresh process.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.measure import fresh
from tools.report import report, table, target

import jaxfit


ROWS = 120_000
SIZES = (1_000, 4_096, 33_333, ROWS)
DEVICES = 8
DEFAULT, QR = jaxfit.TRF(), jaxfit.TRF(linear_solver="qr")
SPREAD, SHARES = "spread over 8 devices", "streamed, each chunk spread"


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def peak(x, height, middle, width, offset, slope):
    z = (x - middle) / width
    return height * jnp.exp(-0.5 * z**2) + offset + slope * x


def sextic(x, p0, p1, p2, p3, p4, p5, p6):
    return jnp.polyval(jnp.stack([p6, p5, p4, p3, p2, p1, p0]), 1 + x)


# Model, start, true parameters, and bounds of which one is active.
MODELS: dict[str, tuple[Callable, tuple, tuple, tuple]] = {
    "decay": (
        decay,
        (1.0, 1.0, 1.0),
        (2.5, 1.3, 0.5),
        ((0.0, 0.0, 0.0), (9.0, 1.2, 9.0)),
    ),
    "peak on a slope": (
        peak,
        (1.0, 1.8, 0.4, 0.0, 0.0),
        (3.0, 2.1, 0.3, 0.5, 0.2),
        ((0.0, 0.0, 0.1, 0.0, 0.0), (2.8, 4.0, 2.0, 9.0, 9.0)),
    ),
    "polynomial": (
        sextic,
        (1.0,) * 7,
        (1.0, -2.0, 1.5, -0.7, 0.2, -0.03, 0.002),
        ((-9.0,) * 7, (0.9, *(9.0,) * 6)),
    ),
}
FORMS = {"decay": ("auto",), "peak on a slope": ("auto",), "polynomial": ("qr", "gram")}
METHODS = ("trf", "lbfgs")
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bounds": {"bounds": True},
    "robust": {"loss": "soft_l1", "f_scale": 2.0},
    "bounds, robust, sigma": {"bounds": True, "loss": "soft_l1", "sigma": True},
}


def data(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x in [0, 4], y and its standard deviations."""
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 4.0, ROWS)
    sigma = 0.05 * (1 + x / 4)
    model, _, true, _ = MODELS[name]
    return x, np.asarray(model(x, *true)) + sigma * rng.standard_normal(ROWS), sigma


def options(name: str, case: str) -> dict[str, Any]:
    """The keyword arguments of a fit but for its data."""
    more = dict(CASES[case])
    _, start, _, limits = MODELS[name]
    more.pop("sigma", None)
    if more.pop("bounds", False):
        more["bounds"] = limits
        low, high = np.array(limits)
        start = np.clip(start, low + 1e-3, high - 1e-3)
    return {"p0": np.array(start), **more}


def columns(name: str, case: str) -> list[np.ndarray]:
    x, y, sigma = data(name)
    return [x, y, sigma] if CASES[case].get("sigma") else [x, y]


def in_order(arrays: list[np.ndarray], size: int, seed: int | None) -> list[tuple]:
    """Chunks of so many rows, in their order or a random one."""
    chunks = [
        tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)
    ]
    if seed is None:
        return chunks
    return [chunks[i] for i in np.random.default_rng(seed).permutation(len(chunks))]


def answer(fit: Any) -> list[list[float]]:
    """Parameters and covariance as JSON holds them."""
    return [fit.popt.tolist(), fit.pcov.tolist()]


def variants(
    name: str, case: str, solver: jaxfit.TRF
) -> Iterator[tuple[str, list[list[float]]]]:
    """Every way in turn; the first is the reference."""
    model, given = MODELS[name][0], options(name, case)
    arrays = columns(name, case)

    def fit(xdata, *others, **more):
        return answer(
            jaxfit.fit_large_dataset(
                model, xdata, *others, solver=solver, **given, **more
            )
        )

    arguments: dict[str, Any] = dict(zip(("ydata", "sigma"), arrays[1:], strict=False))
    yield "in memory", fit(arrays[0], strategy="in_memory", **arguments)
    yield "chunked", fit(arrays[0], strategy="chunked", **arguments)
    for size in SIZES:
        yield (
            "streamed, 4 chunk sizes",
            fit(arrays[0], strategy="streamed", chunk_size=size, **arguments),
        )
    for seed in (1, 2):
        chunks = in_order(arrays, 7_777, seed)
        yield "streamed, 2 random orders", fit(chunks, chunk_size=10_000)


def spread(cases: list[list[str]]) -> list[list[Any]]:
    """The answers where rows are spread over all devices of this process."""
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    found = []
    for name, case, form in cases:
        solver = jaxfit.TRF(linear_solver=form, mesh=mesh)
        arrays, given = columns(name, case), options(name, case)
        for how in ("chunked", "streamed"):
            fit = jaxfit.fit_large_dataset(
                MODELS[name][0],
                jaxfit.ArraySource(*arrays),
                solver=solver,
                strategy=how,
                chunk_size=40_000,
                **given,
            )
            way = SPREAD if how == "chunked" else SHARES
            found.append([name, case, form, way, jax.device_count(), answer(fit)])
    return found


def with_devices(cases: list[list[str]]) -> list[list[Any]]:
    """`spread` in a process that has 8 devices."""
    before = os.environ.get("XLA_FLAGS")
    more = f"--xla_force_host_platform_device_count={DEVICES}"
    os.environ["XLA_FLAGS"] = f"{before or ''} {more}".strip()
    try:
        return fresh("large.strategies", "spread", cases)
    finally:
        if before is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = before


def deviations(ours: list, reference: list) -> tuple[float, float]:
    """Of parameters, over their size or standard error; of covariances, over those."""
    (p, cov), (q, ref) = ([np.array(a) for a in one] for one in (ours, reference))
    errors = np.sqrt(np.diag(ref))
    params = np.abs(p - q) / np.maximum(np.abs(q), errors)
    return float(params.max()), float(
        np.max(np.abs(cov - ref) / np.outer(errors, errors))
    )


def compared(quick: bool) -> tuple[list[list[Any]], tuple[float, float]]:
    """Rows of worst deviations by model and way, and the worst that counts."""
    names = list(MODELS)
    cases = [
        [name, case, form]
        for name in names
        for case in list(CASES)[-1 if quick else -2 :]
        for form in FORMS[name]
    ]
    worst: dict[tuple[str, str, str], tuple[float, float]] = {}
    references = {}

    def note(name, form, way, ours, reference):
        found = deviations(ours, reference)
        before = worst.get((name, form, way), (0.0, 0.0))
        worst[name, form, way] = max(before[0], found[0]), max(before[1], found[1])

    for name, case, form in cases:
        ways = variants(name, case, jaxfit.TRF(linear_solver=form))
        _, reference = next(ways)
        references[name, case, form] = reference
        for way, ours in ways:
            note(name, form, way, ours, reference)
    for name, case, form, way, devices, ours in with_devices(cases):
        if devices != DEVICES:
            raise RuntimeError(f"there are {devices} devices, not {DEVICES}")
        note(name, form, way, ours, references[name, case, form])
    rows = [[*key, *found] for key, found in worst.items()]
    counted = [row for row in rows if row[:2] != [names[2], "gram"]]
    return rows, (max(row[3] for row in counted), max(row[4] for row in counted))


def warm_ups() -> list[list[Any]]:
    """Rows of passes with and without a warm-up, from near and far starts."""
    starts = {
        "decay": {"near": (2.49, 1.29, 0.51), "far": (10.0, 20.0, -5.0)},
        "peak on a slope": {
            "near": (2.98, 2.11, 0.31, 0.51, 0.19),
            "far": (1.0, 1.5, 0.5, 0.0, 0.0),
            "further": (0.3, 1.3, 1.0, 3.0, -1.0),
        },
    }
    rows = []
    for name, ways in starts.items():
        x, y, sigma = data(name)
        for which, start in ways.items():
            found = [
                jaxfit.fit_stream(
                    lambda x, p, model=MODELS[name][0]: model(x, *p),
                    jaxfit.ArraySource(x, y, sigma),
                    np.array(start),
                    warm_up=warm_up,
                )
                for warm_up in (False, *map(jaxfit.WarmUp, METHODS))
            ]
            costs = [float(one.solution.cost) for one in found]
            counts = [one.info["passes"] for one in found]
            rows.append([name, which, *counts, *(c / costs[0] for c in costs[1:])])
    return rows


def held(strategy: str, rows: int, model: str, folder: str) -> dict[str, float]:
    """GB that a fit takes above what this process held before, and the prediction."""
    function, start, _, _ = MODELS[model]
    mode = "r" if strategy == "streamed" else None
    x, y = (np.load(Path(folder) / f"{name}.npy", mmap_mode=mode) for name in "xy")
    x, y = x[:rows], y[:rows]
    with jaxfit.MemoryProfiler(interval=0.002) as memory:
        fit = jaxfit.fit_large_dataset(
            function, x, y, np.array(start), strategy=strategy
        )
    return {
        "predicted": fit.info["plan"].peak_memory_gb,
        "measured": memory.peak_gb - memory.start_gb,
    }


def planned(quick: bool) -> list[list[Any]]:
    """Rows of the memory predicted and measured, each in a fresh process."""
    sizes = (1_000_000,) if quick else (1_000_000, 16_000_000)
    rows = []
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        x = np.linspace(0.0, 4.0, sizes[-1])
        rng.shuffle(x)
        noise = 0.05 * rng.standard_normal(x.size)
        for model in ("decay", "peak on a slope"):
            function, _, true, _ = MODELS[model]
            np.save(f"{folder}/x.npy", x)
            np.save(f"{folder}/y.npy", np.asarray(function(x, *true)) + noise)
            for strategy in ("in_memory", "chunked", "streamed"):
                for count in sizes:
                    case = strategy, count, model, folder
                    one = fresh("large.strategies", "held", *case)
                    ratio = one["measured"] / one["predicted"]
                    row = [model, strategy, count, one["predicted"], one["measured"]]
                    rows.append([*row, ratio])
    return rows


def main(quick: bool) -> dict[str, Any]:
    rows, (params, covariance) = compared(quick)
    memory, passes = planned(quick), warm_ups()
    off = max(abs(row[-1] - 1) for row in memory)
    return report(
        __doc__,
        [
            target(
                "parameters, worst deviation from the fit in memory: 1e-10",
                params,
                at_most=1e-10,
            ),
            target(
                "covariance, worst deviation over the standard errors' product: 1e-8",
                covariance,
                at_most=1e-8,
            ),
            target(
                "memory measured over predicted by plan: within 30% of 1",
                off,
                at_most=0.3,
            ),
            target(
                "far starts: passes with a warm-up over those without, below 1",
                max(row[3] / row[2] for row in passes if row[1] == "far"),
                at_most=0.999,
            ),
        ],
        [
            table(
                f"Worst deviations from the fit in memory, {ROWS:,} rows, all cases",
                ["model", "form", "way", "parameters", "covariance"],
                rows,
            ),
            table(
                "Passes of a streamed fit, by the method of its warm-up",
                [
                    "model",
                    "start",
                    "no warm-up",
                    *METHODS,
                    *(f"cost by {method} over none" for method in METHODS),
                ],
                passes,
            ),
            table(
                "GB above what a fresh process held before the fit",
                ["model", "strategy", "rows", "predicted", "measured", "ratio"],
                memory,
            ),
        ],
        [
            f"Cases: {'; '.join(CASES)}. With bounds one of them is active.",
            "Deviations of parameters are over their size or their standard error, "
            "whichever is larger.",
            "The polynomial is of degree 6 in 1 + x: with columns of unit length its "
            "Jacobian has a condition number of 9 10^4. By 'gram', which knows its "
            "square, last digits differ by more; that does not count for the targets.",
            "A cost that is not 1 times that without a warm-up is of another minimum.",
            "Random orders are those of chunks of 7,777 rows, read in blocks of "
            "10,000.",
            "Data in memory, and files that are mapped, are held before and not "
            "counted; what is mapped of a file while it is streamed is.",
        ],
    )
