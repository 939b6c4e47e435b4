"""Fit, change what the model captures, fit again: every door."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from containers import (
    DOORS,
    ArrayEquality,
    Curve,
    Frozen,
    SameHash,
    Static,
    X,
    Y,
    change,
    made,
    objects,
)

import jaxfit


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["attribute of a list", "all equal", "frozen"])
def test_every_door_fits_with_what_there_is_now(door, kind):
    if kind == "frozen":
        models = [Frozen(gain=gain) for gain in (1.0, 2.0)]
        found = [DOORS[door](model) for model in models]
    else:
        model, owner, at = objects()[kind]
        found = []
        for gain in (1.0, 2.0):
            change(owner, at, gain)
            found.append(DOORS[door](model))
    np.testing.assert_allclose(found, [6.0, 3.0], rtol=1e-6)


def test_a_problem_that_was_made_before_the_change_is_solved_as_it_is_now():
    model = made(SameHash, gain=1.0)
    problem = jaxfit.curve_problem(Curve(model), X, Y, np.ones(1))
    solver = jaxfit.TRF(jacobian=lambda x, p: (model.gain * x)[:, None])
    for gain in (1.0, 2.0):
        model.gain = gain
        for given in (None, solver):
            np.testing.assert_allclose(
                jaxfit.solve(problem, given).params, [6 / gain], rtol=1e-6
            )
            batch = jaxfit.solve_batch([problem, problem], given)
            np.testing.assert_allclose(batch.params, [[6 / gain]] * 2, rtol=1e-6)


def test_objects_that_hold_the_same_share_a_program():
    def fit(model):
        return jaxfit.curve_fit(model, X, Y, [1.0]).compile_time

    assert fit(Frozen("shared", gain=5.0)) > 0
    assert fit(Frozen("shared", gain=5.0)) == 0
    static = [Static(jnp.asarray(w), Frozen("two", gain=5.0)) for w in (1.0, 2.0)]
    assert fit(static[0]) > 0
    assert fit(static[1]) == 0


def test_a_loss_that_compares_equal_is_another_one():
    y = Y + np.where(np.arange(20) == 3, 5.0, 0.0)

    @dataclasses.dataclass(frozen=True)
    class Loss:
        width: float = dataclasses.field(compare=False)

        def __call__(self, z):
            return self.width * jnp.log1p(z / self.width)

    for fit in (
        lambda loss: jaxfit.curve_fit(lambda x, a: a * x, X, y, loss=loss).popt,
        lambda loss: jaxfit.least_squares(lambda p: p * X - y, [6.0], loss=loss).x,
        lambda loss: (
            jaxfit.solve(
                jaxfit.Problem(lambda p, a: p * X - y, np.ones(1), loss=loss)
            ).params
        ),
    ):
        wide, narrow = fit(Loss(1e6)), fit(Loss(1e-3))
        assert abs(wide[0] - 6) > 0.05 > 100 * abs(narrow[0] - 6)


def test_arguments_that_compare_equal_are_told_apart():
    """1 == 1.0 == True, and an object may say that it equals any other."""

    def fun(p, which):
        return p * X * (1.0 if which is True else 2.0) - Y

    found = [jaxfit.least_squares(fun, [1.0], args=(w,)).x[0] for w in (1, True)]
    np.testing.assert_allclose(found, [3.0, 6.0], rtol=1e-6)

    def of_object(p, model):
        return model(X, p) - Y

    models = [Frozen(gain=gain) for gain in (1.0, 2.0)]
    found = [jaxfit.least_squares(of_object, [1.0], args=(m,)).x[0] for m in models]
    np.testing.assert_allclose(found, [6.0, 3.0], rtol=1e-6)
    # Neither hashable nor a PyTree.
    held = made(ArrayEquality)
    for gain in (1.0, 2.0):
        held.gain = gain
        found = jaxfit.least_squares(of_object, [1.0], args=(held,)).x
        np.testing.assert_allclose(found, [6.0 / gain], rtol=1e-6)


class Raised:
    """An exponential over an offset that may be set anew."""

    def __init__(self, offset):
        self.offset = offset

    def __call__(self, x, p):
        return p[0] * jnp.exp(-p[1] * x) + self.offset


def raised_problem(model, offset, device=None):
    x = np.linspace(0, 3, 30)
    y = 2 * np.exp(-x) + offset
    return jaxfit.curve_problem(
        model, *jax.device_put((x, y, np.ones(2)), device or jax.devices()[0])
    )


ASKED = {
    "diagnose": jaxfit.diagnose,
    "covariance": lambda *of: jaxfit.covariance(*of, kind="sandwich"),
    "hessian": lambda problem, solution: jaxfit.hessian(problem, solution.params),
}


@pytest.mark.parametrize("ask", ASKED)
def test_what_is_asked_after_a_change_spoils_no_later_fit(ask):
    model = Raised(1.0)
    problem = raised_problem(model, 1.0)
    solution = jaxfit.solve(problem)
    model.offset = 0.0
    ASKED[ask](problem, solution)
    for offset in (0.0, 1.0):
        found = jaxfit.solve(raised_problem(Raised(offset), offset)).params
        np.testing.assert_allclose(found, [2, 1], rtol=1e-6)


def test_data_on_another_device_are_fitted_by_the_model_of_now():
    """There the same program is traced again, while its first model has changed."""
    model = Raised(1.0)
    jaxfit.solve(raised_problem(model, 1.0))
    model.offset = 0.0
    problem = raised_problem(Raised(1.0), 1.0, jax.devices()[-1])
    np.testing.assert_allclose(jaxfit.solve(problem).params, [2, 1], rtol=1e-6)
