"""How fast, and how right, is jaxfit on an accelerator?

`python benchmarks/gpu.py [sections...] [--quick] [--out FILE]` runs on whatever device
JAX finds and writes what is known after each of them:

    agreement  parameters of spots of light against those found on the CPU
    vmap       1,000 decays of 100 points by `jax.vmap(jaxfit.solve)`
    one        one fit of 100 to 100 million points and five parameters
    pixels     Gpufit's case: fits a second of spots of light on 5x5 pixels
    digits     certified digits of NIST StRD, in double and in single precision
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tools.decay import model as decay
from tools.decay import numpy_model as numpy_decay
from tools.measure import fresh, machine, versions
from tools.pixels import batch, data, off
from tools.report import as_text, report, table

import jaxfit
from jaxfit import TRF
from jaxfit.datasets import nist, nist_names


KINDS = "float64", "float32"
SOLVERS = {"qr": TRF(linear_solver="qr"), "gram": TRF(linear_solver="gram", trials=1)}


def seconds(call: Callable[[], Any], rounds: int = 5) -> tuple[float, float]:
    """Of the first call, and the least of some others."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:])


def in_kind(a: np.ndarray, kind: str) -> Any:
    """As it is, in double precision; else as an array of JAX, fitted in its own."""
    return a if kind == "float64" else jnp.asarray(a, kind)


def digits(quick: bool) -> dict[str, Any]:
    """Certified digits, from both starts of each set."""

    @jax.jit
    def solve(problem):
        solution = jaxfit.solve(problem)
        return solution.params, solution.success

    rows = []
    for kind, asked in {"float64": 6, "float32": 3}.items():
        worst, successes = [], 0
        for name in list(nist_names())[:: 6 if quick else 1]:
            sets = nist(name)
            x = jax.tree.map(lambda a, kind=kind: jnp.asarray(a, kind), sets.x)
            y = jnp.asarray(sets.y, kind)
            for start in sets.starts:
                start = jnp.asarray(start, kind)
                found = jaxfit.curve_problem(sets.model, x, y, start)
                params, success = solve(found)
                far = np.abs(np.asarray(params, float) / sets.certified - 1).max()
                worst.append(float(np.clip(-np.log10(max(far, 1e-11)), 0, 11)))
                successes += bool(success)
        right = sum(digits >= asked for digits in worst)
        rows.append([kind, len(worst), successes, asked, right, float(np.mean(worst))])
    columns = ["precision", "runs", "successes", "digits asked", "runs with them"]
    return table("NIST StRD at defaults", [*columns, "mean of the worst"], rows)


def parameters(kind: str, count: int) -> list[list[float]]:
    """Of spots of light, on the device that JAX finds."""
    jax.config.update("jax_enable_x64", True)
    fits = batch(*[in_kind(a, kind) for a in data(count)])
    return np.asarray(fits.popt, float).tolist()


def agreement(quick: bool) -> dict[str, Any]:
    """The same fits on the device and, in a process of its own, on the CPU."""
    count, rows = 1_000 if quick else 20_000, []
    for kind in KINDS:
        here = np.array(parameters(kind, count))
        there = np.array(fresh("gpu", "parameters", kind, count, JAX_PLATFORMS="cpu"))
        far = off(here, there)
        unequal = int((np.isnan(here) != np.isnan(there)).any(axis=1).sum())
        both = far[np.isfinite(far)]
        rows.append([kind, count, unequal, float(np.median(both)), float(both.max())])
    columns = ["precision", "fits", "successes that differ", "median", "largest"]
    return table("Relative differences from the CPU", columns, rows)


def vmap(quick: bool) -> dict[str, Any]:
    """Decays that differ, each a lane of one program."""
    lanes, rows = 100 if quick else 1_000, []
    rng = np.random.default_rng(0)
    x = np.linspace(0.0, 4.0, 100)
    a, b, c = rng.uniform([[1.0], [0.5], [0.0]], [[4.0], [3.0], [1.0]], (3, lanes))
    y = numpy_decay(x, a[:, None], b[:, None], c[:, None])
    y = y + 0.05 * rng.standard_normal(y.shape)
    for kind in KINDS:
        where, start = jnp.asarray(x, kind), jnp.ones(3, kind)
        values = jnp.asarray(y, kind)
        for name, solver in SOLVERS.items():

            def fit(y, where=where, start=start, solver=solver):
                problem = jaxfit.curve_problem(decay, where, y, start)
                return jaxfit.solve(problem, solver).params

            call = jax.jit(jax.vmap(fit))
            first, took = seconds(lambda call=call, values=values: call(values))
            rows.append([kind, name, first, 1e3 * took, lanes / took])
    columns = ["precision", "linear solver", "first call, s", "ms", "fits a second"]
    return table(f"{lanes:,} decays of 100 points by vmap", columns, rows)


def peak(x: Any, p: Any) -> Any:
    """A peak on a slope: five parameters."""
    return p[0] * jnp.exp(-(((x - p[1]) / p[2]) ** 2)) + p[3] + p[4] * x


def bandwidth(kind: str, numbers: int) -> float:
    """Bytes a second that a sum of so many numbers reads."""
    values = jnp.ones(numbers, kind)
    add = jax.jit(jnp.sum)
    return values.nbytes / seconds(lambda: add(values))[1]


def one(quick: bool) -> dict[str, Any]:
    """One fit of ever more points, made on the device."""
    rows, truth = [], (3.0, 0.4, 1.0, 0.5, 0.1)
    for kind in KINDS:
        fastest = bandwidth(kind, 10**6 if quick else 10**8)

        @jax.jit
        def fit(x, y, kind=kind):
            start = jnp.asarray((2.0, 0.1, 1.5, 0.0, 0.0), kind)
            solution = jaxfit.solve(jaxfit.curve_problem(peak, x, y, start))
            return solution.params, solution.nfev, solution.njev, solution.success

        for power in range(2, 5 if quick else 9):
            m = 10**power
            x = jnp.linspace(-3, 3, m, dtype=kind)
            noise = jax.random.normal(jax.random.key(0), (m,), kind)
            y = peak(x, truth) + 0.05 * noise
            first, took = seconds(lambda fit=fit, x=x, y=y: fit(x, y))
            _, nfev, njev, success = fit(x, y)
            read = (int(nfev) + int(njev)) * (x.nbytes + y.nbytes)
            share = read / took / fastest
            ended = "yes" if success else "no"
            rows.append(
                [kind, f"{m:,}", first, 1e3 * took, int(nfev), int(njev), share, ended]
            )
    columns = ["precision", "points", "first call, s", "ms", "nfev", "njev"]
    columns += ["share of the bandwidth of a sum", "success"]
    return table("One fit of five parameters", columns, rows)


def pixels(quick: bool) -> dict[str, Any]:
    """Spots of light, in NumPy's arrays or on the device in single precision."""
    most, rows = 10_000 if quick else 1_000_000, []
    images, starts = data(most)
    for kind in KINDS:
        given = [in_kind(a, kind) for a in (images, starts)]
        counts = [10_000] if quick else [10_000, 100_000, 1_000_000]
        for count in counts:
            for bounded in (True, False):
                part = [a[:count] for a in given]
                start = time.perf_counter()
                batch(*part, bounded=bounded)
                first, times = time.perf_counter() - start, []
                for _ in range(3):
                    start = time.perf_counter()
                    fits = batch(*part, bounded=bounded)
                    times.append(time.perf_counter() - start)
                share = float(np.mean(fits.success))
                how = "bounded" if bounded else "free"
                speed = count / min(times)
                rows.append([kind, how, f"{count:,}", first, speed, share])
    columns = ["precision", "", "fits", "first call, s", "fits a second", "successes"]
    return table("Spots of light on 5x5 pixels", columns, rows)


SECTIONS = {f.__name__: f for f in (agreement, vmap, one, pixels, digits)}


def main(quick: bool, names: list[str], out: str | None) -> None:
    """Print the tables of some sections, and keep them after each."""
    tables, where, begin = [], machine(), time.perf_counter()
    for name in names or SECTIONS:
        tables.append(SECTIONS[name](quick))
        print(as_text(name, report("", [], tables[-1:], [])), flush=True)
        if out is not None:
            kept = {
                **report(__doc__, [], tables, []),
                "quick": quick,
                "seconds": time.perf_counter() - begin,
                "versions": versions(),
                "machine": where,
            }
            Path(out).write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="few and small: a trial")
    parser.add_argument("--out", help="the JSON file to write")
    given = parser.parse_args()
    if unknown := set(given.names) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    main(given.quick, given.names, given.out)
