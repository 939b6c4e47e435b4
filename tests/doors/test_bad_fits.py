"""Data that do not determine the parameters, and fits that fail."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import OptimizeWarning
from spoilt_calls import X, Y, fit, minimise, refused

import jaxfit
from jaxfit import FitError, from_numpy


pytestmark = pytest.mark.usefixtures("without_type_checks")


# --- Too few data, and parameters that they do not determine -----------------------


def test_fewer_data_than_parameters():
    text = "number of func parameters=2 must not exceed the number of data points=1"
    few = {"xdata": X[1:2], "ydata": Y[1:2]}
    refused(TypeError, f"{text} ... method='trf'", **few)
    refused(TypeError, text, **few, method="lm")
    text = "'lm' ... residuals is less than the number of variables: 1 and 2"
    refused(ValueError, text, minimise, args=(X[1:2], Y[1:2]), method="lm")
    with pytest.warns(OptimizeWarning, match="do not determine amp, rate"):
        result = fit(**few, method="trf")
    assert result.success and result.undetermined == ("amp", "rate")
    assert result.pcov.shape == (2, 2) and np.isinf(result.pcov).all()
    np.testing.assert_allclose(result.fitted, few["ydata"], rtol=1e-8)


def test_as_many_data_as_parameters():
    two = {"xdata": X[:2], "ydata": Y[:2]}
    with pytest.warns(OptimizeWarning, match="no more data than free parameters"):
        result = fit(**two)
    assert np.isinf(result.pcov).all() and result.undetermined == ()
    # Known deviations need no spare data to tell the errors.
    known = fit(**two, sigma=0.1, absolute_sigma=True)
    assert np.isfinite(known.pcov).all()


@pytest.mark.parametrize(
    ("model", "lost", "known"),
    [
        (lambda x, a, b, c: a * x + b * x + c, ("a", "b"), "c"),
        (lambda x, a, b, c: c * jnp.exp(-a * x), ("b",), "a"),
    ],
    ids=["collinear", "unused"],
)
def test_parameters_that_the_data_do_not_determine_are_named(model, lost, known):
    names = ", ".join(lost)
    text = f"Covariance of the parameters could not be estimated.*determine {names}$"
    with pytest.warns(OptimizeWarning, match=text):
        result = fit(f=model, p0=[1.0, 1.0, 1.0])
    assert result.undetermined == lost
    assert np.isinf(result.pcov).all()
    errors = dict(zip(result.names, result.perr, strict=True))
    assert all(np.isinf(errors[name]) for name in lost)
    assert 0 < errors[known] < 1
    assert "not determined by the data" in result.summary()


# --- Outcomes ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lm", "trf", "dogbox"])
def test_a_fit_that_runs_out_of_evaluations_raises_and_keeps_its_result(method):
    with pytest.raises(FitError, match="maximum number of function evalu") as caught:
        fit(method=method, max_nfev=2)
    assert isinstance(caught.value, RuntimeError)
    result = caught.value.result
    assert (result.status, result.success, result.nfev) == (0, False, 2)
    start = 0.5 * np.sum((np.exp(-X) - Y) ** 2)
    assert fit().cost < result.cost < start
    assert result.popt.shape == (2,) and np.isfinite(result.popt).all()


def test_least_squares_that_runs_out_of_evaluations_tells_so():
    result = minimise(max_nfev=2)
    assert (result.status, result.success, result.nfev) == (0, False, 2)
    assert result.message == ("The maximum number of function evaluations is exceeded.")


def test_what_from_numpy_refuses():
    with pytest.raises(TypeError, match="`f` must be callable, got int"):
        from_numpy(3)
    with pytest.raises(TypeError, match="`jac` must be callable or None, got 2"):
        from_numpy(np.sin, jac=2)
    with pytest.raises(ValueError, match=r"`derivative` must be one of .*'4-point'"):
        from_numpy(np.sin, derivative="4-point")


def test_a_result_without_its_model_or_data_says_what_to_do():
    result = fit()
    bare = jaxfit.CurveFitResult.from_dict(result.to_dict())
    with pytest.raises(ValueError, match=r"without its model.*from_dict"):
        bare.predict(X)
    with pytest.raises(AttributeError, match=r"`xdata`.*to_dict\(data=True\)"):
        assert bare.xdata
    with pytest.raises(AttributeError, match=r"not to be changed.*`popt`"):
        result.popt = X
    with pytest.raises(AttributeError, match="has no `pop`"):
        assert result.pop
