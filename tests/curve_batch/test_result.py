"""The result of a batch: maps, outcomes, what the data do not determine."""

import pickle

import numpy as np
import pytest
from curve_batches import NAN, P0, SHAPE, M, P, X, Y, close, decay, fit, same_bits

from jaxfit import Status, curve_fit_batch


# --- The result -------------------------------------------------------------------


def test_maps_by_name(plain):
    assert plain.names == ("a", "b") and list(plain.params) == ["a", "b"]
    np.testing.assert_array_equal(plain.params["b"], plain.popt[..., 1])
    assert plain.shape == plain.params["a"].shape == SHAPE
    close(
        plain.cost,
        0.5
        * ((decay(X, *np.moveaxis(plain.popt, -1, 0)[..., None], xp=np) - Y) ** 2).sum(
            -1
        ),
    )


def test_counts_and_types(plain):
    for name in ("status", "nfev", "njev", "nit", "num_data", "dof"):
        a = getattr(plain, name)
        assert a.shape == SHAPE and a.dtype == np.int32
    assert (plain.num_data == M).all() and (plain.dof == M - 2).all()
    assert (plain.nfev > plain.nit - 1).all() and (plain.njev <= plain.nfev).all()
    assert plain.success.dtype == bool and plain.active_mask.dtype == np.int8
    assert plain.run_time >= 0 and plain.compile_time >= 0
    assert isinstance(plain.lane_efficiency, float)


def test_outcomes_and_summary():
    y = Y.copy()
    y[0, :2] = NAN
    result = fit(ydata=y)
    assert sum(result.outcomes.values()) == P
    assert result.outcomes[Status.NONFINITE_START] == 2
    assert list(result.outcomes.values()) == sorted(
        result.outcomes.values(), reverse=True
    )
    first, *rest = result.summary().splitlines()
    assert first == "20 fits, 18 of them converged"
    (line,) = [line for line in rest if "NONFINITE_START" in line]
    assert line.split()[:2] == ["2", "10%"]
    assert Status.NONFINITE_START.message in line


def test_attributes_are_not_to_be_changed(plain):
    with pytest.raises(AttributeError, match="popt"):
        plain.popt = 3
    with pytest.raises(AttributeError, match="something"):
        plain.something = 3
    with pytest.raises(AttributeError, match="`chi2`"):
        plain.chi2  # noqa: B018
    assert not hasattr(plain, "chi2")


def test_a_batch_without_axes_is_one_fit():
    result = fit(ydata=Y[0, 0])
    assert result.success and result.summary().startswith("1 fits, 1 of")
    assert result.outcomes
    assert result.failed[0].size == 0
    assert fit(ydata=Y[0, 0] * NAN).status[()] == Status.NONFINITE_START


def test_a_result_can_be_pickled(plain):
    again = pickle.loads(pickle.dumps(plain))
    same_bits(again, plain)


# --- What the data do not determine -----------------------------------------------


def test_undetermined_parameters_of_a_batch_are_marked_and_counted():
    x = np.linspace(0, 5, 30)

    def both(x, a, b, c):
        return a + (b + c) * x

    y = np.stack([1 + 2 * x, 2 - x]) + 0.1 * np.sin(9 * x)
    result = curve_fit_batch(both, x, y, [1.0, 1.0, 1.0])
    assert result.success.all()
    want = np.array([[False, True, True]] * 2)
    np.testing.assert_array_equal(result.undetermined, want)
    assert np.isinf(result.perr[want]).all()
    assert result.summary().splitlines()[-1] == (
        "2 that converged have parameters that the data do not determine: "
        "b in 2, c in 2"
    )
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.undetermined, want)


def test_of_a_healthy_batch_nothing_is_undetermined():
    result = curve_fit_batch(decay, X, Y, P0)
    assert result.undetermined.shape == (*SHAPE, 2) and not result.undetermined.any()
    assert "not determine" not in result.summary()
    assert curve_fit_batch(decay, X, Y, P0, covariance=False).undetermined is None


def test_a_held_parameter_is_not_undetermined():
    def both(x, a, b, c):
        return a + (b + c) * x

    y = 1 + 2 * X + 0.1 * np.sin(9 * X)
    bounds = ([-9, 0.5, -9], [9, 0.5, 9])
    result = curve_fit_batch(both, X, y, [1.0, 0.5, 1.0], bounds=bounds)
    assert not result.undetermined.any()
