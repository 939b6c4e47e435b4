"""Whatever a user can get wrong raises at the door and names the argument."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import complaint

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem


pytestmark = pytest.mark.usefixtures("without_type_checks")

T = np.linspace(0.0, 1.0, 6)
Y = np.exp(-T)
START = np.array([1.0, 1.0])
NAN, INF = np.nan, np.inf


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x)


def residual(p, args):
    del args
    return decay(T, p) - Y


def curve(**options):
    """A problem that is fine but for `options`."""
    good = {"model": decay, "x": T, "y": Y, "params": START}
    return curve_problem(**{**good, **options})


def test_the_problem_that_the_others_spoil_is_fine():
    assert jaxfit.solve(curve()).success


# --- The problem -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": 3}, TypeError, "`model` must be callable, got int"),
        ({"model": None}, TypeError, "`model` must be callable, got NoneType"),
        ({"loss": "l2"}, ValueError, "`loss` must be one of ... 'cauchy' ... 'l2'"),
        ({"loss": ""}, ValueError, "`loss` must be one of"),
        ({"loss": 2}, TypeError, "`loss` must be one of ... got"),
        ({"f_scale": 0.0}, ValueError, "`f_scale` must be positive ... 0.0"),
        ({"f_scale": -1}, ValueError, "`f_scale` must be positive ... -1"),
        ({"f_scale": NAN}, ValueError, "`f_scale` must be positive ... nan"),
        ({"f_scale": INF}, ValueError, "`f_scale` must be positive and finite"),
        ({"f_scale": [1, 1]}, ValueError, "`f_scale` must be one number ... (2,)"),
        ({"f_scale": np.ones(6)}, ValueError, "`f_scale` must be one number ... (6,)"),
    ],
)
def test_functions_and_losses(options, error, text):
    with pytest.raises(error, match=complaint(text)):
        curve(**options)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        (np.array([1 + 0j, 1]), TypeError, "`params` must be real, got complex128"),
        ({"a": 1.0, "b": 1j}, TypeError, "`params['b']` must be real, got complex"),
        ({"a": 1.0, "b": "1"}, TypeError, "`params['b']` must be an array ... str"),
        ("1", TypeError, "`params` must be an array or a number, got str"),
        ((1.0, {1.0}), TypeError, "`params[1]` must be an array ... set"),
        (np.zeros(0), ValueError, "`params` holds no numbers: ... nothing to fit"),
        ({}, ValueError, "`params` holds no numbers"),
        (None, ValueError, "`params` holds no numbers"),
        ((np.zeros((0, 3)), {"a": None}), ValueError, "`params` holds no numbers"),
    ],
)
def test_parameters(params, error, text):
    for make in (Problem, curve_problem):
        arguments = (residual,) if make is Problem else (decay, T, Y)
        with pytest.raises(error, match=complaint(text)):
            make(*arguments, params)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"x": T + 0j}, TypeError, "`x` must be real, got complex128: fit real and"),
        ({"x": {"t": T, "u": "u"}}, TypeError, "`x['u']` must be an array ... str"),
        ({"y": Y + 1j}, TypeError, "`y` must be real, got complex128"),
        ({"y": "Y"}, TypeError, "`y` must be an array or a number, got str"),
        ({"y": np.zeros(0)}, ValueError, "`y` is empty"),
        ({"y": {"a": np.zeros((3, 0))}}, ValueError, "`y` is empty"),
        ({"y": ()}, ValueError, "`y` is empty"),
        ({"sigma": 1j}, TypeError, "`sigma` must be real"),
        ({"sigma": "1"}, TypeError, "`sigma` must be an array or a number, got str"),
        ({"sigma": np.ones(5)}, ValueError, "`sigma` ... (5,) ... `y` ... (6,)"),
        ({"sigma": np.ones((6, 1))}, ValueError, "`sigma` ... (6, 1) ... `y` ... (6,)"),
        ({"sigma": (1.0, 1.0)}, ValueError, "`sigma` ... prefix of `y`"),
        ({"mask": np.ones(5, bool)}, ValueError, "`mask` ... (5,) ... `y` ... (6,)"),
        ({"mask": np.ones(6)}, TypeError, "`mask` must be boolean, got float64"),
        ({"mask": np.ones(6, int)}, TypeError, "`mask` must be boolean, got int64"),
        ({"mask": ([True] * 6,)}, ValueError, "`mask` ... prefix of `y`"),
    ],
)
def test_data(options, error, text):
    with pytest.raises(error, match=complaint(text)):
        curve(**options)


def test_complex_args_are_refused_by_name():
    with pytest.raises(TypeError, match=r"`args\[0\]\['t'\]` must be real"):
        Problem(residual, START, ({"t": 1j},))


# --- Bounds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "error", "text"),
    [
        (((2.0, 2.0), 3.0), ValueError, "`bounds[0]` ... prefix of `params`"),
        (3.0, (TypeError, ValueError), "`bounds` ... 3.0"),
        ((1.0,), (TypeError, ValueError), "`bounds` ... (1.0,)"),
        ((0.0, 1.0, 2.0), (TypeError, ValueError), "`bounds` ... (0.0, 1.0, 2.0)"),
        ((np.zeros(3), 2.0), ValueError, "`bounds[0]` ... (3,) ... `params` ... (2,)"),
        ((0.0, np.ones((1, 2))), ValueError, "`bounds[1]` ... (1, 2) ... `params`"),
        ((0.0, 1j), TypeError, "`bounds[1]` must be real"),
        (("0", 1.0), TypeError, "`bounds[0]` must be an array or a number, got str"),
        (
            (2.0, 0.0),
            ValueError,
            "`bounds` has lower > upper at params[0]: lower 2.0, upper 0.0",
        ),
        (
            (np.array([0.0, 2.0]), 1.5),
            ValueError,
            "lower > upper at params[1]: lower 2.0, upper 1.5",
        ),
        ((NAN, 2.0), ValueError, "`bounds` is NaN at params[0]"),
        ((0.0, np.array([2.0, NAN])), ValueError, "`bounds` is NaN at params[1]"),
        ((INF, INF), ValueError, "`bounds` is infinite on both sides at params[0]"),
        (
            (1.5, 2.0),
            ValueError,
            "`params` is outside `bounds` at params[0]: start 1.0, lower 1.5",
        ),
        (
            (-INF, np.array([2.0, 0.9])),
            ValueError,
            "outside ... params[1]: start 1.0, lower -inf, upper 0.",
        ),
    ],
)
def test_bounds(bounds, error, text):
    for make in (Problem, curve_problem):
        arguments = (residual,) if make is Problem else (decay, T, Y)
        with pytest.raises(error, match=complaint(text)):
            make(*arguments, START, bounds=bounds)


def test_a_parameter_in_a_tree_is_named_by_its_path():
    params = {"amp": 1.0, "rest": [np.array([1.0, 2.0, 3.0])]}
    bounds = (0.0, {"amp": 2.0, "rest": [np.array([2.0, 2.5, 2.5])]})
    text = "params['rest'][0][2]: start 3.0, lower 0.0, upper 2.5"
    with pytest.raises(ValueError, match=re.escape(text)):
        Problem(residual, params, bounds=bounds)


def test_a_start_that_is_nan_is_an_outcome_within_bounds():
    problem = curve(params=np.array([NAN, 1.0]), bounds=(0.0, 2.0))
    assert jaxfit.solve(problem).status == Status.INFEASIBLE_START


def test_bounds_touching_the_start_or_each_other_are_fine():
    problem = curve(bounds=(np.array([1.0, 1.0]), np.array([1.0, INF])))
    np.testing.assert_array_equal(problem.lower, [1.0, 1.0])


def test_plain_lists_of_numbers_are_arrays():
    """SciPy's way to write data and bounds."""
    problem = jaxfit.curve_problem(
        lambda x, p: p[0] * x + p[1],
        [0.0, 1.0, 2.0],
        [1, 3, 5],
        np.ones(2),
        mask=[True, True, True],
        bounds=([0, 0], [9, 9]),
    )
    np.testing.assert_allclose(jaxfit.solve(problem).params, [2.0, 1.0], rtol=1e-6)


# --- Sigma -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, -INF])
def test_sigma_must_be_positive_where_it_counts(bad):
    sigma = np.where(np.arange(6) == 4, bad, 1.0)
    with pytest.raises(ValueError, match=rf"`sigma` .* got {bad} at index 4"):
        curve(sigma=sigma)
    with pytest.raises(ValueError, match="`sigma` must be positive and finite"):
        curve(sigma=bad)
    with pytest.raises(ValueError, match="`sigma` must be positive and finite"):
        curve(sigma=sigma, mask=np.arange(6) != 3)
    problem = curve(sigma=sigma, mask=np.arange(6) != 4)
    np.testing.assert_array_equal(problem.args.sigma, 1.0)


def test_sigma_of_several_outputs_is_looked_at_leaf_by_leaf():
    y = {"a": Y, "b": Y}
    sigma = {"a": np.ones(6), "b": np.zeros(6)}
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        curve(y=y, sigma=sigma)
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        curve(y=y, sigma=sigma, mask={"a": np.array(False), "b": np.array(True)})
    problem = curve(y=y, sigma=sigma, mask={"a": np.array(True), "b": np.array(False)})
    np.testing.assert_array_equal(problem.args.sigma["b"], 1.0)


# --- Shapes, found when the function is traced -----------------------------------


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (lambda x, p: p[0] * 1.0, ValueError, "`model` returned shape () ... `y`"),
        (
            lambda x, p: decay(x, p)[:-1],
            ValueError,
            "`model` ... (5,) ... `y` ... (6,)",
        ),
        (
            lambda x, p: decay(x, p)[:, None],
            ValueError,
            "`model` returned shape (6, 1)",
        ),
        (lambda x, p: {"a": decay(x, p)}, ValueError, "`model` ... structure ... `y`"),
        (lambda x, p: None, ValueError, "`model` ... structure ... `y`"),
        (lambda x, p: decay(x, p) + 0j, TypeError, "residual must be real ... complex"),
    ],
    ids=["scalar", "short", "column", "dict", "none", "complex"],
)
def test_a_model_must_predict_y(model, error, text):
    with pytest.raises(error, match=complaint(text)):
        jax.eval_shape(jaxfit.solve, curve(model=model))


def test_x_is_free():
    """Predictors may have any shape, or be absent: only the predictions count."""

    def model(x, p):
        return p[0] * jnp.ones(6) + p[1] * jnp.sum(x["u"]) / x["v"]

    for x in ({"u": np.ones((2, 9)), "v": 3}, {"u": np.ones(11), "v": np.float32(1)}):
        shape = jax.eval_shape(jaxfit.solve, curve(model=model, x=x))
        assert shape.params.shape == (2,)
    nothing = curve(model=lambda x, p: decay(T, p), x=())
    assert jax.eval_shape(jaxfit.solve, nothing).params.shape == (2,)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (lambda p: p + 1j, TypeError, "residual must be real, got complex128"),
        (lambda p: jnp.zeros(0), ValueError, "residual is empty (m = 0)"),
        (lambda p: (), ValueError, "residual is empty (m = 0)"),
    ],
    ids=["complex", "empty", "nothing"],
)
def test_a_residual_must_be_real_numbers(value, error, text):
    with pytest.raises(error, match=complaint(text)):
        jaxfit.solve(Problem(lambda p, _: value(p), START))


def test_a_mask_of_a_residual_must_have_its_size():
    problem = Problem(residual, START, mask=np.ones(5, bool))
    with pytest.raises(ValueError, match="`mask` has 5 entries for 6 residuals"):
        jaxfit.solve(problem)
    with pytest.raises(TypeError, match="`mask` must be boolean, got float64"):
        Problem(residual, START, mask=np.ones(6))


@pytest.mark.parametrize(
    ("jacobian", "text"),
    [
        (lambda x, p: jnp.ones((6, 3)), "`jacobian` ... (6, 2)"),
        (lambda x, p: jnp.ones((5, 2)), "`jacobian` ... (5, 2) ... (6, 2)"),
        (lambda x, p: jnp.ones((2, 6)), "`jacobian` ... (6, 2)"),
        (lambda x, p: jnp.ones(7), "`jacobian` ... (6, 2)"),
        (lambda x, p: jnp.ones(()), "`jacobian` ... (6, 2)"),
    ],
    ids=["wide", "short", "transposed", "vector", "scalar"],
)
def test_a_jacobian_must_have_the_shape_of_one(jacobian, text):
    with pytest.raises(ValueError, match=complaint(text)):
        jax.eval_shape(jaxfit.solve, curve(), TRF(jacobian=jacobian))


def test_a_jacobian_must_have_a_block_for_each_leaf():
    problem = Problem(lambda p, _: p["a"] * T - p["b"] * Y, {"a": 1.0, "b": 1.0})
    solver = TRF(jacobian=lambda p, _: {"a": T})
    with pytest.raises(ValueError, match="`jacobian` returned 1 arrays for 2 leaves"):
        jax.eval_shape(jaxfit.solve, problem, solver)


# --- The solver and the door -----------------------------------------------------


@pytest.mark.parametrize("name", ["ftol", "xtol", "gtol", "atol"])
@pytest.mark.parametrize("bad", [-1e-8, NAN, INF, np.float64(-1.0)])
def test_tolerances_must_be_numbers_from_zero_up(name, bad):
    with pytest.raises(ValueError, match=rf"`{name}` must be finite and not negative"):
        TRF(**{name: bad})


@pytest.mark.parametrize("name", ["ftol", "xtol", "gtol", "atol"])
def test_a_tolerance_of_no_number_is_refused(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a number"):
        TRF(**{name: "1e-8"})


@pytest.mark.parametrize("name", ["max_steps", "trials", "cg_steps"])
@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (0, ValueError, "must be at least 1, got 0"),
        (-3, ValueError, "must be at least 1, got -3"),
        (1.5, TypeError, "must be an integer, got 1.5"),
        (10.0, TypeError, "must be an integer, got 10.0"),
        ("10", TypeError, "must be an integer, got '10'"),
        (None, TypeError, "must be an integer, got None"),
    ],
)
def test_counts_must_be_positive_integers(name, bad, error, text):
    with pytest.raises(error, match=f"`{name}` {text}"):
        TRF(**{name: bad})


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"linear_solver": "svd"}, ValueError, "`linear_solver` ... 'gram' ... 'svd'"),
        ({"linear_solver": None}, ValueError, "`linear_solver` ... got None"),
        ({"jacobian": "2-point"}, ValueError, "`jacobian` ... 'reverse' ... '2-point'"),
        (
            {"jacobian": 3},
            TypeError,
            "`jacobian` must be 'forward', 'reverse' or a function, got",
        ),
        (
            {"jacobian": None},
            TypeError,
            "`jacobian` must be 'forward', 'reverse' or a function, got None",
        ),
        ({"derivative": "exact"}, ValueError, "`derivative` ... 'hessian' ... 'exact'"),
        ({"chunk_size": "big"}, ValueError, "`chunk_size` ... 'auto' ... 'big'"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1, got 0"),
        ({"chunk_size": 1.5}, TypeError, "`chunk_size` must be an integer, got 1.5"),
        ({"mesh": 8}, TypeError, "`mesh` must be a jax.sharding.Mesh or None, got 8"),
        ({"x_scale": "fit"}, ValueError, "`x_scale` must be ... 'jac' ... 'fit'"),
        ({"x_scale": 0.0}, ValueError, "`x_scale` must be 'jac' or positive finite"),
        ({"x_scale": [1.0, -1.0]}, ValueError, "`x_scale` ... [1.0, -1.0]"),
        ({"x_scale": NAN}, ValueError, "`x_scale` ... nan"),
        (
            {"x_scale": np.array([INF])},
            ValueError,
            "`x_scale` must be 'jac' or positive",
        ),
    ],
)
def test_choices(options, error, text):
    with pytest.raises(error, match=complaint(text)):
        TRF(**options)


def test_an_x_scale_must_fit_the_parameters():
    solver = TRF(x_scale=np.ones(3))
    with pytest.raises(ValueError, match="`x_scale`"):
        jax.eval_shape(jaxfit.solve, curve(), solver)


@pytest.mark.parametrize("thing", [residual, (residual, START), None, {"params": 1.0}])
def test_what_is_not_a_problem_is_refused(thing):
    name = type(thing).__name__
    with pytest.raises(
        TypeError, match=f"`problem` must be a jaxfit.Problem, got {name}"
    ):
        jaxfit.solve(thing)


@pytest.mark.parametrize("thing", ["qr", 1e-8, {"ftol": 1e-8}])
def test_what_is_not_a_solver_is_refused(thing):
    with pytest.raises(TypeError, match="`solver` must be"):
        jaxfit.solve(curve(), thing)
