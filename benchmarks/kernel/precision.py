"""How many digits does each precision give, and which option asks for it?

Single fits of the NIST StRD from both certified starts by `solve`, and the same as
batches of two by `curve_fit_batch`; spots of light on 5x5 pixels by `curve_fit_batch`;
and the derivative of such fits with respect to their data. Correct digits are -log10 of
the relative error, at most 11; of a fit, those of its worst number.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tools import pixels
from tools.compiled import compiled, workers
from tools.precisions import PRECISIONS, Precision, digits
from tools.report import report, table

import jaxfit
from jaxfit import curve_fit_batch
from jaxfit.datasets import nist, nist_names


TIGHT = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
# How `curve_fit_batch` is asked for each precision.
OPTIONS: dict[str, dict[str, Any]] = {
    "the default for NumPy": {},
    'dtype="float32"': {"dtype": "float32"},
    "polish=True": {"polish": True},
}
NOTES = [
    "float64, float32: all of it, data, parameters and model. 'float32, then float64': "
    "the second begins where the first ended. 'float32 data': data rounded to float32 "
    "in a fit in float64. 'float32 model': besides, a model that casts x and "
    "parameters to float32 itself.",
    "The certified values are of the data in all their digits: a table of NIST also "
    "shows what rounding the data to float32 costs.",
    "Spots are compared with fits in float64 at tolerances of 1e-14; derivatives with "
    "those by the exact Hessian at a minimum found by Newton's steps. A derivative's "
    "error is over its parameter's largest; a fit that failed has derivatives of 0.",
]
STORED = "the default, of float32 arrays of NumPy"


def single(how: Precision, model: Any) -> Any:
    """One fit, to be compiled: parameters, their standard errors and the outcome."""

    def fit(x, y, start):
        solution = jaxfit.solve(how.problem(model, x, y, start))
        errors = jnp.sqrt(jnp.diagonal(solution.covariance()))
        return solution.params, errors, solution.success

    return jax.jit(fit)


def row(name: str, found: list[np.ndarray], successes: list[bool]) -> list[Any]:
    """Of a table of NIST: from the digits of each run's numbers."""
    worst = np.array([run.min() for run in found])
    counts = [int(np.sum(worst >= least)) for least in (6, 4, 3)]
    return [name, len(worst), sum(successes), *counts, float(np.median(worst))]


NIST_COLUMNS = ["runs", "successes", "with 6 digits", "with 4", "with 3", "median"]


def of_nist(names: Sequence[str], precisions: Sequence[Precision]) -> list[dict]:
    """Tables of the parameters and of the standard errors by `solve`."""

    def key(name: str, how: Precision) -> tuple[str, str, str, str | None]:
        return name, how.data, how.fit, how.model

    programs: dict[Any, tuple[Any, tuple]] = {}
    for name in names:
        data = nist(name)
        for how in {part for p in precisions for part in (p, p.first)}:
            args = data.x, data.y, data.starts[0]
            programs[key(name, how)] = single(how, data.model), args
    ready = compiled(programs)

    tables: dict[str, list[list[Any]]] = {"parameters": [], "standard errors": []}
    for how in precisions:
        params, errors, successes = [], [], []
        for name in names:
            data = nist(name)
            for start in data.starts:
                begin: Any = start
                if how.begins is not None:
                    found = ready[key(name, how.begins)](data.x, data.y, start)
                    found = np.asarray(found[0], float)
                    begin = np.where(np.isfinite(found), found, start)
                x, e, success = ready[key(name, how)](data.x, data.y, begin)
                params.append(digits(x, data.certified))
                errors.append(digits(e, data.std_dev))
                successes.append(bool(success))
        tables["parameters"].append(row(how.name, params, successes))
        tables["standard errors"].append(row(how.name, errors, successes))
    title = "NIST StRD by solve, digits of "
    columns = ["precision", *NIST_COLUMNS]
    return [table(title + what, columns, rows) for what, rows in tables.items()]


def of_nist_batches(names: Sequence[str]) -> dict[str, Any]:
    """The table of the parameters by `curve_fit_batch`."""

    def fits(option: str, name: str) -> Any:
        data = nist(name)
        return curve_fit_batch(
            lambda x, *p: data.model(x, p),
            data.x,
            np.stack([data.y, data.y]),
            np.stack(data.starts),
            shared_x=True,
            covariance=False,
            **OPTIONS[option],
        )

    rows = []
    with ThreadPoolExecutor(workers()) as pool:
        for option in OPTIONS:
            found, successes = [], []
            each = pool.map(functools.partial(fits, option), names)
            for name, batch in zip(names, each, strict=True):
                found += [digits(popt, nist(name).certified) for popt in batch.popt]
                successes += batch.success.tolist()
            rows.append(row(option, found, successes))
    title = "NIST StRD by curve_fit_batch, digits of parameters"
    return table(title, ["option", *NIST_COLUMNS], rows)


def of_pixels(count: int) -> dict[str, Any]:
    """The table of spots of light, against fits in float64 at tight tolerances."""
    images, starts = pixels.data(count)
    exact = pixels.batch(images, starts, **TIGHT)
    stored = images.astype(np.float32), starts.astype(np.float32)
    calls = {name: ((images, starts), more) for name, more in OPTIONS.items()}
    calls[STORED] = stored, {}
    rows = []
    for name, (data, more) in calls.items():
        fits = pixels.batch(*data, **more)
        each = digits(fits.popt, exact.popt).min(axis=1)
        errors = digits(fits.perr, exact.perr).min(axis=1)
        off = pixels.off_in_errors(fits.popt, exact.popt, exact.perr)
        line = [name, count, float(np.mean(fits.success))]
        line += [float(np.median(each)), float(each.min())]
        line += [float(np.median(errors)), float(errors.min())]
        rows.append([*line, float(np.nanmax(off))])
    columns = ["option", "fits", "successes", "parameters: median", "least"]
    columns += ["errors: median", "least ", "farthest off, in errors"]
    return table("Spots of light by curve_fit_batch, digits", columns, rows)


def spot(x: Any, p: Any) -> Any:
    """The model of the spots for `solve`."""
    return pixels.model(x, *p)


def exact_derivative(x: Array, image: Array, params: Array) -> Array:
    """dp/dy of a spot, from the Hessian of the cost at its minimum: H dp = J' dy.

    Newton's steps find the minimum, next to the truth; nothing of jaxfit has a part.
    """

    def cost(p):
        return 0.5 * jnp.sum((spot(x, p) - image) ** 2)

    for _ in range(12):
        step = jnp.linalg.solve(jax.hessian(cost)(params), jax.grad(cost)(params))
        params = params - step
    jacobian = jax.jacfwd(lambda p: spot(x, p))(params)
    return jnp.linalg.solve(jax.hessian(cost)(params), jacobian.T)


def of_derivatives(count: int, precisions: Sequence[Precision]) -> dict[str, Any]:
    """The table of dp/dy, each parameter's error over its largest entry."""
    images, starts = pixels.data(count)
    x = jnp.asarray(pixels.PIXELS)
    truth = jnp.asarray(pixels.TRUTH)
    exact = jax.jit(jax.vmap(lambda y: exact_derivative(x, y, truth)))(images)
    size = np.max(np.abs(exact), axis=2)

    def derivatives(how: Precision):
        def one(image, start):
            def params(image):
                return jaxfit.solve(how.problem(spot, x, image, start)).params

            return jax.jacrev(params)(image)

        return jax.jit(jax.vmap(one))

    def parameters(how: Precision):
        def one(image, start):
            return jaxfit.solve(how.problem(spot, x, image, start)).params

        return jax.jit(jax.vmap(one))

    programs: dict[Any, tuple[Any, tuple]] = {}
    for how in precisions:
        programs[how] = derivatives(how), (images, starts)
        if how.begins is not None:
            programs[how.begins, "parameters"] = (
                parameters(how.begins),
                (images, starts),
            )
    ready, rows = compiled(programs), []
    for how in precisions:
        begin = starts
        if how.begins is not None:
            found = ready[how.begins, "parameters"](images, starts)
            begin = np.asarray(found, float)
        found = np.asarray(ready[how](images, begin), float)
        off = np.max(np.abs(found - exact), axis=2) / size
        each = digits(1 + off, 1.0).min(axis=1)
        rows.append([how.name, count, float(np.median(each)), float(each.min())])
    columns = ["precision", "fits", "median", "least"]
    return table("Derivatives of spots by their data, by solve, digits", columns, rows)


def main(quick: bool) -> dict[str, Any]:
    names = list(nist_names())[:: 6 if quick else 1]
    count, few = (500, 20) if quick else (20_000, 500)
    tables = [
        *of_nist(names, PRECISIONS),
        of_nist_batches(names[::3]),
        of_pixels(count),
        of_derivatives(few, PRECISIONS),
    ]
    return report(
        __doc__,
        [],
        tables,
        [*NOTES, "Batches of NIST are of every third of the data sets."],
    )
