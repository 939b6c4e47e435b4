"""What a caller of `curve_fit` or `least_squares` can get wrong.

Every message names the argument, the first index that is wrong, and a way out.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import jaxfit
from jaxfit import CurveFit, FitError, curve_fit, from_numpy, least_squares


pytestmark = pytest.mark.usefixtures("without_type_checks")

M = 12
X = np.linspace(0.0, 2.0, M)
Y = 2.5 * np.exp(-1.3 * X) + 0.1 * np.sin(9 * X)
NAN, INF = np.nan, np.inf


def decay(x, amp, rate):
    return amp * jnp.exp(-rate * x)


def plane(x, a, b):
    return a * x[0] + b * x[1]


def residual(p, x, y):
    return p[0] * jnp.exp(-p[1] * x) - y


def fit(**options):
    """A call of curve_fit that is fine but for `options`."""
    return curve_fit(**{"f": decay, "xdata": X, "ydata": Y, **options})


def minimise(**options):
    """The same of least_squares."""
    good = {"fun": residual, "x0": [1.0, 1.0], "args": (X, Y)}
    return least_squares(**{**good, **options})


def put(array, index, value):
    """A copy with one entry replaced."""
    array = np.array(array)
    array[index] = value
    return array


def complaint(text):
    """The pattern of a message that has all parts of `text`, in their order."""
    return "(?s)" + ".*".join(re.escape(word) for word in text.split(" ... "))


def refused(error, text, call=fit, **options):
    with pytest.raises(error, match=complaint(text)):
        call(**options)


def test_the_calls_that_the_others_spoil_are_fine():
    result, same = fit(), minimise()
    assert result.success and same.success
    np.testing.assert_allclose(result.popt, same.x, rtol=1e-6)


# --- Data ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"xdata": [], "ydata": []}, ValueError, "`ydata` must not be empty"),
        ({"ydata": np.zeros((0, 3))}, ValueError, "`ydata` must not be empty"),
        ({"ydata": {"a": []}}, ValueError, "`ydata` must not be empty"),
        ({"xdata": []}, ValueError, "`xdata` ... 0 ... `ydata` ... 12 ... each datum"),
        ({"xdata": X[:-1]}, ValueError, "`xdata` ... 11 ... `ydata` ... 12 ... each"),
        ({"xdata": put(X, 3, NAN)}, ValueError, "`xdata` is nan at index 3 ... omit"),
        ({"xdata": put(X, 3, -INF)}, ValueError, "`xdata` is -inf at index 3 ... omit"),
        ({"ydata": put(Y, 4, NAN)}, ValueError, "`ydata` is nan at index 4 ... omit"),
        ({"ydata": put(Y, [4, 7], INF)}, ValueError, "`ydata` is inf at index 4. "),
        (
            {"f": plane, "xdata": put(np.ones((2, M)), (1, 5), NAN)},
            ValueError,
            "`xdata` is nan at index (1, 5) ... nan_policy='omit'",
        ),
        (
            {"xdata": {"t": X, "u": put(X, 8, INF)}},
            ValueError,
            "`xdata['u']` is inf at index 8 ... nan_policy='omit'",
        ),
        (
            {"ydata": {"a": Y, "b": put(Y, 2, NAN)}},
            ValueError,
            "`ydata['b']` is nan at index 2 ... nan_policy='omit'",
        ),
        (
            {"ydata": put(Y, 4, NAN), "nan_policy": "raise"},
            ValueError,
            "The input contains nan values: `ydata` is nan at index 4 ... omit",
        ),
        ({"xdata": X + 0j}, TypeError, "`xdata` must be real, got complex128: fit re"),
        ({"ydata": Y + 1j}, TypeError, "`ydata` must be real, got complex128: fit re"),
        ({"sigma": 1j}, TypeError, "`sigma` must be real, got complex128"),
        ({"p0": [1j, 1]}, TypeError, "`p0` must be real, got complex128"),
        ({"xdata": "X"}, TypeError, "`xdata` must be an array or a number, got str"),
        ({"xdata": ["a"] * M}, ValueError, "`xdata` must hold numbers, got"),
        ({"ydata": "Y"}, ValueError, "`ydata` must hold numbers, got 'Y'"),
        ({"ydata": ["1"] * M}, ValueError, "`ydata` must hold numbers, got ['1'"),
        ({"sigma": "1"}, ValueError, "`sigma` must hold numbers, got '1'"),
        ({"p0": ["a", "b"]}, ValueError, "`p0` must hold numbers, got ['a', 'b']"),
    ],
)
def test_data(options, error, text):
    refused(error, text, **options)


def test_data_that_are_not_checked_are_found_by_the_fit():
    says = "Residuals are not finite in the initial point"
    refused(ValueError, says, ydata=put(Y, 4, NAN), check_finite=False)
    refused(ValueError, says, ydata=put(Y, 4, INF), nan_policy="raise")


def test_an_unknown_nan_policy():
    refused(ValueError, "nan_policy ... 'raise' ... 'omit' ... 's'", nan_policy="s")


# --- Sigma -----------------------------------------------------------------------

COVARIANCE = 0.01 * np.exp(-np.abs(np.subtract.outer(np.arange(M), np.arange(M))))


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, -INF])
def test_deviations_must_be_positive(bad):
    text = f"`sigma` must be positive and finite, got {bad}"
    refused(ValueError, text, sigma=bad)
    refused(ValueError, "`sigma` must be positive and finite, got inf", sigma=INF)
    refused(ValueError, f"{text} at index 2", sigma=put(np.ones(M), [2, 5], bad))
    # What nan_policy leaves out may have any deviation; the others may not.
    holed = {"ydata": put(Y, 1, NAN), "nan_policy": "omit"}
    sigma = put(np.ones(M), [1, 5], bad)
    refused(ValueError, f"{text} at index 5", sigma=sigma, **holed)


@pytest.mark.parametrize(
    "shape", [(11,), (13,), (2,), (M, M - 1), (M, 1), (1, M), (M, M, 1)]
)
def test_sigma_of_a_wrong_shape(shape):
    text = f"`sigma` has incorrect shape ... {shape} ... (12,) ... (M, M) covariance"
    refused(ValueError, text, sigma=np.ones(shape))


@pytest.mark.parametrize(
    ("sigma", "text"),
    [
        (np.ones((M, M)), "`sigma` must be positive definite ... eigenvalue"),
        (np.zeros((M, M)), "`sigma` must be positive definite ... eigenvalue"),
        (-COVARIANCE, "`sigma` must be positive definite ... eigenvalue"),
        (
            put(COVARIANCE, (2, 5), 0.0),
            "`sigma` must be symmetric ... at (2, 5) ... at (5, 2) ... covariance",
        ),
        (put(COVARIANCE, (3, 1), NAN), "`sigma` must be finite, got nan at ... (3, 1)"),
        (put(COVARIANCE, (7, 7), INF), "`sigma` must be finite, got inf at ... (7, 7)"),
    ],
    ids=["ones", "zeros", "negative", "skew", "nan", "inf"],
)
def test_covariances_of_the_data(sigma, text):
    refused(ValueError, text, sigma=sigma)


def test_a_covariance_is_singular_even_if_its_factor_is_finite_by_rounding():
    rng = np.random.default_rng(0)
    while True:
        half = rng.normal(size=(M, M - 1))
        sigma = half @ half.T
        try:
            np.linalg.cholesky(sigma)
        except np.linalg.LinAlgError:
            continue
        break
    refused(ValueError, "`sigma` must be positive definite", sigma=sigma)


# --- Starts and bounds -----------------------------------------------------------


@pytest.mark.parametrize(
    ("p0", "text"),
    [
        ([1.0], "`p0` has 1 ent ... wants 2 parameters (amp, rate): give one start"),
        ([1.0] * 3, "`p0` has 3 ent ... wants 2 parameters (amp, rate): give one"),
        ([], "`p0` has 0 ent ... wants 2 parameters (amp, rate): give one start"),
        (1.0, "`p0` has 1 ent ... wants 2 parameters (amp, rate): give one start"),
        ([[1.0, 1.0]], "`p0` must have one dimension, got shape (1, 2)"),
        ([1.0, NAN], "`p0` must be finite, got nan at index 1"),
        ([-INF, NAN], "`p0` must be finite, got -inf at index 0"),
        ("Auto", "`p0` must be ... 'auto', got 'Auto'"),
    ],
)
def test_starts(p0, text):
    refused(ValueError, text, p0=p0)


def test_starts_of_models_with_defaults_or_any_number_of_parameters():
    def model(x, a, b, c=0.0, *more):
        raise AssertionError("not to be traced")

    with pytest.raises(ValueError, match=r"`p0` has 1 ent.* 3 .*\(a, b, c, \.\.\.\)"):
        fit(f=model, p0=[1.0])
    for vague in (lambda x, *p: p[0] * x, lambda x: x):
        with pytest.raises(ValueError, match=r"number of fit parameters.*give `p0`"):
            fit(f=vague)


@pytest.mark.parametrize(
    ("bounds", "error", "text"),
    [
        (([0, 0, 0], 9), ValueError, "`bounds[0]` has shape (3,) for 2 ... amp, rate"),
        ((0, [9.0]), ValueError, "`bounds[1]` has shape (1,) for 2 ... amp, rate"),
        ((0, 1, 2), ValueError, "`bounds` must contain 2 elements ... (0, 1, 2)"),
        (3.0, ValueError, "`bounds` must contain 2 elements ... 3.0"),
        (
            ([0, 4], [4, 0]),
            ValueError,
            "less than each ... [4.0, 0.0] ... `rate` ... 1",
        ),
        ((0, [4, NAN]), ValueError, "`bounds` is NaN ... `rate` (index 1)"),
        ((NAN, 4), ValueError, "`bounds` is NaN ... `amp` (index 0)"),
        ((INF, INF), ValueError, "[inf, inf] for `amp` (index 0)"),
        ((0, "4"), ValueError, "`bounds[1]` must hold numbers"),
        ((0, 4j), TypeError, "`bounds[1]` must be real"),
    ],
)
def test_bounds(bounds, error, text):
    refused(error, text, bounds=bounds)
    refused(error, text.replace("amp, rate", "x[0], x[1]"), call=minimise_named(bounds))


def minimise_named(bounds):
    """least_squares has no names: `amp` is x[0] and `rate` is x[1]."""

    def call():
        try:
            minimise(bounds=bounds)
        except (TypeError, ValueError) as err:
            words = str(err).replace("`x[0]`", "`amp`").replace("`x[1]`", "`rate`")
            raise type(err)(words) from err

    return call


def test_a_start_outside_its_bounds_is_refused_or_clipped():
    bounds = ([0.0, 0.0], [4.0, 1.0])
    text = "`p0` has rate = 5.0 (index 1), outside [0.0, 1.0]"
    refused(ValueError, text, p0=[1, 5], bounds=bounds)
    text = "`x0` has x[1] = 5.0 (index 1), outside [0.0, 1.0]"
    refused(ValueError, text, call=minimise, x0=[1, 5], bounds=bounds)
    clipped = fit(p0=[1, 5], bounds=bounds, clip_p0=True)
    inside = fit(p0=[1, 0.5], bounds=bounds)
    np.testing.assert_allclose(clipped.popt, inside.popt, rtol=1e-6)
    assert clipped.active_mask.tolist() == [0, 1]


# --- The model -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (lambda x, a, b: a + b, ValueError, "returned shape () ... has (12,)"),
        (lambda x, a, b: decay(x, a, b)[:1], ValueError, "(1,) ... has (12,)"),
        (lambda x, a, b: decay(x, a, b)[:-1], ValueError, "(11,) ... has (12,)"),
        (lambda x, a, b: decay(x, a, b)[:, None], ValueError, "(12, 1) ... (12,)"),
        (lambda x, a, b: {"y": decay(x, a, b)}, ValueError, "structure ... 'y'"),
        (lambda x, a, b: None, ValueError, "structure ... None"),
        (lambda x, a, b: decay(x, a, 1j * b), TypeError, "must be real, got complex"),
        (lambda x, a, b: a * undefined, NameError, "name 'undefined'"),
        (3, TypeError, "must be callable, got int"),
    ],
    ids="scalar one short column dict none complex undefined number".split(),  # noqa: SIM905
)
def test_models(model, error, text):
    """A scalar or a single value would be broadcast; nothing but (12,) is data."""
    refused(error, text, f=model)


def test_a_model_that_is_not_finite_at_the_start():
    def root(x, a, b):
        return a * jnp.sqrt(x - b)

    text = (
        "f(xdata, *p0) is nan at index 0, with a=1, b=1. Give another `p0`, or bounds"
    )
    refused(ValueError, text, f=root)
    text = "f(xdata, *p0) is nan at index 2, with a=1, b=0.4. Give another `p0`"
    refused(ValueError, text, f=root, xdata=put(X, [0, 1], 3.0), p0=[1.0, 0.4])


@pytest.mark.parametrize(
    "options",
    [
        {"f": lambda x, a, b: a * np.exp(-b * x)},
        {"f": lambda x, a, b: float(a) * jnp.exp(-b * x)},
        {"f": lambda x, a, b: decay(x, a, b) if b > 0 else a * x},
        {"f": lambda x, a, b: a * x[x > b].sum() * x},
    ],
    ids=["numpy", "float", "if", "boolean"],
)
def test_a_model_that_cannot_be_traced_is_told_where_and_what_to_do(options):
    with pytest.raises(TypeError) as caught:
        fit(**options, host="refuse")
    says = str(caught.value)
    line = options["f"].__code__.co_firstlineno
    assert f"line {line} of {__file__}" in says
    for word in ("`f` cannot be traced", "jax.numpy", "jaxfit.from_numpy"):
        assert word in says


def test_residuals_and_jacobians_that_cannot_be_traced_are_named():
    def numpy_residual(p, x, y):
        return p[0] * np.exp(-p[1] * x) - y

    def numpy_jacobian(x, a, b):
        return np.stack([np.exp(-b * x), -a * x * np.exp(-b * x)], axis=1)

    text = (
        "`fun` cannot be traced ... `return p[0] * np.exp(-p[1] * x) - y` ... from_nu"
    )
    asked = {"host": "refuse"}
    refused(TypeError, text, call=minimise, fun=numpy_residual, **asked)
    says = "`jac` cannot be traced ... from_numpy"
    refused(TypeError, says, jac=numpy_jacobian, **asked)
    loss = lambda z: np.log1p(z)  # noqa: E731
    refused(TypeError, "`loss` cannot be traced", loss=loss, **asked)


class Disaster(Exception):
    """Nothing that jaxfit or JAX would raise."""


@pytest.mark.parametrize("when", ["at the start", "later", "watched", "in jac"])
def test_an_exception_inside_a_numpy_model_is_raised_as_it_was(when):
    def model(x, a, b):
        if when == "at the start" or (a != 1 and when != "in jac"):
            raise Disaster("at", a)
        return a * np.exp(-b * x)

    def jac(x, a, b):
        raise Disaster("in jac")

    host = from_numpy(model, jac=jac if when == "in jac" else None)
    with pytest.raises(Disaster):
        fit(f=host, p0=[1.0, 1.0], verbose=int(when == "watched"))


def test_an_exception_inside_a_numpy_residual_is_raised_as_it_was():
    def fun(p, x, y):
        if p[0] != 1:
            raise Disaster
        return p[0] * np.exp(-p[1] * x) - y

    with pytest.raises(Disaster):
        minimise(fun=from_numpy(fun))


@pytest.mark.parametrize(
    ("jac", "text"),
    [
        (lambda x, a, b: jnp.ones((M, 3)), "`jac` ... each of the 2 par ... (12, 3)"),
        (lambda x, a, b: jnp.ones(M), "`jac` ... each of the 2 par ... (12,)"),
        (lambda x, a, b: jnp.ones((M - 1, 2)), "`jac ... (11, 2) ... (12, 2)"),
        (lambda x, a, b: jnp.ones((2, M)), "`jac` ... each of the 2 par ... (2, 12)"),
    ],
    ids=["wide", "vector", "short", "transposed"],
)
def test_a_jacobian_of_a_wrong_shape(jac, text):
    refused(ValueError, text, jac=jac)
    text = text.replace("each of the 2 par", "2 columns")
    refused(ValueError, text, call=minimise, jac=lambda p, x, y: jac(x, *p))


@pytest.mark.parametrize("name", ["xdata", "ydata", "sigma", "p0"])
def test_a_call_inside_jit_is_told_of_the_kernel(name):
    value = {"xdata": X, "ydata": Y, "sigma": Y, "p0": np.ones(2)}[name]
    with pytest.raises(TypeError, match=rf"`{name}` is traced.*curve_problem"):
        jax.jit(lambda v: fit(**{name: v})[0])(value)
    if name == "ydata":
        with pytest.raises(TypeError, match=r"`ydata` is traced.*curve_problem"):
            jax.vmap(lambda y: fit(ydata=y)[0])(jnp.stack([Y, Y]))


@pytest.mark.parametrize("door", ["curve_fit", "least_squares"])
def test_a_model_that_captures_a_tracer_is_told_of_the_kernel(door):
    def call(weight):
        if door == "curve_fit":
            return fit(f=lambda x, a, b: weight * decay(x, a, b)).popt
        return minimise(fun=lambda p, x, y: weight * residual(p, x, y)).x

    with pytest.raises(TypeError, match=r"traced.*jaxfit\.solve"):
        jax.jit(call)(2.0)


@pytest.mark.parametrize("name", ["x0", "args", "bounds"])
def test_least_squares_inside_jit_is_told_of_the_kernel(name):
    def call(v):
        value = {"x0": v, "args": (X, v), "bounds": (v, 9.0)}[name]
        return minimise(**{name: value}).x

    value = Y if name == "args" else np.zeros(2)
    with pytest.raises(TypeError, match=rf"`{name}.* is traced.*jaxfit\.solve"):
        jax.jit(call)(value)


# --- Options ---------------------------------------------------------------------


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


# --- Outcomes --------------------------------------------------------------------


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
