"""What is kept from call to call, within a budget, and given back."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit._programs.budget import Budget, default_budget, nearly_all_maps, taken
from jaxfit._programs.kept import STORE, Memory
from jaxfit._programs.program import program


T = np.linspace(0, 5, 40)
TRUTH = np.array([2.5, 1.3, 0.5])
Y = TRUTH[0] * np.exp(-TRUTH[1] * T) + TRUTH[2]
NOISY = Y + 0.01 * np.random.default_rng(0).normal(size=T.size)
START = [1.0, 1.0, 1.0]


@pytest.fixture(autouse=True)
def the_default_budget():
    jaxfit.clear_caches()
    yield
    jaxfit.set_program_budget()
    jaxfit.clear_caches()


def model_with(number):
    """A model like no other, and what it captures."""
    table = jnp.full(1000, float(number))

    def model(t, a, b, c):
        return a * jnp.exp(-b * t) + c + 0 * jnp.sum(table)

    return model, table


def kernel_problem(model, y=NOISY):
    return jaxfit.curve_problem(lambda t, p: model(t, *p), T, y, jnp.array(START))


def by_solve(model):
    return jaxfit.solve(kernel_problem(model)).params


# --- The budget ------------------------------------------------------------------


def test_a_budget_of_few_programs_serves_many_models():
    jaxfit.set_program_budget(programs=3)
    expected = by_solve(model_with(-1)[0])
    for number in range(6):
        found = by_solve(model_with(number)[0])
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert 1 <= STORE.held().programs <= 3


@pytest.mark.slow
def test_a_budget_of_20_programs_serves_60_models():
    jaxfit.set_program_budget(programs=20)
    maps = []
    for number in range(60):
        model, _ = model_with(number)
        doors = [
            lambda model=model: jaxfit.curve_fit(model, T, Y, START).popt,
            lambda model=model: (
                jaxfit.least_squares(lambda p: model(T, *p) - Y, START).x
            ),
            lambda model=model: jaxfit.solve(kernel_problem(model, Y)).params,
        ]
        np.testing.assert_allclose(doors[number % 3](), TRUTH, rtol=1e-7)
        assert STORE.held().programs <= 20
        maps.append(taken().maps)
    if maps[0]:
        assert max(maps[30:]) < max(maps[:30]) + 300


@program
def cube(x):
    return jnp.linalg.svd(x * x * x)[1]


def test_the_least_recently_used_goes_first():
    jaxfit.set_program_budget(programs=3)
    sizes = [2, 3, 4]
    for n in sizes:
        cube(jnp.ones((n, n)))
    cube(jnp.ones((2, 2)))  # used again: it is the youngest now
    cube(jnp.ones((5, 5)))
    # A tenth of room is made besides, which of three programs is one.
    assert [cube.ready(jnp.ones((n, n)))[1] > 0 for n in (2, 5)] == [False, False]
    assert cube.ready(jnp.ones((3, 3)))[1] > 0


def test_a_budget_of_maps_is_kept():
    if taken().maps == 0:
        pytest.skip("maps are counted on Linux only")
    jaxfit.set_program_budget(maps=400)
    for n in range(5):
        by_solve(model_with(n)[0])
        assert STORE.held().maps <= 400 or STORE.held().programs == 1
    assert default_budget().maps == nearly_all_maps() * 10 // 9 // 2


def test_what_a_model_captures_counts_among_the_bytes():
    table = np.ones(2**20)

    def model(t, a, b, c):
        return a * jnp.exp(-b * t) + c + 0 * jnp.sum(table)

    by_solve(model)
    assert STORE.held().bytes >= table.nbytes
    jaxfit.set_program_budget(bytes=2**20)
    by_solve(model_with(1)[0])
    assert STORE.held().programs == 1


def test_a_fit_in_a_trace_counts_too():
    """Without an outer jit, JAX compiles what a transformation makes of a program."""

    @jax.vmap
    def fits(y):
        return jaxfit.solve(kernel_problem(model, y)).params

    jaxfit.set_program_budget(programs=2)
    for number in range(3):
        model, _ = model_with(number)
        found = fits(jnp.stack([jnp.asarray(Y)] * 3))
        np.testing.assert_allclose(found, np.tile(TRUTH, (3, 1)), rtol=1e-7)
        assert STORE.held().programs <= 2


def test_models_that_fail_are_not_kept():
    def model(t, p):
        raise ZeroDivisionError("a model's own")

    for solve in (jaxfit.solve, jax.grad(lambda p: jaxfit.solve(p).cost)):
        with pytest.raises(ZeroDivisionError, match="a model's own"):
            solve(jaxfit.curve_problem(model, T, NOISY, jnp.array(START)))
    assert STORE.held().programs == 0


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"programs": 0}, ValueError),
        ({"maps": -3}, ValueError),
        ({"bytes": 1.5}, TypeError),
        ({"programs": "20"}, TypeError),
    ],
)
def test_a_budget_says_what_is_wrong(without_type_checks, given, error):
    (name,) = given
    with pytest.raises(error, match=f"`{name}` must be"):
        jaxfit.set_program_budget(**given)
    assert STORE.budget == default_budget()


def test_limits_that_are_not_given_are_the_defaults():
    jaxfit.set_program_budget(programs=7, bytes=2**25)
    assert STORE.budget == Budget(7, default_budget().maps, 2**25)
    jaxfit.set_program_budget()
    assert STORE.budget == default_budget()


def test_a_memory_forgets_what_is_oldest():
    memory = Memory(10)
    made = []

    def value(key):
        return memory.get(key, lambda: made.append(key) or key)

    for key in range(10):
        value(key)
    value(0)
    value(10)
    assert len(memory) <= 10 and made == list(range(11))
    assert value(0) == 0 and made == list(range(11))
    assert value(1) == 1 and made[-1] == 1


# --- Everything is given back ----------------------------------------------------


def on_a_solution(ask):
    def run(model):
        problem = kernel_problem(model)
        ask(problem, jaxfit.solve(problem))

    return run


class Tabulated(eqx.Module):
    """A model that is a PyTree: its table is data."""

    table: jax.Array

    def __call__(self, t, a, b, c):
        return a * jnp.exp(-b * t) + c + 0 * jnp.sum(self.table)


DOORS = {
    "curve_fit": lambda f: jaxfit.curve_fit(f, T, NOISY, START),
    "CurveFit": lambda f: jaxfit.CurveFit(f)(T, NOISY, START),
    "auto": lambda f: jaxfit.curve_fit(f, T, NOISY, "auto"),
    "watched": lambda f: jaxfit.curve_fit(f, T, NOISY, START, callback=lambda x: None),
    "least_squares": lambda f: jaxfit.least_squares(lambda p: f(T, *p) - Y, START),
    "lsmr": lambda f: jaxfit.least_squares(
        lambda p: f(T, *p) - Y, START, tr_solver="lsmr"
    ).jac.matvec(np.ones(3)),
    "solve": by_solve,
    "grad": lambda f: jax.grad(
        lambda y: jaxfit.solve(kernel_problem(f, y)).params[0].sum()
    )(jnp.asarray(NOISY)),
    "curve_fit_batch": lambda f: jaxfit.curve_fit_batch(
        f, T, np.tile(Y, (3, 1)), START
    ),
    "solve_batch": lambda f: jaxfit.solve_batch([kernel_problem(f)] * 2),
    "fit_stream": lambda f: jaxfit.fit_stream(
        lambda t, p: f(t, *p), [(T, NOISY)], jnp.array(START)
    ),
    "fit_large_dataset": lambda f: jaxfit.fit_large_dataset(
        f, T, NOISY, START, strategy="streamed"
    ),
    "predict": lambda f: jaxfit.curve_fit(f, T, NOISY, START).predict(T[:7]),
    "diagnose": on_a_solution(jaxfit.diagnose),
    "covariance": on_a_solution(lambda *of: jaxfit.covariance(*of, kind="sandwich")),
    "profile": on_a_solution(jaxfit.profile),
    "bootstrap": on_a_solution(
        lambda *of: jaxfit.bootstrap(*of, key=jax.random.key(0), n=16)
    ),
    "jackknife": on_a_solution(jaxfit.jackknife),
    "laplace": on_a_solution(jaxfit.laplace),
    "from_numpy": lambda f: jaxfit.curve_fit(
        jaxfit.from_numpy(lambda t, a, b, c: np.asarray(f(t, a, b, c))), T, NOISY, START
    ),
    "grad of a batch": lambda f: jax.grad(
        lambda y: jaxfit.solve_batch([kernel_problem(f, y)] * 2).params.sum()
    )(jnp.asarray(NOISY)),
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_of_a_model_is_left(door):
    """Neither the function, nor what it captures, nor the memory maps of its code."""
    DOORS[door](model_with(0)[0])  # what JAX keeps of each operation is there now
    jaxfit.clear_caches()
    before = taken().maps
    model, table = model_with(1)
    watched = weakref.ref(model), weakref.ref(table)
    DOORS[door](model)
    during = taken().maps
    del model, table
    jaxfit.clear_caches()
    assert STORE.held() == Budget(0, 0, 0)
    assert [ref() for ref in watched] == [None, None]
    if before:
        assert during > before + 20
        assert taken().maps < before + 20


def test_memory_is_given_back():
    by_solve(model_with(0)[0])
    jaxfit.clear_caches()
    before = taken().bytes
    if before == 0:
        pytest.skip("what is resident is told on Linux only")
    # Many small pieces, of which the system's library would keep the room.
    pieces = [np.full(1000, float(i)) for i in range(2**13)]

    def model(t, a, b, c):
        return a * jnp.exp(-b * t) + c + 0 * pieces[0][0]

    by_solve(model)
    size = sum(piece.nbytes for piece in pieces)
    del model, pieces
    gc.collect()
    assert taken().bytes > before + 0.8 * size
    jaxfit.clear_caches()
    assert taken().bytes < before + 0.3 * size


def test_the_arrays_of_a_module_are_no_part_of_a_program():
    """They are arguments: another table is another fit by the same program."""
    for number in range(3):
        table = jnp.full(1000, float(number))
        watched = weakref.ref(table)
        result = jaxfit.curve_fit(Tabulated(table), T, Y, START)
        assert (result.compile_time > 0) == (number == 0)
        del result, table
        gc.collect()
    jaxfit.clear_caches()
    assert watched() is None


def test_what_was_given_up_is_compiled_anew_and_right():
    model, _ = model_with(0)
    first = jaxfit.curve_fit(model, T, NOISY, START)
    again = jaxfit.curve_fit(model, T, NOISY, START)
    assert first.compile_time > 0 and again.compile_time == 0
    jaxfit.clear_caches()
    anew = jaxfit.curve_fit(model, T, NOISY, START)
    assert anew.compile_time > 0
    np.testing.assert_array_equal(anew.popt, first.popt)


# --- Threads ---------------------------------------------------------------------


def in_threads(count, threads, repeats):
    def one(number):
        rng = np.random.default_rng(number)
        weight = float(rng.uniform(0.5, 2))

        def model(t, a, b, c):
            return a * jnp.exp(-b * weight * t) + c

        y = NOISY + 0.01 * rng.normal(size=T.size)
        if number % 3 == 0:
            result = jaxfit.curve_fit(model, T, y, START)
            return np.concatenate([result.popt, result.pcov.ravel()])
        if number % 3 == 1:
            # Single precision beside double: a setting of a thread, not of all.
            y = y.astype(np.float32)
            x = jnp.asarray(T, jnp.float32)
            return jaxfit.curve_fit(model, x, jnp.asarray(y), START).popt
        return jaxfit.least_squares(lambda p: model(T, *p) - y, START).x

    numbers = list(range(count)) * repeats
    alone = [one(number) for number in range(count)]
    jaxfit.clear_caches()
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, numbers))
    for number, value in zip(numbers, found, strict=True):
        assert value.dtype == alone[number].dtype
        np.testing.assert_array_equal(value, alone[number])


def test_threads_find_the_same_bits_as_one():
    in_threads(6, 6, 2)


def test_threads_do_so_while_programs_are_given_up():
    jaxfit.set_program_budget(programs=2)
    in_threads(4, 8, 2)


@pytest.mark.slow
def test_eight_threads_and_200_fits_of_different_models():
    in_threads(200, 8, 1)


@pytest.mark.parametrize(
    "within",
    [
        lambda fn: jax.jit(lambda: fn())(),
        lambda fn: jax.vmap(lambda _: fn())(jnp.zeros(2))[0],
        lambda fn: jax.jvp(lambda _: fn(), (1.0,), (1.0,))[0],
        lambda fn: jax.lax.map(lambda _: fn(), jnp.zeros(2))[0],
    ],
    ids=["jit", "vmap", "jvp", "map"],
)
def test_what_is_known_within_a_trace_of_the_user(within):
    """JAX takes options for the outermost program only, whatever is given to others."""
    x = jnp.linspace(0, 3, 20)
    y, start = 2 * jnp.exp(-x), jnp.array([1.0, 2.0])
    problem = jaxfit.curve_problem(lambda x, p: p[0] * jnp.exp(-p[1] * x), x, y, start)

    def fit():
        return jaxfit.solve(problem).params

    alone = fit()
    np.testing.assert_allclose(within(fit), alone, rtol=1e-12)
    np.testing.assert_allclose(fit(), alone, rtol=0)
