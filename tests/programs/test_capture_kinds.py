"""Fit, change what the model captures, fit again: the answer is of the new content.

One table over the kinds of containers that a model may read, and every door. The model
is a * gain * x, so that a = 6 / gain for the data 6 x: an answer of the old content is
wrong by the factor by which the gain has changed.
"""

import array
import collections
import contextvars
import dataclasses
import functools
import itertools
import random
import types
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import jaxfit
from jaxfit._programs.capture import captured, interned


X = np.linspace(0.5, 2.0, 20)
Y = 6.0 * X


def of(read):
    """The model whose gain is what `read()` finds."""
    return lambda x, a: a * read() * x


def made(cls, **attributes):
    thing = cls()
    for name, value in attributes.items():
        setattr(thing, name, value)
    return thing


class Settings(list):
    pass


class Table(dict):
    pass


class Measured(np.ndarray):
    pass


class Name(str):
    pass


class Number(float):
    pass


class Slotted:
    __slots__ = ("__gain",)

    def set(self, gain):
        self.__gain = gain

    def get(self):
        return self.__gain


class SameHash:
    """All instances are equal, as far as `__eq__` and `__hash__` tell."""

    gain = 1.0

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __call__(self, x, a):
        return a * self.gain * x

    def method(self, x, a):
        return self(x, a)


class ArrayEquality(SameHash):
    """An `__eq__` that gives an array, and no hash."""

    def __eq__(self, other):
        return np.array([True, False])

    __hash__ = None


class Inherited(SameHash):
    def __reduce__(self):
        return Inherited, ()  # pickle would lose the gain


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str = "one"
    gain: float = dataclasses.field(default=1.0, compare=False)

    def __call__(self, x, a):
        return a * self.gain * x


class Static(eqx.Module):
    weight: jax.Array
    frozen: Frozen = eqx.field(static=True)

    def __call__(self, x, a):
        return self.frozen(x, a) * self.weight


def with_attribute(x, a):
    return a * with_attribute.gain * x


def objects():
    """Kind of container: the model, and how to set its gain in place."""
    settings, table, measured = Settings(), Table(), np.ones(1).view(Measured)
    name, number = Name("n"), Number(1.0)
    records = np.ones(2, dtype=[("gain", float), ("other", float)])
    ragged = np.array([[1.0], None], dtype=object)
    masked = np.ma.array([1.0, 2.0])
    slotted, same, equality = Slotted(), SameHash(), ArrayEquality()
    inherited, nested = Inherited(), [{"deep": (1, {"er": np.ones(3)})}]
    counter, ordered = collections.Counter(a=1), collections.OrderedDict(a=1.0)
    default = collections.defaultdict(lambda: 0.0, a=1.0)
    queue, chain = collections.deque([1.0]), collections.ChainMap({"a": 1.0})
    own, bound = collections.UserList([1.0]), collections.UserDict(a=1.0)
    doubles, raw = array.array("d", [1.0]), bytearray([1])
    context = contextvars.ContextVar("gain", default=1.0)
    polynomial = np.poly1d([1.0, 0.0])
    spline = CubicSpline(np.arange(4.0), np.ones(4))
    generator = random.Random(0)
    ours = types.MappingProxyType(table)
    listed: list = [1.0]
    defaults: dict = {"gain": 1.0}
    part = functools.partial(lambda held, x, a: a * held[0] * x, listed)

    def with_default(x, a, held=defaults):
        return a * held["gain"] * x

    @functools.wraps(with_default)
    def wrapped(x, a, *, held=listed):
        return a * held[0] * x

    def set_own(value):
        own[0] = value

    return {
        "attribute of a list": (of(lambda: settings.gain), settings, "gain"),
        "attribute of a dict": (of(lambda: table.gain), table, "gain"),
        "attribute of an array": (of(lambda: measured.gain), measured, "gain"),
        "item of an array's subclass": (of(lambda: measured[0]), measured, 0),
        "attribute of a text": (of(lambda: name.gain), name, "gain"),
        "attribute of a number": (of(lambda: number.gain), number, "gain"),
        "attribute of a function": (with_attribute, with_attribute, "gain"),
        "structured array": (of(lambda: records["gain"][0]), records["gain"], 0),
        "array of objects": (of(lambda: ragged[0][0]), ragged[0], 0),
        "masked array": (of(lambda: masked.data[0]), masked, 0),
        "private slot": (of(slotted.get), slotted.set, None),
        "all equal": (same, same, "gain"),
        "method of what is all equal": (same.method, same, "gain"),
        "equality that is an array": (equality, equality, "gain"),
        "pickle that forgets": (of(lambda: inherited.gain), inherited, "gain"),
        "nested": (
            of(lambda: nested[0]["deep"][1]["er"][2]), nested[0]["deep"][1]["er"], 2
        ),
        "counter": (of(lambda: counter["a"]), counter, "a"),
        "ordered dict": (of(lambda: ordered["a"]), ordered, "a"),
        "default dict": (of(lambda: default["a"]), default, "a"),
        "method of a dict": (of(functools.partial(default.get, "a")), default, "a"),
        "queue": (of(lambda: queue[0]), queue, 0),
        "chain of dicts": (of(lambda: chain["a"]), chain, "a"),
        "user's list": (of(lambda: own[0]), set_own, None),
        "user's dict": (of(lambda: bound["a"]), bound, "a"),
        "view of a dict": (of(lambda: ours["a"]), table, "a"),
        "array of doubles": (of(lambda: doubles[0]), doubles, 0),
        "bytes": (of(lambda: raw[0]), lambda v: raw.__setitem__(0, int(v)), None),
        "context variable": (of(context.get), context.set, None),
        "polynomial": (of(lambda: polynomial.coef[0]), polynomial.coef, 0),
        "spline": (of(lambda: spline.c[3, 0]), spline.c[3], 0),
        "partial of a list": (part, listed, 0),
        "mutable default": (with_default, defaults, "gain"),
        "wrapped": (wrapped, listed, 0),
        "state of a generator": (
            of(lambda: random.Random.getstate(generator)[2] or 1.0),
            lambda v: generator.setstate((*generator.getstate()[:2], v)), None,
        ),
    }  # fmt: skip


def change(owner, at, value):
    if at is None:
        owner(value)
    elif isinstance(at, str) and not isinstance(owner, dict | collections.abc.Mapping):
        setattr(owner, at, value)
    elif isinstance(at, str) and at == "gain" and isinstance(owner, Table):
        owner.gain = value
    else:
        owner[at] = value


@pytest.mark.parametrize("kind", objects())
def test_every_kind_of_container_is_looked_into(kind):
    model, owner, at = objects()[kind]
    change(owner, at, 1.0)
    before = captured(model)
    assert captured(model) == before and hash(captured(model)) == hash(before)
    change(owner, at, 2.0)
    assert captured(model) != before
    change(owner, at, 1.0)
    assert captured(model) == before


DOORS = {
    "curve_fit": lambda f: jaxfit.curve_fit(f, X, Y, [1.0]).popt[0],
    "CurveFit": lambda f: jaxfit.CurveFit(f)(X, Y, [1.0]).popt[0],
    "watched": lambda f: jaxfit.curve_fit(
        f, X, Y, [1.0], callback=lambda intermediate_result: None
    ).popt[0],
    "batch": lambda f: jaxfit.curve_fit_batch(f, X, np.stack([Y, Y]), [1.0]).popt[1, 0],
    "large": lambda f: jaxfit.fit_large_dataset(f, X, Y, [1.0]).popt[0],
    "streamed": lambda f: jaxfit.fit_large_dataset(
        f, [(X[:10], Y[:10]), (X[10:], Y[10:])], p0=[1.0]
    ).popt[0],
    "least_squares": lambda f: jaxfit.least_squares(
        lambda p: f(X, p[0]) - Y, [1.0]
    ).x[0],
    "solve": lambda f: jaxfit.solve(
        jaxfit.Problem(Residual(f), np.ones(1), (X, Y))
    ).params[0],
    "solve of a curve": lambda f: jaxfit.solve(
        jaxfit.curve_problem(Curve(f), X, Y, np.ones(1))
    ).params[0],
    "solve_batch": lambda f: jaxfit.solve_batch(
        [jaxfit.curve_problem(Curve(f), X, Y, np.ones(1)) for _ in range(2)]
    ).params[1, 0],
    "from_numpy": lambda f: jaxfit.curve_fit(
        jaxfit.from_numpy(f), X, Y, [1.0]
    ).popt[0],
}  # fmt: skip


class Residual(SameHash):
    def __init__(self, f):
        self.f = f

    def __call__(self, p, data):
        return self.f(data[0], p[0]) - data[1]


class Curve(SameHash):
    def __init__(self, f):
        self.f = f

    def __call__(self, x, p):
        return self.f(x, p[0])


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


def test_static_parts_of_a_module_are_looked_into():
    found = [
        jaxfit.curve_fit(Static(jnp.asarray(1.0), Frozen(gain=gain)), X, Y).popt[0]
        for gain in (1.0, 2.0)
    ]
    np.testing.assert_allclose(found, [6.0, 3.0], rtol=1e-6)


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


@pytest.mark.parametrize("library", ["pandas", "xarray"])
def test_tables_of_other_packages_are_looked_into(library):
    package = pytest.importorskip(library)
    if library == "pandas":
        table = package.DataFrame({"gain": [1.0, 1.0], "name": ["a", "b"]})
        model = of(lambda: table["gain"].to_numpy()[1])
        change = functools.partial(table.__setitem__, "gain")
    else:
        table = package.DataArray([1.0, 1.0], dims="x", coords={"x": [0, 1]})
        model = of(lambda: table.sel(x=1).item())
        change = functools.partial(table.__setitem__, slice(None))
    for gain in (1.0, 2.0, 2.0):
        change([5.0, gain])
        fit = jaxfit.curve_fit(model, X, Y, [1.0])
        np.testing.assert_allclose(fit.popt, [6.0 / gain], rtol=1e-6)
    assert fit.compile_time == 0


def test_what_cannot_be_looked_into_is_compiled_anew():
    numbers = itertools.count(1)
    model = of(lambda: 1.0 if numbers is not None else 0.0)
    assert captured(model) != captured(model)
    for _ in range(2):
        fit = jaxfit.curve_fit(model, X, Y, [1.0])
        np.testing.assert_allclose(fit.popt, [6.0], rtol=1e-6)
        assert fit.compile_time > 0
        np.testing.assert_allclose(fit.predict(X[:4]), Y[:4], rtol=1e-6)


class Lazy:
    """What a trace changes by itself is no change: a cache, a counter, a last value."""

    gain, calls, last = 1.0, 0, None

    @functools.cached_property
    def doubled(self):
        return 2 * self.gain

    def __call__(self, x, a):
        self.calls += 1
        self.last = a
        return a * self.doubled * x


def test_a_model_may_change_itself_when_it_is_called():
    model = Lazy()
    fit = jaxfit.curve_fit(model, X, Y, [1.0])
    np.testing.assert_allclose(fit.popt, [3.0], rtol=1e-6)
    np.testing.assert_allclose(fit.predict(X[:7]), Y[:7], rtol=1e-6)
    calls = model.calls
    again = jaxfit.curve_fit(model, X, Y, [1.0])
    assert again.compile_time == 0 and model.calls == calls > 0
    del model.doubled
    model.last = None
    model.gain = 2.0
    fit = jaxfit.curve_fit(model, X, Y, [1.0])
    np.testing.assert_allclose(fit.popt, [1.5], rtol=1e-6)

    problem = jaxfit.Problem(lambda p, data: model(X, p) - Y, np.ones(1))
    first = jaxfit.solve(problem).params
    calls = model.calls
    np.testing.assert_array_equal(jaxfit.solve(problem).params, first)
    assert model.calls == calls


def test_a_function_that_stands_for_another_is_still_what_it_was():
    """The first of two equal functions changes, and the second is asked for."""

    def make(held):
        return lambda x, a: a * held[0] * x

    one, two = [1.0], [1.0]
    first, second = make(one), make(two)
    assert interned(first)[0] is interned(second)[0] is first
    one[0] = 2.0
    fit = jaxfit.curve_fit(second, X[:13], Y[:13], [1.0])
    np.testing.assert_allclose(fit.popt, [6.0], rtol=1e-6)
    assert interned(second)[0] is second


def test_models_are_not_asked_whether_they_are_equal():
    class Loud:
        def __eq__(self, other):
            raise AssertionError("asked")

        def __hash__(self):
            raise AssertionError("asked")

        def __call__(self, x, a):
            return a * x

    for door in ("curve_fit", "batch", "solve", "solve_batch", "least_squares"):
        np.testing.assert_allclose(DOORS[door](Loud()), 6.0, rtol=1e-6)


def test_nothing_is_kept_of_a_weak_reference():
    kept = made(SameHash)
    model = of(lambda: weakref.ref(kept)().gain)
    for gain in (1.0, 2.0):
        kept.gain = gain
        fit = jaxfit.curve_fit(model, X, Y, [1.0])
        np.testing.assert_allclose(fit.popt, [6.0 / gain], rtol=1e-6)


class Labelled(eqx.Module):
    """A Module with a leaf, not a static field, that has no hash."""

    labels: set

    def __call__(self, x, a):
        return a * len(self.labels) * x


def test_what_has_no_hash_is_looked_into():
    for door in ("curve_fit", "solve of a curve"):
        for number in (1, 2, 3):
            found = DOORS[door](Labelled(set(range(number))))
            np.testing.assert_allclose(found, 6.0 / number, rtol=1e-6)
    fun = lambda p, held: p * len(held) * X - Y  # noqa: E731
    found = [jaxfit.least_squares(fun, [1.0], args=({*h},)).x[0] for h in ("a", "ab")]
    np.testing.assert_allclose(found, [6.0, 3.0], rtol=1e-6)


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
