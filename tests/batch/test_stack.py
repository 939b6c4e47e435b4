"""Problems as one stack, and which cannot be."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import (
    LANES,
    SOLVER,
    START,
    M,
    N,
    P,
    T,
    auto_mesh,
    data,
    decay,
    equal,
    plain,
    same,
)

from jaxfit import TRF, curve_problem, solve_batch
from jaxfit._batch.stack import Stack


# --- Stacking ----------------------------------------------------------------------


def test_a_list_of_problems(plain_fits):
    """Stacked, but for what is one and the same array in all of them."""
    t = jnp.asarray(T)
    problems = [curve_problem(decay, t, y, START) for y in data()]
    stack = Stack.of(problems)
    assert stack.size == P
    assert stack.problems.args.x.shape == (M,)
    assert stack.problems.args.y.shape == (P, M)
    same(solve_batch(problems, SOLVER, lanes=LANES), plain_fits)
    # In a tuple, and with an x that each problem holds for itself.
    own = tuple(curve_problem(decay, T, y, START) for y in data())
    assert Stack.of(own).problems.args.x.shape == (P, M)


def test_a_list_of_one_problem_and_of_the_same_problem_thrice():
    problem = curve_problem(decay, T, data()[0], START)
    assert Stack.of([problem]).size == 1
    stack = Stack.of([problem] * 3)
    assert stack.size == 3
    assert stack.problems.args.y.shape == (3, M)


def axes_without_x(problems):
    axes = jax.tree.map(lambda _: 0, problems)
    return eqx.tree_at(lambda p: p.args.x, axes, None)


def test_an_x_that_all_problems_share(plain_fits):
    problems = eqx.tree_at(lambda p: p.args.x, plain(), jnp.asarray(T))
    axes = axes_without_x(problems)
    same(solve_batch(problems, SOLVER, in_axes=axes, lanes=LANES), plain_fits)


@pytest.mark.slow
def test_a_lower_bound_that_all_problems_share(curves):
    """One bound with the problems' axis and one without."""
    lower = jnp.zeros((P, N))
    start = jnp.maximum(curves.params, 0.1)
    upper = jnp.full((P, N), jnp.inf).at[::4, 0].set(1.2)

    def where(p):
        return p.lower, p.upper, p.params

    each = eqx.tree_at(where, curves, (lower, upper, start))
    shared = eqx.tree_at(lambda p: p.lower, each, lower[0])
    axes = eqx.tree_at(lambda p: p.lower, jax.tree.map(lambda _: 0, shared), None)
    batch = solve_batch(shared, SOLVER, in_axes=axes, lanes=LANES)
    equal(batch, solve_batch(each, SOLVER, lanes=LANES))
    assert batch.fixed.shape == (P, N)


class Scaled(eqx.Module):
    """A decay of a given unit of time."""

    unit: jax.Array

    def __call__(self, x, p):
        return decay(x / self.unit, p)


@pytest.mark.slow
def test_arrays_of_a_model_differ_from_problem_to_problem(plain_fits):
    units = np.linspace(0.5, 2.0, P)

    def one(y, unit):
        return curve_problem(Scaled(unit), T, y, START)

    batch = solve_batch(jax.vmap(one)(data(), units), SOLVER, lanes=LANES)
    np.testing.assert_allclose(batch.cost, plain_fits.cost, rtol=1e-8)
    rates = np.asarray(plain_fits.params[:, 1]) * units
    np.testing.assert_allclose(batch.params[:, 1], rates, rtol=1e-5)


# --- What is refused ---------------------------------------------------------------


def three(**changes):
    rows = {"y": [M, M, M], "loss": ["linear"] * 3, **changes}
    return [
        curve_problem(decay, T[:m], data()[0][:m], START, loss=loss)
        for m, loss in zip(rows["y"], rows["loss"], strict=True)
    ]


def test_ragged_data_are_named():
    with pytest.raises(ValueError, match=r"problems\[2\]\.args\.x.*\(9,\).*pad"):
        solve_batch(three(y=[M, M, 9]))
    problems = three()
    other = eqx.tree_at(lambda p: p.args.y, problems[1], jnp.ones(M, jnp.float32))
    with pytest.raises(ValueError, match=r"problems\[1\]\.args\.y.*float32"):
        solve_batch([problems[0], other])


def test_problems_of_another_structure_are_named():
    with pytest.raises(ValueError, match=r"problems\[1\].*another structure"):
        solve_batch(three(loss=["linear", "huber", "linear"]))
    bounded = curve_problem(decay, T, data()[0], START, bounds=(0.0, 9.0))
    with pytest.raises(ValueError, match=r"problems\[3\].*another structure"):
        solve_batch([*three(), bounded])


def test_a_number_without_an_axis_is_named():
    problems = eqx.tree_at(lambda p: p.loss.f_scale, plain(), jnp.ones(()))
    with pytest.raises(ValueError, match=r"problems\.loss\.f_scale.*in_axes"):
        solve_batch(problems)
    with pytest.raises(ValueError, match="None for what all problems share"):
        solve_batch(curve_problem(decay, T, data()[0], START))


def test_different_numbers_of_problems_are_named():
    problems = eqx.tree_at(lambda p: p.args.x, plain(), jnp.asarray(T))
    with pytest.raises(ValueError, match=r"problems\.args\.x.* 12 .* 40"):
        solve_batch(problems)


def test_no_problems_are_refused():
    with pytest.raises(ValueError, match="nothing to fit"):
        solve_batch([])
    none = jax.tree.map(lambda leaf: leaf[:0], plain())
    with pytest.raises(ValueError, match="nothing to fit"):
        solve_batch(none)
    with pytest.raises(ValueError, match="nothing that differs"):
        solve_batch(plain(), in_axes=None)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"lanes": 0}, ValueError, "`lanes` must be at least 1"),
        ({"lanes": 1.5}, TypeError, "`lanes` must be an integer"),
        ({"devices": 9}, ValueError, "`devices` is 9 but there are 8"),
        ({"devices": 0}, ValueError, "`devices` must be at least 1"),
        ({"solver": TRF(history=True)}, ValueError, "history=True"),
        ({"solver": TRF(linear_solver="matrix_free")}, ValueError, "covariance=False"),
        ({"solver": "trf"}, TypeError, "`solver` must be a jaxfit.TRF"),
        ({"in_axes": 1}, ValueError, "0 and None only"),
        ({"in_axes": True}, ValueError, "0 and None only"),
        ({"in_axes": (0, None)}, ValueError, "prefix of the PyTree"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(without_type_checks, wrong, error, words):
    with pytest.raises(error, match=words):
        solve_batch(plain(), **wrong)


def test_devices_or_a_mesh_not_both():
    with pytest.raises(ValueError, match="not both"):
        solve_batch(plain(), devices=2, mesh=auto_mesh((2,), ("a",)))


@pytest.mark.parametrize("problems", [None, data(), {"a": 1}], ids=type)
def test_anything_but_problems_is_refused(without_type_checks, problems):
    with pytest.raises(TypeError, match="`problems` must be a jaxfit"):
        solve_batch(problems)


def test_anything_but_problems_in_a_list_is_refused(without_type_checks):
    with pytest.raises(TypeError, match=r"problems\[1\].*must be a jaxfit.Problem"):
        solve_batch([three()[0], 3.0])
