"""Options that `curve_fit` and `least_squares` refuse."""

import jax.numpy as jnp
import numpy as np
import pytest
from spoilt_calls import INF, NAN, M, decay, fit, minimise, refused

from jaxfit import CurveFit


pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.mark.parametrize("name", ["ftol", "xtol", "gtol"])
@pytest.mark.parametrize("bad", [-1e-8, NAN, INF])
def test_tolerances(name, bad):
    text = f"`{name}` must be finite and not negative, got {bad}"
    refused(ValueError, text, **{name: bad})
    refused(ValueError, text, call=minimise, **{name: bad})


def test_least_squares_needs_a_tolerance():
    text = "At least one of the tolerances must be higher than machine epsilon"
    refused(ValueError, text, minimise, ftol=None, xtol=None, gtol=None)
    refused(ValueError, text, minimise, ftol=1e-17, xtol=0.0, gtol=None)
    text = "higher than machine epsilon ... 'lm' ... xtol=0.0"
    refused(ValueError, text, minimise, method="lm", xtol=0.0)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"verbose": 3}, ValueError, "`verbose` must be in [0, 1, 2], got 3"),
        ({"verbose": -1}, ValueError, "`verbose` must be in [0, 1, 2], got -1"),
        ({"loss": "l2"}, ValueError, "`loss` ... 'soft_l1' ... callable, got 'l2'"),
        ({"loss": 2}, ValueError, "`loss` ... 'soft_l1' ... callable, got 2"),
        ({"method": "cg"}, ValueError, "`method` ... 'trf' ... 'dogbox' ... got 'cg'"),
        ({"jac": "4-point"}, ValueError, "`jac` ... '3-point' ... got '4-point'"),
        ({"jac": True}, ValueError, "`jac` ... '3-point' ... got True"),
        ({"tr_solver": "svd"}, ValueError, "`tr_solver` ... 'lsmr', got 'svd'"),
        ({"tr_options": {"a": 1}}, TypeError, "`tr_options` has ['a'] ... 'maxiter'"),
        ({"max_nfev": 0}, ValueError, "`max_nfev` ... positive integer, got 0"),
        ({"max_nfev": -5}, ValueError, "`max_nfev` ... positive integer, got -5"),
        ({"max_nfev": 1.5}, ValueError, "`max_nfev` ... positive integer, got 1.5"),
        ({"max_nfev": "many"}, (TypeError, ValueError), "`max_nfev` ... 'many'"),
        ({"x_scale": -1.0}, ValueError, "`x_scale` ... positive numbers, got -1.0"),
        ({"x_scale": [1, 0]}, ValueError, "`x_scale` ... positive numbers, got [1, 0"),
        ({"x_scale": "fit"}, ValueError, "`x_scale` ... 'jac' ... got 'fit'"),
        ({"x_scale": [1, 1, 1]}, ValueError, "`x_scale` ... (3,) ... 2 parameters"),
        ({"loss": "huber", "f_scale": 0.0}, ValueError, "`f_scale` ... positive"),
        ({"loss": "huber", "f_scale": -1.0}, ValueError, "`f_scale` ... positive"),
        ({"loss": "huber", "f_scale": NAN}, ValueError, "`f_scale` ... positive"),
        ({"loss": "huber", "f_scale": "a"}, (TypeError, ValueError), "`f_scale`"),
        ({"loss": "huber", "method": "lm"}, ValueError, "'lm' ... only 'linear' loss"),
        ({"bounds": (0, 9), "method": "lm"}, ValueError, "Method 'lm' ... "),
        (
            {"jac_sparsity": np.ones(M)},
            ValueError,
            "`jac_sparsity` ... (m, n) ... (12,)",
        ),
        ({"workers": "two"}, TypeError, "`workers` must be an integer ... 'two'"),
        ({"callback": 3}, TypeError, "`callback` must be callable"),
        (
            {"jac": "2-point", "diff_step": [1e-6] * 3},
            ValueError,
            "`diff_step` ... (3,",
        ),
        ({"jac": "2-point", "diff_step": 0.0}, ValueError, "`diff_step` ... 0.0"),
    ],
)
def test_options(options, error, text):
    refused(error, text, **options)
    refused(error, text, call=minimise, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"args": (1,)}, ValueError, "'args' is not a supported keyword argument"),
        ({"factor": 10.0}, ValueError, "`factor` is not supported: x_scale"),
        ({"col_deriv": True}, ValueError, "`col_deriv` is not supported: transpose"),
        ({"maxfev": 5, "max_nfev": 6}, ValueError, "`max_nfev`"),
    ],
)
def test_options_of_curve_fit(options, error, text):
    refused(error, text, **options)


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("fotl", "ftol"),
        ("max_nfevs", "max_nfev"),
        ("bouds", "bounds"),
        ("absolut_sigma", "absolute_sigma"),
        ("nan_polcy", "nan_policy"),
        ("fixd", "fixed"),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_nearest_one(unknown, meant):
    text = f"unexpected keyword argument `{unknown}`. Did you mean `{meant}`?"
    refused(TypeError, text, **{unknown: 1})


def test_an_unknown_option_of_a_fitter_or_of_least_squares():
    with pytest.raises(TypeError, match=r"`fotl`\. Did you mean `ftol`"):
        CurveFit(decay, fotl=1e-8)
    with pytest.raises(TypeError, match="fotl"):
        minimise(fotl=1e-8)
    with pytest.raises(TypeError, match=r"`zzzzz`\. It takes .*ftol.*xtol"):
        fit(zzzzz=1)


@pytest.mark.parametrize(
    "option", [{"fixed": {"amp": 2.0}}, {"clip_p0": True}, {"bounds": (0, 9)}]
)
def test_a_fitter_takes_no_argument_of_the_call_silently(option):
    """It either holds for every call, or is refused: never ignored."""
    with pytest.raises(TypeError, match=next(iter(option))):
        CurveFit(decay, **option)


@pytest.mark.parametrize(
    ("fixed", "text"),
    [
        ({"apm": 1.0}, "`apm` ... (amp, rate). Did you mean `amp`?"),
        ({"zzz": 1.0}, "`zzz`, which is no parameter of the model (amp, rate)."),
        ({"amp": 1.0, "rate": 1.0}, "`fixed` leaves no parameter free"),
        ([True, True], "`fixed` leaves no parameter free"),
        ([True], "`fixed` must be a dictionary of values by name or 2 booleans"),
        ([1, 0], "`fixed` must be a dictionary of values by name or 2 booleans"),
        (["amp"], "`fixed` must be a dictionary of values by name or 2 booleans"),
        ({"amp": NAN}, "`fixed['amp']` must be one finite number"),
        ({"amp": [1.0, 2.0]}, "`fixed['amp']` must be one finite number"),
        ({"amp": "1"}, "`fixed['amp']` must hold numbers"),
    ],
)
def test_fixed(fixed, text):
    refused(ValueError, text, fixed=fixed)


def test_a_fixed_value_must_be_within_the_bounds():
    text = "amp ... 9.0 ... [0.0, 4.0]"
    refused(ValueError, text, fixed={"amp": 9.0}, bounds=(0, 4))


@pytest.mark.parametrize("level", [0, 1.0, 95, -0.5, NAN])
def test_levels(level):
    result = fit()
    for ask in (
        result.confidence_interval,
        result.summary,
        lambda level: result.confidence_band(level=level),
        lambda level: result.prediction_band(level=level),
        lambda level: result.plot(level=level),
    ):
        with pytest.raises(ValueError, match=f"`level` .*between 0 and 1, got {level}"):
            ask(level)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"x0": [1, NAN]}, ValueError, "`x0` must be finite ... nan"),
        ({"x0": []}, ValueError, "`x0` ... not empty"),
        ({"x0": [[1.0, 1.0]]}, ValueError, "`x0` must have at most 1 dimension"),
        ({"x0": [1j, 1]}, ValueError, "`x0` must be real"),
        ({"x0": "1"}, ValueError, "`x0` must hold numbers"),
        ({"fun": 3}, TypeError, "`fun` must be callable, got int"),
        (
            {"fun": lambda p, x, y: jnp.ones((M, 1))},
            ValueError,
            "`fun` ... 1-d ... (12",
        ),
        ({"fun": lambda p, x, y: jnp.zeros(0)}, ValueError, "residual is empty"),
        ({"fun": lambda p, x, y: p * 1j}, TypeError, "residual must be real"),
        (
            {"fun": lambda p, x, y: jnp.sqrt(x - p[0]) * p[1]},
            ValueError,
            "Residuals are not finite in the initial point: fun(x0) is nan at index 0",
        ),
    ],
)
def test_residuals(options, error, text):
    refused(error, text, call=minimise, **options)
