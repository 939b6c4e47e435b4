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

import collections
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

from ._kept import Memory


# What these packages hold does not change under a fit. Namespaces and the like are of
# the standard library, but what they hold is their user's.
_OPEN = {"__main__", "argparse", "collections", "types"}
_LIBRARIES = frozenset(
    {"jax", "jaxlib", "numpy", "scipy", "equinox", "optax", "jaxtyping", "jaxfit"}
) | (frozenset(sys.stdlib_module_names) - _OPEN)


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
    """Equal to an earlier value only if nothing that `fn` captures has changed.

    Arrays among the leaves of a PyTree (of an equinox Module, say) are no part of it:
    they are data of the program.
    """
    if isinstance(fn, types.FunctionType):
        return _value(fn, set())
    arrays, rest = eqx.partition(fn, lambda a: isinstance(a, jax.Array | np.ndarray))
    del arrays
    leaves, treedef = jax.tree.flatten(rest)
    seen: set[int] = set()
    values = tuple(_value(leaf, seen) for leaf in leaves)
    return treedef, values, _value(type(fn), seen)


def check_capture(fn: Callable, capture: Hashable, name: str) -> None:
    """Refuse to trace a function that has changed since `capture` was made.

    **Raises:** `ValueError`: a result cannot evaluate a model that is no longer so.
    """
    if captured(fn) != capture:
        raise ValueError(
            f"`{name}` has changed since the fit: a global, an attribute or something "
            "else that it captures has another value now. Fit again, or pass such "
            "values as parameters or as part of x."
        )


def interned(fn: Callable) -> tuple[Callable, Hashable]:
    """A function that does the same as `fn`, always the same one, and its capture.

    A lambda written in a loop is a new object each time round, with the same code: its
    program is compiled once.
    """
    capture = captured(fn)
    if isinstance(fn, types.FunctionType):
        fn = _FUNCTIONS.get(capture, lambda fn=fn: fn)
    return fn, capture


_FUNCTIONS = Memory(1024)


def _value(thing: Any, seen: set[int]) -> Hashable:
    if thing is None or isinstance(thing, bool | int | str | bytes):
        return thing.__class__, thing
    if isinstance(thing, float):
        return float, thing.hex()  # equal for equal NaN, different for 0 and -0
    if isinstance(thing, np.ndarray | np.generic):
        if thing.dtype.hasobject:
            return tuple(_value(item, seen) for item in thing.flat)
        content = np.ascontiguousarray(thing).tobytes()
        return thing.shape, thing.dtype.str, hashlib.blake2b(content).digest()
    if isinstance(thing, Tracer):
        raise TypeError(
            "the function captures a value that is traced by JAX, and this call works "
            "on the host: inside jit, vmap or grad call "
            "jaxfit.solve(jaxfit.curve_problem(...))."
        )
    if isinstance(thing, jax.Array) or id(thing) in seen:
        return _Same(thing)
    seen.add(id(thing))
    if isinstance(thing, types.FunctionType):
        return _function(thing, seen)
    if isinstance(thing, types.MethodType):
        return _value(thing.__func__, seen), _value(thing.__self__, seen)
    if isinstance(thing, staticmethod | classmethod):
        return _value(thing.__func__, seen)
    if isinstance(thing, property):
        return _value(thing.fget, seen)
    if isinstance(thing, functools.partial):
        parts = (thing.func, thing.args, thing.keywords)
        return tuple(_value(part, seen) for part in parts)
    if isinstance(thing, dict):
        return dict, _items(thing, seen)
    if isinstance(thing, list | tuple | collections.deque):
        return thing.__class__, tuple(_value(item, seen) for item in thing)
    if isinstance(thing, set | frozenset):
        return set, frozenset(_value(item, seen) for item in thing)
    if _is_library(_package(thing)) or isinstance(thing, types.ModuleType):
        return _Same(thing)
    if isinstance(thing, type):
        own = [base for base in thing.__mro__ if not _is_library(_package(base))]
        return _Same(thing), tuple(_items(_members(base), seen) for base in own)
    attributes = {**getattr(thing, "__dict__", {})}
    for base in type(thing).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                attributes[name] = getattr(thing, name)
    return _Same(thing), _items(attributes, seen), _value(type(thing), seen)


def _items(things: dict[Any, Any], seen: set[int]) -> Hashable:
    # No `_value` of what was made here: `seen` knows objects by their address, and the
    # next one made might have the same.
    return tuple((_key(k), _value(v, seen)) for k, v in things.items())


def _members(cls: type) -> dict[str, Any]:
    """Attributes of a class and, of its special methods, `__call__`."""
    return {k: v for k, v in vars(cls).items() if k[:2] != "__" or k == "__call__"}


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
    if fn.__module__ is not None and not _is_library(fn.__module__.split(".")[0]):
        names = _names(fn.__code__)
        parts.append(_named(fn.__globals__, names, seen))
    return tuple(parts)


def _named(space: dict[str, Any], names: tuple[str, ...], seen: set[int]) -> Hashable:
    """What the names stand for in a module, and in modules that they name there."""
    parts = []
    for name in names:
        if name not in space or name[0] == "@":  # what pytest adds to a test's module
            continue
        value = space[name]
        if not isinstance(value, types.ModuleType):
            parts.append((name, _value(value, seen)))
        elif not _is_library(_package(value)) and id(value) not in seen:
            # `module.number`: the attribute's name is among the code's names.
            seen.add(id(value))
            parts.append((name, _named(vars(value), names, seen)))
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


@functools.lru_cache(maxsize=1024)
def _is_library(package: str) -> bool:
    """Whether a package is a library, by its name or by where it is installed."""
    if package in _OPEN:  # a notebook's __main__ lies in site-packages
        return False
    if package in _LIBRARIES:
        return True
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return any(f"{folder}/" in path for folder in ("site-packages", "dist-packages"))


def _package(thing: Any) -> str:
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
    else:
        cls = thing if isinstance(thing, type) else type(thing)
        name = cls.__module__ or ""
    return name.split(".")[0]
