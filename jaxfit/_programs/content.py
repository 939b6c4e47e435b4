"""The content of an object, as a value that can be compared.

Two things have equal values only if a function that reads them would find the same.
`__eq__` and `__hash__` of users' classes are not asked: they may leave out what a model
reads. Told by content are numbers, texts, arrays, containers, functions (their code,
defaults, closure and the globals that they name) and objects all of whose state lies in
attributes; objects of other packages by what `pickle` writes of them. JAX arrays,
classes, modules and objects of JAX and of Python's library are told by identity.
"""

import array
import collections
import contextvars
import functools
import hashlib
import io
import itertools
import pickle
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .known_by import (
    FIXED,
    OPEN,
    PYTHON,
    Content,
    Known,
    Same,
    attributes,
    in_c,
    is_library,
    package,
)


# Of what Python's modules hold, that which is a value and may change.
_PICKLED = frozenset({"array", "configparser", "ctypes", "random"})
_PLAIN = frozenset({type(None), bool, int, str, bytes})
_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)
# Written in C, and all that they hold is looked at.
_KNOWN = frozenset(
    {object, int, float, complex, str, bytes, bytearray, np.ndarray, *_CONTAINERS}
    | {collections.OrderedDict, collections.defaultdict, types.SimpleNamespace}
)


class Walk:
    """One look through an object and all that it holds.

    Afterwards `traced` tells whether a value traced by JAX was among it, and `opaque`
    whether something that cannot be looked into was.
    """

    def __init__(self, before: "Walk | None" = None):
        # Where each object was met first, and the objects themselves: they are known by
        # their address, and a new one must not come to lie there.
        self._place: dict[int, int] = {} if before is None else dict(before._place)
        self._met: list[Any] = [] if before is None else list(before._met)
        self.traced = self.opaque = False

    def value(self, thing: Any) -> Hashable:
        """Equal for two objects only if they hold the same."""
        kind = type(thing)
        if kind in _PLAIN:
            return kind, thing
        if kind is float:
            return float, thing.hex()  # equal for equal NaN, different for 0 and -0
        if kind is complex:
            return complex, thing.real.hex(), thing.imag.hex()
        if isinstance(thing, Tracer):
            self.traced = True
            return Same(thing)
        if isinstance(thing, jax.Array):
            return Same(thing)
        if isinstance(thing, Content):
            self.opaque |= thing.opaque
            return thing.key
        if isinstance(thing, Known):
            return kind, thing.known_by()
        if kind is np.ndarray or isinstance(thing, np.generic):
            return self._array(thing)
        if id(thing) in self._place:
            return "met", self._place[id(thing)]
        self._place[id(thing)] = len(self._met)
        self._met.append(thing)
        return self._of_object(thing)

    def _of_object(self, thing: Any) -> Hashable:
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, types.MethodType | staticmethod | classmethod):
            owner = getattr(thing, "__self__", None)
            return type(thing), self.value(thing.__func__), self.value(owner)
        if isinstance(thing, types.BuiltinMethodType | types.MethodWrapperType):
            if isinstance(owner := thing.__self__, types.ModuleType | type(None)):
                return Same(thing)
            return type(thing), thing.__name__, self.value(owner)
        if isinstance(thing, property | functools.cached_property):
            return self.value(thing.fget if isinstance(thing, property) else thing.func)
        if isinstance(thing, functools.partial | functools.partialmethod):
            return self._several(thing.func, thing.args, thing.keywords)
        if isinstance(thing, functools._lru_cache_wrapper):
            return Same(thing), self.value(thing.__wrapped__)
        if isinstance(thing, range | slice):
            return type(thing), self._several(thing.start, thing.stop, thing.step)
        if isinstance(thing, contextvars.ContextVar):
            return Same(thing), self.value(thing.get(None))
        if isinstance(thing, types.MappingProxyType):
            return types.MappingProxyType, self.items(dict(thing))
        if isinstance(thing, bytearray | memoryview | array.array):
            return type(thing), bytes(thing)
        if type(thing) in (dict, list, tuple, set, frozenset):
            return type(thing), self._contained(thing)
        if isinstance(thing, types.ModuleType):
            return Same(thing)
        if isinstance(thing, type):
            own = [base for base in thing.__mro__ if not is_library(package(base))]
            return Same(thing), self._several(*map(_members, own))
        if not is_library(package(thing)):
            return self._user_object(thing)
        return self._library_object(thing)

    def _user_object(self, thing: Any) -> Hashable:
        """By all its state, if that is where it can be seen, and its class."""
        kind = type(thing)
        bases = [base for base in kind.__mro__ if in_c(base)]
        if not _KNOWN.issuperset(bases):
            if in_c(kind) and package(thing) in OPEN:
                return Same(thing)  # a part of Python's own classes
            return self.value(kind), self._written(thing)
        content: Hashable = None
        if isinstance(thing, _CONTAINERS):
            content = self._contained(thing)
        elif isinstance(thing, np.ndarray):
            content = self._array(thing)
        elif isinstance(thing, int | float | complex | str | bytes | bytearray):
            base = next(b for b in kind.__mro__ if b in _KNOWN)
            content = self.value(base(thing))
        if isinstance(thing, collections.defaultdict):
            content = content, self.value(thing.default_factory)
        return self.value(kind), content, self.items(attributes(thing))

    def _library_object(self, thing: Any) -> Hashable:
        name = package(thing)
        if isinstance(thing, np.ndarray):
            return type(thing), self._array(thing), self.items(attributes(thing))
        if isinstance(thing, Iterator) and name in ("builtins", "itertools"):
            return self._unknown(thing)  # whoever reads it changes it
        fixed = name in FIXED or (name in PYTHON and name not in _PICKLED)
        if fixed or isinstance(thing, type | np.ufunc | np.dtype):
            return Same(thing)
        return Same(type(thing)), self._written(thing)

    def _written(self, thing: Any) -> Hashable:
        """By what pickle writes, else by its attributes, else as nothing known."""
        file, inside = io.BytesIO(), []
        pickler = _Pickler(file, thing, self, inside)
        try:
            pickler.dump(thing)
        except Exception:  # whatever a class's own methods raise: it is not to be had
            if all(b is object or not in_c(b) for b in type(thing).__mro__):
                return self.items(attributes(thing))
            return self._unknown(thing)
        return hashlib.blake2b(file.getbuffer()).digest(), tuple(inside)

    def _unknown(self, thing: Any) -> Hashable:
        self.opaque = True
        return Same(thing)

    def _array(self, thing: Any) -> Hashable:
        thing = np.asarray(thing)
        if thing.dtype.hasobject:
            return thing.shape, thing.dtype, self._several(*thing.ravel().tolist())
        content = np.ascontiguousarray(thing).tobytes()
        return thing.shape, thing.dtype, hashlib.blake2b(content).digest()

    def _contained(self, thing: Any) -> Hashable:
        if isinstance(thing, dict):
            return self.items(dict(dict.items(thing)))
        base: Any
        for base in (list, tuple, collections.deque):
            if isinstance(thing, base):
                return tuple(map(self.value, base.__iter__(thing)))
        for base in (set, frozenset):
            if isinstance(thing, base):
                return frozenset(map(self._apart, base.__iter__(thing)))
        raise AssertionError(type(thing))

    def _apart(self, thing: Any) -> Hashable:
        """The value of a thing that has no place among others, as in a set."""
        walk = Walk(self)
        value = walk.value(thing)
        self.traced, self.opaque = self.traced | walk.traced, self.opaque | walk.opaque
        return value

    def _several(self, *things: Any) -> Hashable:
        return tuple(map(self.value, things))

    def items(self, things: dict[Any, Any]) -> Hashable:
        """Of the keys and values of a dictionary."""
        return tuple((self.value(k), self.value(v)) for k, v in things.items())

    def _function(self, fn: types.FunctionType) -> Hashable:
        cells = []
        for cell in fn.__closure__ or ():
            try:
                cells.append(self.value(cell.cell_contents))
            except ValueError:  # a cell that is still empty
                cells.append(None)
        parts: list[Hashable] = [
            Same(fn.__code__),
            tuple(cells),
            self.value(fn.__defaults__),
            self.value(fn.__kwdefaults__),
        ]
        if vars(fn):
            own = {k: v for k, v in vars(fn).items() if k != "__wrapped__"}
            parts.append(self.items(own))
        if fn.__module__ is not None and not is_library(fn.__module__.split(".")[0]):
            parts.append(self._named(fn.__globals__, _names(fn.__code__)))
        return tuple(parts)

    def _named(self, space: dict[str, Any], names: tuple[str, ...]) -> Hashable:
        """What names stand for in a module, and in modules that they name there."""
        parts = []
        for name in names:
            if name not in space or name[0] == "@":  # what pytest adds to a test
                continue
            value = space[name]
            if not isinstance(value, types.ModuleType):
                parts.append((name, self.value(value)))
            elif not is_library(package(value)) and id(value) not in self._place:
                # `module.number`: the attribute's name is among the code's names.
                self._place[id(value)] = len(self._met)
                self._met.append(value)
                parts.append((name, self._named(vars(value), names)))
        return tuple(parts)


class _Pickler(pickle.Pickler):
    """Writes an object, but for what `Walk` looks at itself: that goes to `inside`."""

    def __init__(self, file: io.BytesIO, whole: Any, walk: Walk, inside: list):
        super().__init__(file, 5)
        self._whole, self._walk, self._inside = whole, walk, inside

    def persistent_id(self, thing: Any) -> int | None:
        kinds = types.FunctionType | types.MethodType | jax.Array | np.ndarray
        if thing is self._whole or type(thing) in _PLAIN:
            return None
        if not isinstance(thing, kinds) and is_library(package(thing)):
            return None
        self._inside.append(self._walk.value(thing))
        return len(self._inside)


def _members(cls: type) -> dict[str, Any]:
    """Attributes of a class; of the special ones those that are functions."""
    called = types.FunctionType | staticmethod | classmethod | property
    return {
        k: v for k, v in vars(cls).items() if k[:2] != "__" or isinstance(v, called)
    }


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that a code object, or one inside it, looks up."""
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(dict.fromkeys(itertools.chain(code.co_names, *inner)))
