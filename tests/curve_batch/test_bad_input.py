"""What a caller of `curve_fit_batch` can get wrong.

Every message names the argument, which fit or element where that is to be known, and a
way out. What is wrong with the numbers of one fit is its status instead: see
test_status.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import refusals
from refusals import put
from scipy.optimize import OptimizeWarning

from jaxfit import curve_fit_batch, from_numpy


pytestmark = pytest.mark.usefixtures("without_type_checks")
M, SHAPE = 12, (2, 3)
X = np.linspace(0.0, 2.0, M)
Y = np.linspace(1.0, 2.0, 6).reshape(*SHAPE, 1) * np.exp(-1.3 * X)
NAN, INF = np.nan, np.inf
LENGTHS = [5, 7, 12]
XL = [X[:k] for k in LENGTHS]
YL = [y[:k] for y, k in zip(Y[0], LENGTHS, strict=True)]


def decay(x, amp, rate):
    return amp * jnp.exp(-rate * x)


def fit(**options):
    """A call that is fine but for `options`."""
    good = {"f": decay, "xdata": X, "ydata": Y, "p0": [1.0, 1.0]}
    return curve_fit_batch(**{**good, **options})


def listed(**options):
    """The same with a list of unequal lengths."""
    return fit(**{"xdata": XL, "ydata": YL, **options})


def refused(error, text, call=fit, **options):
    refusals.refused(error, text, call, **options)


def test_the_calls_that_the_others_spoil_are_fine():
    result = fit()
    assert result.success.all()
    np.testing.assert_allclose(result.popt[..., 1], 1.3, rtol=1e-6)
    result = listed()
    assert result.success.all() and result.shape == (3,)


# --- Data -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"ydata": 1.0}, ValueError, "`ydata` must have the data of a fit along its l"),
        ({"ydata": []}, ValueError, "`ydata` ... at least one fit, got shape (0,)"),
        ({"ydata": np.zeros((0, M))}, ValueError, "`ydata` ... got shape (0, 12)"),
        ({"ydata": np.zeros((3, 0))}, ValueError, "`ydata` ... got shape (3, 0)"),
        ({"ydata": Y + 1j}, TypeError, "`ydata` must be real, got complex128: fit re"),
        ({"ydata": "Y"}, ValueError, "`ydata` must hold numbers, got 'Y'"),
        ({"ydata": [["1"]]}, ValueError, "`ydata` must hold numbers, got [['1'"),
        ({"xdata": X + 0j}, TypeError, "`xdata` must be real, got complex128"),
        ({"xdata": ["a"] * M}, ValueError, "`xdata` must hold numbers"),
        ({"xdata": {}}, ValueError, "`xdata` holds no array"),
        ({"xdata": None}, ValueError, "`xdata` holds no array"),
        (
            {"xdata": X[:-1]},
            ValueError,
            "`xdata` has shape (11,), neither shared by all fits, (12,) or (k, 12), "
            "nor per fit, (2, 3, 12) or (2, 3, 'k', 12)",
        ),
        ({"xdata": 1.0}, ValueError, "`xdata` has shape (), neither shared"),
        ({"xdata": Y.T}, ValueError, "`xdata` has shape (12, 3, 2), neither shared"),
        ({"xdata": Y[None]}, ValueError, "`xdata` has shape (1, 2, 3, 12), neither"),
        (
            {"xdata": np.ones((3, 2, M))},
            ValueError,
            "`xdata` has shape (3, 2, 12), neither shared ... nor per fit",
        ),
        (
            {"xdata": Y, "shared_x": True},
            ValueError,
            "`xdata` has shape (2, 3, 12), neither shared",
        ),
        (
            {"xdata": {"t": X, "u": X[1:]}},
            ValueError,
            "`xdata['u']` has shape (11,), neither shared by all fits",
        ),
        ({"xdata": (X, Y[:, 1:])}, ValueError, "`xdata[1]` has shape (2, 2, 12)"),
    ],
)
def test_data(options, error, text):
    refused(error, text, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"sigma": np.ones(5)},
            ValueError,
            "`sigma` has shape (5,) ... (12,) ... (12, 12) ... (2, 3, 12) or (2, 3, 1)",
        ),
        ({"sigma": np.ones((3, 2, M))}, ValueError, "`sigma` has shape (3, 2, 12)"),
        ({"sigma": 0.0}, ValueError, "`sigma` must be positive and finite"),
        ({"sigma": -X - 1}, ValueError, "`sigma` must be positive and finite"),
        ({"sigma": put(X + 1, 3, NAN)}, ValueError, "`sigma` must be positive and fin"),
        ({"sigma": -np.eye(M)}, ValueError, "`sigma` must be positive definite"),
        ({"sigma": "1"}, ValueError, "`sigma` must hold numbers, got '1'"),
        ({"sigma": 1j}, TypeError, "`sigma` must be real, got complex128"),
        (
            {"sigma": put(put(np.eye(M), (0, 1), 5), (1, 0), 5)},
            ValueError,
            "`sigma` must be positive definite",
        ),
        (
            {"sigma": put(np.eye(M), (0, 1), 0.5)},
            ValueError,
            "`sigma` must be symmetric",
        ),
        ({"mask": np.ones(M, int)}, TypeError, "`mask` must be boolean, got int64"),
        ({"mask": "mask"}, TypeError, "`mask` must be boolean"),
        (
            {"mask": np.ones(5, bool)},
            ValueError,
            "`mask` has shape (5,): give (12,) for all fits or (2, 3, 12) per fit",
        ),
        ({"mask": np.ones((3, M), bool)}, ValueError, "`mask` has shape (3, 12)"),
    ],
)
def test_sigma_and_mask(options, error, text):
    refused(error, text, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"xdata": X}, ValueError, "`xdata` must be a list of 3 arrays, like `ydata`"),
        ({"xdata": XL[:2]}, ValueError, "`xdata` must be a list of 3 arrays"),
        (
            {"xdata": [XL[0], X[:6], XL[2]]},
            ValueError,
            "`xdata[1]` has shape (6,) for 7 data in `ydata[1]`",
        ),
        (
            {"xdata": [np.ones((2, 5)), *XL[1:]]},
            ValueError,
            "`xdata[1]` has shape (7,)",
        ),
        (
            {"ydata": [YL[0], Y[0], YL[2]]},
            ValueError,
            "`ydata` is a list of unequal lengths, and `ydata[1]` has shape (3, 12)",
        ),
        ({"sigma": YL[:2]}, ValueError, "`sigma` must be a list of 3 arrays"),
        (
            {"sigma": [YL[0], YL[1], YL[1]]},
            ValueError,
            "`sigma[2]` has shape (7,) for 12 data in `ydata[2]`",
        ),
        ({"mask": [X[:5] > 1]}, ValueError, "`mask` must be a list of 3 arrays"),
        ({"mask": X > 1}, ValueError, "`mask` must be a list of 3 arrays"),
        (
            {"mask": [x[1:] > 1 for x in XL]},
            ValueError,
            "`mask[0]` has shape (4,) for 5 data",
        ),
        (
            {"mask": [np.ones(k, int) for k in LENGTHS]},
            TypeError,
            "`mask ... must be boolean, got int",
        ),
        (
            {"ydata": [YL[0] + 1j, *YL[1:]]},
            TypeError,
            "`ydata ... must be real, got complex128",
        ),
        (
            {"xdata": [XL[0] + 1j, *XL[1:]]},
            TypeError,
            "`xdata ... must be real, got complex128",
        ),
        (
            {"ydata": [["a"] * k for k in LENGTHS]},
            ValueError,
            "`ydata ... must hold numbers",
        ),
    ],
)
def test_lists_of_unequal_lengths(options, error, text):
    refused(error, text, listed, **options)


# --- Starts, bounds, what is fixed ------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"p0": None}, ValueError, "`p0` is missing ... 'auto' ... 'neighbours'"),
        ({"p0": [1.0]}, ValueError, "`p0` has 1 entries ... 2 parameters (amp, rate)"),
        ({"p0": 1.0}, ValueError, "`p0` has 1 entries ... 2 parameters (amp, rate)"),
        ({"p0": [1, 2, 3]}, ValueError, "`p0` has 3 entries ... 2 parameters"),
        (
            {"p0": np.ones((3, 2, 2))},
            ValueError,
            "`p0` has shape (3, 2, 2) for 2 parameters: give (2,) ... or (2, 3, 2) per",
        ),
        ({"p0": [1, NAN]}, ValueError, "`p0` must be finite, got nan at 1"),
        ({"p0": [-INF, 1]}, ValueError, "`p0` must be finite, got -inf at 0"),
        ({"p0": [1j, 1]}, TypeError, "`p0` must be real"),
        ({"p0": ["a", "b"]}, ValueError, "`p0` must hold numbers"),
        ({"p0": "guess"}, ValueError, "`p0` ... 'auto' or 'neighbours', got 'guess'"),
        (
            {"p0": "neighbours", "start": "guess"},
            ValueError,
            "`start` must be numbers or 'auto', got 'guess'",
        ),
        (
            {"p0": "neighbours", "start": [1.0, NAN]},
            ValueError,
            "`start` must be finite, got nan at 1",
        ),
        ({"p0": "neighbours", "start": [1.0]}, ValueError, "`start` has 1 entries"),
        (
            {"p0": [2.0, 1.0], "bounds": (0, [1.0, 5.0])},
            ValueError,
            "`p0` has amp = 2.0 (index 0), outside [0.0, 1.0]",
        ),
        (
            {"f": lambda x, *p: x * p[0], "p0": "auto"},
            ValueError,
            "names no parameters ... `p0`",
        ),
        ({"bounds": None}, ValueError, "`bounds` must contain 2 elements"),
        ({"bounds": [0, 1, 2]}, ValueError, "`bounds` must contain 2 elements"),
        ({"bounds": "no"}, ValueError, "`bounds` must contain 2 elements"),
        (
            {"bounds": (0, [1.0, 2.0, 3.0])},
            ValueError,
            "`bounds[1]` has shape (3,) for 2 parameters: give (2,) ... (2, 3, 2)",
        ),
        ({"bounds": (np.ones((3, 2)), 9)}, ValueError, "`bounds[0]` has shape (3, 2)"),
        ({"bounds": ("a", 9)}, ValueError, "`bounds[0]` must hold numbers"),
        (
            {"bounds": ([0.0, 2.0], [5.0, 1.0])},
            ValueError,
            "Each lower bound ... got [2.0, 1.0] for `rate` (index 1).",
        ),
        ({"bounds": (NAN, 5.0)}, ValueError, "`bounds` is NaN, got [nan, 5.0] for `am"),
        ({"bounds": (INF, INF)}, ValueError, "Each lower bound ... [inf, inf] for `am"),
        (
            {"bounds": (0.0, put(np.full((*SHAPE, 2), 9.0), (1, 2, 1), -1.0))},
            ValueError,
            "Each lower bound ... got [0.0, -1.0] for `rate` (index 1) of fit ",
        ),
        (
            {"bounds": (0.0, put(np.full((*SHAPE, 2), 9.0), (1, 2, 1), -1.0))},
            ValueError,
            "for `rate` (index 1) of fit (1, 2)",
        ),
        (
            {"fixed": {"rates": 1.0}},
            ValueError,
            "`fixed` names `rates` ... (amp, rate). Did you mean `rate`?",
        ),
        ({"fixed": {"amp": 1, "rate": 1}}, ValueError, "`fixed` leaves no parameter f"),
        ({"fixed": [True, True]}, ValueError, "`fixed` leaves no parameter free"),
        ({"fixed": [True]}, ValueError, "`fixed` must be a dictionary ... 2 booleans"),
        ({"fixed": [1, 0]}, ValueError, "`fixed` must be a dictionary ... 2 booleans"),
        ({"fixed": {"amp": NAN}}, ValueError, "`fixed['amp']` must be one finite num"),
        ({"fixed": {"amp": Y}}, ValueError, "`fixed['amp']` must be one finite number"),
        ({"fixed": {"amp": "a"}}, ValueError, "`fixed['amp']` must hold numbers"),
    ],
)
def test_starts_bounds_and_what_is_fixed(options, error, text):
    refused(error, text, **options)


# --- Options ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lanes": 0}, ValueError, "`lanes` must be at least 1, got 0"),
        ({"lanes": 1.5}, TypeError, "`lanes` must be an integer, got 1.5"),
        ({"slice_size": 0}, ValueError, "`slice_size` must be at least 1, got 0"),
        ({"slice_size": "a"}, TypeError, "`slice_size` must be an integer, got 'a'"),
        ({"devices": 0}, ValueError, "`devices` must be at least 1, got 0"),
        ({"devices": 99}, ValueError, "`devices` is 99 but there are 8"),
        ({"devices": "cpu"}, (TypeError, ValueError), "`devices` ... 'cpu'"),
        (
            {"dtype": "float16"},
            ValueError,
            "`dtype` must be float32 or float64, got 'f",
        ),
        ({"dtype": int}, ValueError, "`dtype` must be float32 or float64, got <class"),
        (
            {"dtype": "single precision"},
            (TypeError, ValueError),
            "`dtype` must be float32 or float64",
        ),
        (
            {"polish": True, "dtype": "float64"},
            ValueError,
            "`polish` is for fits in float32: leave `dtype` out",
        ),
        ({"jac": "3-point"}, TypeError, "`jac` must be callable, or None"),
        ({"jac": 3}, TypeError, "`jac` must be callable, or None"),
        (
            {"jac": lambda x, amp, rate: jnp.stack([x, x])},
            ValueError,
            "`jac` has wrong shape ... 2 parameters ... (2, 12)",
        ),
        ({"nan_policy": "raise"}, ValueError, "`nan_policy` ... 'omit' ... 'raise'"),
        ({"loss": "square"}, ValueError, "`loss` must be one of ... got 'square'"),
        ({"f_scale": 0}, ValueError, "`f_scale` must be positive and finite, got 0"),
        ({"ftol": -1.0}, ValueError, "`ftol` must be finite and not negative"),
        ({"xtol": "a"}, TypeError, "`xtol` must be a number or None"),
        ({"gtol": NAN}, ValueError, "`gtol` must be finite and not negative"),
        ({"x_scale": -1.0}, ValueError, "`x_scale` must be 'jac' or"),
        ({"x_scale": [1.0] * 3}, ValueError, "`x_scale` ... (3,) for 2 parameters"),
        ({"max_nfev": 0}, ValueError, "`max_nfev` must be None or positive integer"),
        ({"max_nfev": 2.5}, ValueError, "`max_nfev` must be None or positive integer"),
        ({"p_0": [1, 1]}, TypeError, "unexpected keyword argument 'p_0'"),
        ({"method": "lm"}, TypeError, "unexpected keyword argument 'method'"),
        ({"check_finite": True}, TypeError, "unexpected keyword argument 'check_f"),
    ],
)
def test_options(options, error, text):
    refused(error, text, **options)


@pytest.mark.filterwarnings("ignore", category=OptimizeWarning)
@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        (3, TypeError, "`f` must be callable, got int"),
        (None, TypeError, "`f` must be callable, got NoneType"),
        (
            from_numpy(lambda x, amp, rate: amp * np.exp(-rate * x)),
            ValueError,
            "`f` is a NumPy function ... jax.numpy ... curve_fit in a loop",
        ),
        (
            lambda x, amp, rate: amp * np.exp(-rate * x),
            TypeError,
            "`f` cannot be traced by JAX at line ... test_bad_input.py",
        ),
        (
            lambda x, amp, rate: amp * x[1:] + rate,
            ValueError,
            "returned shape (11,) ... has (12,) ... one prediction for each datum",
        ),
        (lambda x, amp, rate: amp + rate, ValueError, "returned shape () ... (12,)"),
    ],
)
def test_models(f, error, text):
    refused(error, text, f=f)


# --- Tracers ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ydata", Y),
        ("sigma", X + 1),
        ("p0", np.ones(2)),
        ("xdata", X),
        ("mask", X > 1),
    ],
)
def test_what_jax_traces_is_refused_by_name(name, value):
    """The message leads to the kernel, which is traced."""
    call = jax.jit(lambda value: fit(**{name: value}).popt)
    refused(TypeError, f"`{name}` is traced by JAX ... jaxfit.solve", call, value=value)


def test_bounds_and_models_that_jax_traces_are_refused():
    call = jax.jit(lambda value: fit(bounds=(value, INF)).popt)
    refused(TypeError, "`bounds[0]` is traced by JAX", call, value=np.zeros(2))
    call = jax.jit(lambda value: fit(f=lambda x, a, b: a * x + b * value).popt)
    refused(TypeError, "captures a value that is traced by JAX", call, value=1.0)
