"""Containers that a model may read, and how each is changed.

The model is a * gain * x, so that a = 6 / gain for the data 6 x: an answer of the old
content is wrong by the factor by which the gain has changed.
"""

import array
import collections
import contextvars
import dataclasses
import functools
import random
import types

import equinox as eqx
import jax
import numpy as np
from scipy.interpolate import CubicSpline

import jaxfit


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
