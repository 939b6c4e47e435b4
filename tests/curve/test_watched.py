"""A fit that is watched: SciPy's table, callbacks, the bar, times."""

import contextlib
import io
import re

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from curve_fits import (
    BOUNDS,
    SIGMA,
    M,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    numpy_slopes,
    same,
    scipy_fit,
    text,
    with_holes,
)

from jaxfit import curve_fit


def scipy_text(**options):
    out = io.StringIO()
    tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-8)
    with contextlib.redirect_stdout(out):
        scipy.optimize.curve_fit(
            numpy_decay,
            X,
            Y,
            jac=numpy_slopes,
            method="trf",
            x_scale="jac",
            **{**tolerances, **options},
        )
    return out.getvalue()


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_table_is_scipys(verbose):
    """From near the minimum, where both methods take the same Gauss-Newton steps."""
    options = {"p0": [2.0, 1.0, 0.3], "verbose": verbose}
    options |= {"ftol": 1e-5, "xtol": 1e-12, "gtol": 1e-12}
    result, table = text(**options, method="trf")
    assert table == scipy_text(**options)
    assert len(table.splitlines()) == 2 + (verbose == 2) * (result.nit + 2)
    same(result, scipy_fit(), 1e-3)


def test_the_table_of_a_longer_path_has_scipys_columns():
    tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-8)
    _, ours = text(verbose=2, method="trf", **tolerances)
    lines, theirs = ours.splitlines(), scipy_text(verbose=2).splitlines()
    assert len(lines) == len(theirs) and lines[0] == theirs[0]
    for a, b in zip(lines[1:-2], theirs[1:-2], strict=True):
        assert re.sub(r"[0-9]", "0", a) == re.sub(r"[0-9]", "0", b)
        close([float(v) for v in a.split()], [float(v) for v in b.split()], 0.02)


def test_nothing_is_printed_unless_asked():
    assert text()[1] == text(verbose=0)[1] == ""


@pytest.mark.parametrize(
    "options",
    [{"bounds": BOUNDS, "sigma": SIGMA}, {"nan_policy": "omit", "loss": "huber"}],
    ids=["bounded", "masked and robust"],
)
def test_a_watched_fit_is_the_same_fit(options):
    """But for rounding: its steps are programs of their own."""
    y = with_holes()[1] if "nan_policy" in options else Y
    seen = []
    watched = curve_fit(decay, X, y, callback=seen.append, **options)
    unwatched = curve_fit(decay, X, y, **options)
    for name in ("nfev", "njev", "nit", "status"):
        np.testing.assert_array_equal(getattr(watched, name), getattr(unwatched, name))
    for name in ("popt", "pcov", "cost"):
        close(getattr(watched, name), getattr(unwatched, name), 1e-11)
    close(watched.optimality, unwatched.optimality, 0, 1e-10)
    assert len(seen) == watched.nit
    close(seen[-1], watched.popt, 1e-12)


def test_a_callback_is_told_of_every_step():
    """By x alone or by SciPy's `intermediate_result`; with all parameters."""
    points, results = [], []

    def by_result(intermediate_result):
        results.append(intermediate_result)

    options = {"fixed": {"c": 0.5}, "method": "trf"}
    curve_fit(decay, X, Y, callback=lambda xk: points.append(xk), **options)
    done = curve_fit(decay, X, Y, callback=by_result, **options)
    assert len(points) == len(results) == done.nit > 2
    for i, (x, result) in enumerate(zip(points, results, strict=True)):
        np.testing.assert_array_equal(x, result.x)
        assert x.shape == (3,) and x[2] == 0.5
        assert result.nit == i + 1 and result.fun.shape == (M,)
        close(result.fun, numpy_decay(X, *x) - Y, atol=1e-13)
        close(result.cost, 0.5 * result.fun @ result.fun, 1e-12)
    costs = [result.cost for result in results]
    assert np.all(np.diff(costs) < 1e-14)
    assert [r.nfev for r in results] == sorted({r.nfev for r in results})


@pytest.mark.parametrize("how", ["raise", "return"])
def test_a_callback_can_stop_the_fit(how):
    points = []

    def stop(x):
        points.append(x)
        if len(points) == 2:
            if how == "return":
                return True
            raise StopIteration

    result = curve_fit(decay, X, Y, callback=stop)
    assert result.status == -2 and not result.success and len(points) == 2
    assert result.nit == 2 and "callback" in result.message
    np.testing.assert_array_equal(result.popt, points[-1])
    close(result.cost, 0.5 * np.sum((numpy_decay(X, *points[-1]) - Y) ** 2), 1e-12)


def test_an_error_in_a_callback_is_the_callers():
    def fail(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        curve_fit(decay, X, Y, callback=fail)


def test_a_progress_bar_counts_the_steps(capfd):
    pytest.importorskip("tqdm")
    result = curve_fit(decay, X, Y, progress=True)
    err = capfd.readouterr().err
    assert f"{result.nit}step" in err.replace(" ", "") and "cost" in err


def test_times_are_told(plain, without_kept_programs):
    def model(x, a, b, c):
        return decay(x, a, b, c) + 0.0

    first = curve_fit(model, X, Y, [1, 1, 1])
    again = curve_fit(model, X, Y + 0.01, [1, 1, 2])
    assert first.compile_time > first.run_time > 0
    assert again.compile_time == 0 < again.run_time < first.compile_time
