"""The dtype of the parameters is the dtype of the fit, whatever the process allows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import TRF, Problem, curve_problem


ROOT = Path(__file__).resolve().parents[2]
T = np.linspace(0.0, 3.0, 40)
NOISE = 0.02 * np.sin(17.0 * np.arange(40.0))
Y = 2.5 * np.exp(-1.3 * T) + 0.5 + NOISE
START = np.array([1.0, 1.0, 0.0])


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def problem(dtype, **options):
    """The same fit with all its data in one dtype."""
    x, y, start = T.astype(dtype), Y.astype(dtype), START.astype(dtype)
    return curve_problem(decay, x, y, start, **options)


def floats(tree):
    """The dtypes of all floating point arrays of a tree."""
    leaves = jax.tree.leaves(tree)
    return {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.fixture(scope="module")
def reference():
    return jaxfit.solve(problem(np.float64))


@pytest.mark.parametrize("linear_solver", ["qr", "gram", "matrix_free"])
@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
def test_float32_stays_float32_where_float64_is_on(linear_solver, loss):
    """Without running anything: every output of every back end."""
    shape = jax.eval_shape(
        jaxfit.solve,
        problem(np.float32, loss=loss, bounds=(-9.0, 9.0), sigma=0.1, f_scale=0.3),
        TRF(linear_solver=linear_solver, history=True, max_steps=50),
    )
    assert floats(shape) == {np.dtype(np.float32)}
    jaxpr = str(jax.make_jaxpr(jaxfit.solve)(problem(np.float32, loss=loss), TRF()))
    # Tolerances are numbers of Python; no array is of their dtype.
    assert re.search(r"f32\[40\]", jaxpr)
    assert not re.search(r"f64\[\d", jaxpr)


@pytest.mark.parametrize("linear_solver", ["qr", "gram", "matrix_free"])
def test_float32_is_accurate_and_ends_by_itself(linear_solver, reference):
    solver = TRF(linear_solver=linear_solver)
    solution = jaxfit.solve(problem(np.float32), solver)
    assert floats(solution) == {np.dtype(np.float32)}
    assert solution.success
    assert solution.num_steps < 30
    np.testing.assert_allclose(solution.params, reference.params, rtol=2e-5)
    np.testing.assert_allclose(solution.cost, reference.cost, rtol=1e-5)
    if linear_solver != "matrix_free":
        np.testing.assert_allclose(
            solution.covariance(), reference.covariance(), rtol=1e-3
        )


def test_float32_with_bounds_and_a_robust_loss():
    options = {"bounds": (0.0, 2.0), "loss": "cauchy", "f_scale": 0.1}
    single = jaxfit.solve(problem(np.float32, **options))
    double = jaxfit.solve(problem(np.float64, **options))
    assert single.success and double.success
    assert single.num_steps < 60
    assert single.params[0] < 2.0 and single.params[2] >= 0.0
    np.testing.assert_allclose(single.params, double.params, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(single.active_mask, double.active_mask)
    np.testing.assert_array_equal(double.active_mask, [1, 0, 0])


def test_float32_derivatives_are_float32(reference):
    del reference

    def rate(y):
        fit = curve_problem(decay, T.astype(y.dtype), y, START.astype(y.dtype))
        return jaxfit.solve(fit).params[1]

    single = jax.jit(jax.grad(rate))(Y.astype(np.float32))
    double = jax.jit(jax.grad(rate))(Y)
    assert single.dtype == np.float32
    size = np.abs(double).max()
    np.testing.assert_allclose(single, double, atol=1e-3 * size)


def test_float64_outputs_are_float64(reference):
    assert floats(reference) == {np.dtype(np.float64)}
    assert reference.status.dtype == np.int32
    assert reference.active_mask.dtype == np.int32


def test_counts_of_float32_are_exact_far_beyond_any_fit():
    """All scalars of the loop travel in one vector of the fit's dtype."""
    from jaxfit._basics.packing import packing

    count = jnp.array(2**24 - 1, jnp.int32)
    example = (count, jnp.array(True), jnp.array(-9, jnp.int32))
    pack, unpack = packing(example, jnp.float32)
    out = jax.jit(lambda tree: unpack(pack(tree)))(example)
    assert [leaf.item() for leaf in out] == [2**24 - 1, True, -9]
    assert [leaf.dtype for leaf in out] == [leaf.dtype for leaf in example]


@pytest.mark.parametrize(
    ("params", "data", "fit"),
    [
        ((np.float32, np.float64), np.float64, np.float64),
        ((np.float32, np.float32), np.float64, np.float32),
        ((np.float64, np.float64), np.float32, np.float64),
    ],
    ids=["mixed-params", "double-data", "single-data"],
)
def test_mixed_dtypes(params, data, fit):
    """Every leaf comes back in its own dtype; the fit is in their common one."""

    def model(x, p):
        return p["amp"] * jnp.exp(-p["rate"] * x)

    start = {"amp": np.ones((), params[0]), "rate": np.ones((), params[1])}
    y = (2 * np.exp(-1.3 * T)).astype(data)
    solution = jaxfit.solve(curve_problem(model, T.astype(data), y, start))
    assert solution.success
    for tree in (solution.params, solution.grad):
        assert {key: leaf.dtype for key, leaf in tree.items()} == {
            "amp": params[0],
            "rate": params[1],
        }
    assert solution.cost.dtype == solution.linearisation.gram.dtype == fit
    np.testing.assert_allclose(solution.params["amp"], 2.0, rtol=1e-5)
    np.testing.assert_allclose(solution.params["rate"], 1.3, rtol=1e-5)


def test_integers_are_taken_as_the_default_float():
    x, y, start = np.arange(5), np.array([1, 3, 5, 7, 10]), [1, 1]
    curve = curve_problem(lambda x, p: p[0] + p[1] * x, x, y, start, sigma=2)
    assert [leaf.dtype for leaf in jax.tree.leaves(curve.params)] == [np.float64] * 2
    assert curve.args.y.dtype == curve.args.sigma.dtype == np.float64
    # Predictors keep their dtype: an integer may be an index.
    assert jnp.issubdtype(curve.args.x.dtype, jnp.integer)
    solution = jaxfit.solve(curve)
    intercept, slope = np.polynomial.polynomial.polyfit(x, y, 1)
    np.testing.assert_allclose(solution.params, [intercept, slope], rtol=1e-9)


def test_integers_as_an_index_in_args():
    group = np.array([0, 1, 1, 2, 2, 2])
    y = np.arange(6.0)

    def residual(p, args):
        return p[args["group"]] - args["y"]

    data = {"group": group, "y": y}
    solution = jaxfit.solve(Problem(residual, np.zeros(3), data))
    np.testing.assert_allclose(solution.params, [0.0, 1.5, 4.0], atol=1e-12)
    slope = jax.jit(
        jax.grad(
            lambda y: jaxfit.solve(
                Problem(residual, np.zeros(3), {"group": group, "y": y})
            ).params[2]
        )
    )(y)
    np.testing.assert_allclose(slope, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3], atol=1e-12)


def test_float16_is_refused_by_name():
    """There is no factorisation in half precision: no answer, and no wrong one."""
    with pytest.raises((TypeError, ValueError, NotImplementedError), match="float16"):
        jaxfit.solve(problem(np.float16))


# What a process prints that never enables float64; no jaxtyping, no conftest.
IN_SINGLE = """
import json, sys
import numpy as np
import jax, jax.numpy as jnp
import jaxfit

jax.config.update("jax_numpy_dtype_promotion", sys.argv[1])

t = np.linspace(0.0, 3.0, 40, dtype=sys.argv[2])
y = (2.5 * np.exp(-1.3 * t) + 0.5).astype(sys.argv[2])
start = np.array([1.0, 1.0, 0.0], sys.argv[2])

def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]

def fit(y):
    problem = jaxfit.curve_problem(decay, t, y, start, bounds=(-9.0, 9.0))
    return jaxfit.solve(problem)

solution = jax.jit(fit)(y)
slope = jax.jit(jax.jacrev(lambda y: fit(y).params))(y)
print(json.dumps({
    "params": solution.params.tolist(),
    "steps": int(solution.num_steps),
    "status": int(solution.status),
    "sum": float(slope.sum()),
    "dtypes": sorted({str(a.dtype) for a in jax.tree.leaves((solution, slope))}),
    "x64": jax.config.jax_enable_x64,
}))
"""


def in_another_process(*arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_SINGLE, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1", "XLA_FLAGS": ""},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("promotion", "dtype"), [("standard", "float32"), ("standard", "float64")]
)
def test_a_process_that_never_enables_float64(promotion, dtype):
    """float64 data of NumPy become float32 without a word, as JAX has it."""
    found = in_another_process(promotion, dtype)
    assert found["x64"] is False
    assert found["dtypes"] == ["bool", "float32", "int32"]
    assert found["status"] > 0
    assert found["steps"] < 30
    np.testing.assert_allclose(found["params"], [2.5, 1.3, 0.5], rtol=1e-5)


TIMES = np.arange(0, 3000, 50).astype(np.int16)
SQUARES = 3e-6 * TIMES.astype(float) ** 2 + 0.5


def squares(x, a, b):
    t = x["t"] if isinstance(x, dict) else x
    return a * t**2 + b


DOORS = {
    "curve_fit": lambda f, x, y, p0: jaxfit.curve_fit(f, x, y, p0).popt,
    "batch": lambda f, x, y, p0: jaxfit.curve_fit_batch(f, x, [y, y], p0).popt[1],
    "solve": lambda f, x, y, p0: jaxfit.solve(problem_of(f, x, y, p0)).params,
    "solve_batch": lambda f, x, y, p0: jaxfit.solve_batch(
        [problem_of(f, x, y, p0)] * 2
    ).params[1],
    "memory": lambda f, x, y, p0: jaxfit.fit_large_dataset(f, x, y, p0).popt,
    "stream": lambda f, x, y, p0: (
        jaxfit.fit_large_dataset(f, x, y, p0, strategy="streamed").popt
    ),
    "fit_stream": lambda f, x, y, p0: (
        jaxfit.fit_stream(
            lambda x, p: f(x, *p), jaxfit.ArraySource(x, y), np.array(p0)
        ).solution.params
    ),
}


def problem_of(f, x, y, p0):
    return curve_problem(lambda x, p: f(x, *p), x, y, np.array(p0))


@pytest.mark.parametrize(
    ("container", "dtype"),
    [
        (np.asarray, np.int16),
        (np.asarray, np.int64),
        (np.asarray, np.float16),
        (lambda t: {"t": t}, np.int16),
        pytest.param(lambda t: {"t": t}, np.int64, marks=pytest.mark.slow),
        pytest.param(lambda t: {"t": t}, np.float16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_narrow_x_does_not_wrap_at_any_door(door, container, dtype):
    """int16 wraps at 181^2 = 32,761 and float16 ends at 256^2 = 65,536."""
    t = TIMES.astype(dtype)
    y = 3e-6 * t.astype(float) ** 2 + 0.5
    found = DOORS[door](squares, container(t), y, [1e-6, 0.0])
    np.testing.assert_allclose(found, [3e-6, 0.5], rtol=1e-6)


@pytest.mark.parametrize("door", DOORS)
def test_integers_stay_an_index_where_the_model_uses_them_as_one(door):
    """Beside another integer, that is a measurement and must not wrap."""
    group = (np.arange(TIMES.size) % 2).astype(np.int8)
    used = TIMES < 2000
    x = {"t": TIMES, "group": group, "used": used}

    def f(x, a, b, c):
        if "stream" in door:  # where rows must be treated one by one
            offset = b + (c - b) * (x["group"] & 1)
        else:
            offset = jnp.stack([b, c])[x["group"]]
        return jnp.where(~x["used"], 0, a * x["t"] ** 2 + offset)

    y = np.where(used, SQUARES + group, 0)
    found = DOORS[door](f, x, y, [1e-6, 0.0, 0.0])
    np.testing.assert_allclose(found, [3e-6, 0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("first", ["least_squares", "solve"])
def test_doors_of_two_precisions_share_a_constant(first):
    """A double fit and a single one of one NumPy array, in either order."""
    times = np.linspace(0, 5, 60)
    y = 2.5 * np.exp(-1.3 * times)

    def residual(p, *_):
        return p[0] * jnp.exp(-p[1] * times) - y

    calls = {
        "least_squares": lambda: jaxfit.least_squares(residual, [1.0, 1.0]).x,
        "solve": lambda: jaxfit.solve(jaxfit.Problem(residual, np.ones(2))).params,
    }
    with jax.enable_x64(False):
        for name in sorted(calls, key=lambda name: name != first):
            np.testing.assert_allclose(calls[name](), [2.5, 1.3], rtol=1e-5)
