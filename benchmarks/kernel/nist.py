"""How many certified digits does each library get, as it comes and at its tightest?

The 27 NIST StRD data sets from both certified starts: 54 runs. Correct digits are
-log10 of the relative error against the certified value, at most 11; a run that raises
or ends elsewhere has 0. Peers: scipy.optimize.least_squares (trf, x_scale 'jac' and 1),
scipy.optimize.curve_fit (lm), optimistix LevenbergMarquardt, lmfit (leastsq).

At default settings each peer differentiates as it does by default; at tight settings
those that can take a Jacobian are handed the exact one.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import optimistix
import scipy.optimize
from tools.precisions import digits
from tools.report import report, table, target

import jaxfit
from jaxfit import TRF
from jaxfit.datasets import NistDataset, nist, nist_names


Fit = Callable[[np.ndarray], np.ndarray]

# The certified residual sum of squares of Lanczos1 is 1.4e-25: rounding its data to
# float64 alone changes the standard errors.
ROUNDING = "Lanczos1"
TIGHT = TRF(ftol=0.0, gtol=0.0, xtol=1e-15)


@jax.jit
def solve(problem: jaxfit.Problem, solver: TRF) -> tuple[Any, Any]:
    """The parameters and their standard errors by jaxfit."""
    solution = jaxfit.solve(problem, solver)
    return solution.params, jnp.sqrt(jnp.diagonal(solution.covariance()))


def numpy_residual(data: NistDataset) -> Callable[[np.ndarray], np.ndarray]:
    """The residual in NumPy, as a user of SciPy writes it."""
    functions = {f: getattr(np, f) for f in ("exp", "log", "sin", "cos", "arctan")}
    scope = {**functions, **data.x, "pi": math.pi}
    code = compile(data.expression, "<NIST StRD>", "eval")

    def residual(params):
        names = {f"b{i}": b for i, b in enumerate(params, start=1)}
        return eval(code, {}, {**scope, **names}) - data.y

    return residual


def exact_jacobian(data: NistDataset) -> Callable[[np.ndarray], np.ndarray]:
    """The Jacobian of the residual by automatic differentiation."""
    jacobian = jax.jit(jax.jacfwd(lambda p: data.model(data.x, p)))
    return lambda params: np.array(jacobian(params))  # MINPACK writes into it


def jaxfit_fit(data: NistDataset, tight: bool) -> Fit:
    solver = TIGHT if tight else TRF()

    def fit(start):
        problem = jaxfit.curve_problem(data.model, data.x, data.y, start)
        return solve(problem, solver)[0]

    return fit


def trf_fit(x_scale: Any) -> Callable[[NistDataset, bool], Fit]:
    def make(data, tight):
        options = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15) if tight else {}
        if tight:
            options |= {"jac": exact_jacobian(data), "max_nfev": 5000}
        residual = numpy_residual(data)
        return lambda start: (
            scipy.optimize.least_squares(
                residual, start, method="trf", x_scale=x_scale, **options
            ).x
        )

    return make


def curve_fit(data: NistDataset, tight: bool) -> Fit:
    residual, options = numpy_residual(data), {}
    if tight:
        jacobian = exact_jacobian(data)
        options = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15)
        options |= {"jac": lambda _, *p: jacobian(np.array(p)), "maxfev": 5000}
    zeros = np.zeros_like(data.y)  # the model knows its x, which may be several arrays
    return lambda start: scipy.optimize.curve_fit(
        lambda _, *p: residual(p), zeros, zeros, p0=start, method="lm", **options
    )[0]


def optimistix_fit(data: NistDataset, tight: bool) -> Fit:
    tolerance = 1e-15 if tight else 1e-8
    solver = optimistix.LevenbergMarquardt(rtol=tolerance, atol=tolerance)
    steps = 5000 if tight else 256  # 256 is its default

    @jax.jit
    def fit(start):
        return optimistix.least_squares(
            lambda p, _: data.model(data.x, p) - data.y,
            solver,
            start,
            max_steps=steps,
            throw=False,
        ).value

    return lambda start: fit(jnp.asarray(start))


def lmfit_fit(data: NistDataset, tight: bool) -> Fit:
    residual, options = numpy_residual(data), {}

    def values(params):
        return np.array([params[f"b{i + 1}"].value for i in range(len(params))])

    if tight:
        jacobian = exact_jacobian(data)
        options = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15)
        options |= {"Dfun": lambda p: jacobian(values(p)), "max_nfev": 5000}

    def fit(start):
        params = lmfit.Parameters()
        for i, value in enumerate(start, start=1):
            params.add(f"b{i}", value=float(value))
        return values(
            lmfit.minimize(lambda p: residual(values(p)), params, **options).params
        )

    return fit


PEERS: dict[str, Callable[[NistDataset, bool], Fit]] = {
    "jaxfit": jaxfit_fit,
    "SciPy trf, x_scale='jac'": trf_fit("jac"),
    "SciPy trf, x_scale=1": trf_fit(1.0),
    "SciPy curve_fit, lm": curve_fit,
    "optimistix LM": optimistix_fit,
    "lmfit, leastsq": lmfit_fit,
}


def all_digits(make: Callable, names: list[str], tight: bool) -> list[np.ndarray]:
    """Correct digits of the parameters, one entry a run."""
    out = []
    for name in names:
        data = nist(name)
        fit = make(data, tight)
        for start in data.starts:
            try:
                out.append(digits(fit(start), data.certified))
            except (RuntimeError, ValueError):  # how SciPy and lmfit report failure
                out.append(np.zeros(len(start)))
    return out


def standard_errors(names: list[str]) -> tuple[int, float]:
    """jaxfit's at default settings: runs with 6 digits in each, and mean digits."""
    each = []
    for name in names:
        data = nist(name)
        for start in (0, 1):
            _, errors = solve(data.problem(start), TRF())
            each.append(digits(errors, data.std_dev))
    return summary(each)[:2]


def summary(each: list[np.ndarray]) -> tuple[int, float, float]:
    """Runs with 6 digits in every number; mean digits; mean of each run's worst."""
    six = sum(bool(d.min() >= 6) for d in each)
    mean = float(np.mean([d.mean() for d in each]))
    return six, mean, float(np.mean([d.min() for d in each]))


def main(quick: bool) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # overflow in trial points, covariances of failures
    names = list(nist_names())[::4] if quick else list(nist_names())
    runs = 2 * len(names)
    rows, scores = [], {}
    for peer, make in PEERS.items():
        row: list[Any] = [peer]
        for tight in (False, True):
            scores[peer, tight] = summary(all_digits(make, names, tight))
            row += scores[peer, tight]
        rows.append(row)
    certain = [name for name in names if name != ROUNDING]
    errors, error_digits = standard_errors(certain)
    rest = [peer for peer in PEERS if peer != "jaxfit"]
    best = max(scores[peer, True][1] for peer in rest)
    default, tight = scores["jaxfit", False], scores["jaxfit", True]
    return report(
        __doc__,
        [
            target(
                f"default settings: runs with 6 digits in every parameter, all {runs}",
                default[0],
                at_least=runs,
            ),
            target(
                f"and in every standard error, all {2 * len(certain)} but {ROUNDING}'s",
                errors,
                at_least=2 * len(certain),
            ),
            target("tight settings: mean digits above 9.7", tight[1], at_least=9.7),
            target(
                f"tight settings: runs with 6 digits, all {runs}",
                tight[0],
                at_least=runs,
            ),
        ],
        [
            table(
                f"Correct digits of parameters (at most 11) in {runs} runs",
                [
                    "library",
                    "default: runs with 6",
                    "mean",
                    "mean of the worst",
                    "tight: runs with 6",
                    "tight: mean",
                    "tight: mean of the worst",
                ],
                rows,
            ),
        ],
        [
            f"jaxfit's standard errors have {error_digits:.2f} correct digits on "
            "average at default settings.",
            f"The best mean of another library at tight settings is {best:.2f}.",
            "'Mean' is over the parameters of a run and then over the runs; 'mean of "
            "the worst' takes each run's worst parameter.",
            "Default means each library's own, with its own derivatives (finite "
            "differences in SciPy and lmfit); optimistix has no default tolerance and "
            "gets 1e-8.",
            "Tight means 1e-15 for every tolerance (0 for jaxfit's ftol and gtol), up "
            "to 5,000 evaluations or steps, and the exact Jacobian for all.",
        ],
    )
