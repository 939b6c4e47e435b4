"""The result of one fit: as text, saved, copied, drawn, and never changed."""

import copy
import json
import pickle
import re

import jax.numpy as jnp
import numpy as np
import pytest
from curve_fits import (
    BOUNDS,
    COVARIANCE,
    NOISE,
    PLANE,
    PLANE_Y,
    SIGMA,
    M,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    surface,
    with_holes,
)

from jaxfit import CurveFitResult, curve_fit


def test_the_summary_is_an_aligned_table(plain, weighted):
    lines = plain.summary().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("parameter"))
    table = lines[start : start + 4]
    assert [line.split()[0] for line in table[1:]] == ["a", "b", "c"]
    head = "value", "std. error", "95% from", "to"
    for title in head:  # columns are flush to the right
        end = table[0].index(title) + len(title)
        assert all(
            line[end - 1].isdigit() and line[end : end + 1] in " " for line in table[1:]
        )
    intervals = plain.confidence_interval()
    for i, line in enumerate(table[1:]):
        numbers = [plain.popt[i], plain.perr[i], *intervals[i]]
        assert line.split()[1:] == [f"{value:.6g}" for value in numbers]
    whole = "\n".join(lines)
    assert plain.message in whole and f"{plain.aic:.6g}" in whole
    assert "90% from" in plain.summary(0.9)
    assert "absolute_sigma=True" in weighted.summary()
    special = curve_fit(
        decay, X, Y, bounds=BOUNDS, sigma=SIGMA, fixed={"c": 0.5}
    ).summary()
    assert re.search(r"(?m)^b .* at its upper bound$", special)
    assert re.search(r"(?m)^c .* fixed$", special)


def every_number(result):
    names = "popt pcov covariance perr fixed active_mask correlation".split()  # noqa: SIM905
    return [getattr(result, name) for name in names]


@pytest.mark.filterwarnings("ignore::scipy.optimize.OptimizeWarning")
@pytest.mark.parametrize("kind", ["plain", "lost", "nan", "omitted"])
def test_a_result_survives_json_pickle_and_copy(kind):
    x, y = X, Y
    options = {
        "plain": {"sigma": SIGMA},
        "lost": {"f": lambda x, a, b, c: a * x + b * x + c},
        "nan": {"nan_policy": "propagate"},
        "omitted": {"nan_policy": "omit", "sigma": COVARIANCE},
    }[kind]
    if kind in ("nan", "omitted"):
        x, y, _ = with_holes()
        x = X if kind == "nan" else x
    result = curve_fit(**{"f": decay, "xdata": x, "ydata": y, **options})
    f = options.get("f", decay)
    text = result.to_json(data=True)
    assert "NaN" not in text and "Infinity" not in text
    for other in (
        CurveFitResult.from_json(text, model=f),
        CurveFitResult.from_dict(json.loads(result.to_json(data=True)), f),
        pickle.loads(pickle.dumps(result)),
        copy.copy(result),
        copy.deepcopy(result),
    ):
        assert type(other) is CurveFitResult and len(other) == 2
        for a, b in zip(every_number(result), every_number(other), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(other[1], result[1])
        np.testing.assert_equal(vars(other.measures), vars(result.measures))
        assert other.summary() == result.summary()
        assert other.undetermined == result.undetermined
        assert other.to_json(data=True) == text
        np.testing.assert_array_equal(other.xdata, result.xdata)
    again = CurveFitResult.from_json(result.to_json(), model=f)
    np.testing.assert_array_equal(again.predict(X), result.predict(X))
    if kind == "plain":
        close(again.confidence_band(X), result.confidence_band(X), 1e-13)


def test_a_result_with_five_parts_keeps_them_when_copied_or_pickled():
    five = curve_fit(decay, X, Y, full_output=True)
    assert len(copy.deepcopy(five)) == 5
    assert len(pickle.loads(pickle.dumps(five))) == 5


def test_a_result_is_not_to_be_changed():
    plain = curve_fit(decay, X, Y)
    with pytest.raises(AttributeError):
        plain.popt = np.zeros(3)
    with pytest.raises(AttributeError):
        plain.note = "mine"
    with pytest.raises(AttributeError):
        del plain.popt
    with pytest.raises(TypeError):
        plain[0] = np.zeros(3)


def test_a_result_keeps_the_data_as_they_were():
    x, y, sigma = X.copy(), Y.copy(), SIGMA.copy()
    result = curve_fit(decay, x, y, sigma=sigma)
    before = result.chi2, result.fitted
    result = curve_fit(decay, x, y, sigma=sigma)
    x[:], y[:], sigma[:] = 0, 0, 1
    np.testing.assert_array_equal(result.xdata, X)
    np.testing.assert_array_equal(result.ydata, Y)
    np.testing.assert_array_equal(result.sigma, SIGMA)
    np.testing.assert_array_equal(result.fitted, before[1])
    assert result.chi2 == before[0]


def test_data_as_long_as_a_bucket_are_not_cut():
    """40 rows are padded to 64; an array of 64 numbers that are no rows stays whole."""
    knots = np.linspace(-2.0, 2.0, 64)

    def model(x, a, b):
        near = jnp.exp(-((x["t"][:, None] - x["knots"]) ** 2))
        return a * near.sum(axis=1) + b * x["t"]

    x = {"t": X, "knots": knots}
    y = 0.3 * np.exp(-((X[:, None] - knots) ** 2)).sum(1) + 0.2 * X + 0.05 * NOISE[:M]
    result = curve_fit(model, x, y)
    assert result.xdata["knots"].shape == (64,) and result.xdata["t"].shape == (M,)
    close(result.fitted, model(x, *result.popt), 1e-12)


def test_pictures(plain, weighted):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for result, bands in ((plain, 2), (weighted, 1)):
        above, below = result.plot(level=0.9)
        curve = above.get_lines()[1]
        close(curve.get_ydata(), numpy_decay(curve.get_xdata(), *result.popt), 1e-10)
        labels = [text.get_text() for text in above.get_legend().get_texts()]
        assert "90% confidence" in labels and len(above.collections) >= bands
        assert ("90% prediction" in labels) == (bands == 2)
        close(below.get_lines()[0].get_ydata(), result.residuals, 1e-12)
        plt.close("all")
    _, own = plt.subplots(2, 1)
    assert plain.plot(axes=own)[0] is own[0]
    x, y, keep = with_holes()
    _, below = curve_fit(decay, x, y, sigma=COVARIANCE, nan_policy="omit").plot()
    assert len(below.get_lines()[0].get_ydata()) == keep.sum()
    surface_fit = curve_fit(surface, PLANE, PLANE_Y)
    with pytest.raises(ValueError, match=r"`xdata` has shape \(2, 40\)"):
        surface_fit.plot()
    plt.close("all")
