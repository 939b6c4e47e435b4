"""What a function captures besides its arguments, as a value that can be compared.

A traced program keeps the globals, closures and attributes that its model had when it
was traced. The doors compile anew when `captured(model)` has changed, so a model never
runs with values that are no longer so. What is seen:

- the function's own code, defaults, closure, and the globals that it names, and those
  of the functions that it calls, as far as they are not of a library;
- attributes of objects and of classes, items of containers, contents of NumPy arrays.

JAX arrays are immutable and objects of other kinds are known by identity. What a helper
wrapped in `jax.jit` captured is JAX's to remember, and it does not look twice.
"""

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np


# What these packages hold does not change under a fit.
_LIBRARIES = frozenset(
    {"jax", "jaxlib", "numpy", "scipy", "equinox", "optax", "jaxtyping", "jaxfit"}
) | frozenset(sys.stdlib_module_names) - {"__main__"}


class _Same:
    """An object as itself: equal to nothing but itself, and kept alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def captured(fn: Callable) -> Hashable:
    """Equal to an earlier value only if nothing that `fn` captures has changed."""
    return _value(fn, set())


def _value(thing: Any, seen: set[int]) -> Hashable:
    if thing is None or isinstance(thing, bool | int | str | bytes):
        return thing.__class__, thing
    if isinstance(thing, float):
        return float, thing.hex()  # equal for equal NaN, different for 0 and -0
    if isinstance(thing, np.ndarray | np.generic):
        if thing.dtype.hasobject:
            return _value(thing.tolist(), seen)
        content = np.ascontiguousarray(thing).tobytes()
        return thing.shape, thing.dtype.str, hashlib.blake2b(content).digest()
    if isinstance(thing, jax.Array) or id(thing) in seen:
        return _Same(thing)
    seen.add(id(thing))
    if isinstance(thing, types.FunctionType):
        return _function(thing, seen)
    if isinstance(thing, types.MethodType):
        return _value(thing.__func__, seen), _value(thing.__self__, seen)
    if isinstance(thing, functools.partial):
        parts = (thing.func, thing.args, thing.keywords)
        return tuple(_value(part, seen) for part in parts)
    if isinstance(thing, dict):
        return dict, tuple((_key(k), _value(v, seen)) for k, v in thing.items())
    if isinstance(thing, list | tuple):
        return thing.__class__, tuple(_value(item, seen) for item in thing)
    if _package(thing) in _LIBRARIES or isinstance(thing, types.ModuleType):
        return _Same(thing)
    if isinstance(thing, type):
        members = {k: v for k, v in vars(thing).items() if k[:2] != "__"}
        return _Same(thing), _value(members, seen)
    attributes = {**getattr(thing, "__dict__", {})}
    for base in type(thing).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                attributes[name] = getattr(thing, name)
    return _Same(thing), _value(attributes, seen), _value(type(thing), seen)


def _function(fn: types.FunctionType, seen: set[int]) -> Hashable:
    cells = []
    for cell in fn.__closure__ or ():
        try:
            cells.append(_value(cell.cell_contents, seen))
        except ValueError:  # a cell that is still empty
            cells.append(None)
    parts: list[Hashable] = [
        _Same(fn.__code__),
        tuple(cells),
        _value(fn.__defaults__, seen),
        _value(fn.__kwdefaults__, seen),
    ]
    if fn.__module__ is not None and fn.__module__.split(".")[0] not in _LIBRARIES:
        names = _names(fn.__code__)
        for name in names:
            if name not in fn.__globals__:
                continue
            value = fn.__globals__[name]
            if isinstance(value, types.ModuleType):
                if _package(value) not in _LIBRARIES:
                    # `module.number`: the attribute's name is among the code's names.
                    inside = {k: vars(value)[k] for k in names if k in vars(value)}
                    parts.append((name, _value(inside, seen)))
            else:
                parts.append((name, _value(value, seen)))
    return tuple(parts)


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that a code object, or one inside it, looks up."""
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(
        dict.fromkeys([*code.co_names, *(n for names in inner for n in names)])
    )


def _key(key: Any) -> Hashable:
    try:
        hash(key)
    except TypeError:
        return _Same(key)
    return key


def _package(thing: Any) -> str:
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
    else:
        cls = thing if isinstance(thing, type) else type(thing)
        name = cls.__module__ or ""
    return name.split(".")[0]
