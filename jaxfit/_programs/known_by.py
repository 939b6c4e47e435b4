"""Identity and content of objects, and the package that they are of."""

import contextlib
import functools
import sys
import types
from collections.abc import Hashable
from typing import Any


# Of Python's own modules those that hold what a user put there.
OPEN = frozenset({"__main__", "argparse", "collections", "types"})
PYTHON = frozenset(sys.stdlib_module_names) - OPEN
# What these hold does not change: arrays, traces, descriptions of devices.
FIXED = frozenset({"jax", "jaxlib", "jaxtyping", "optax", "jaxfit"})
_LIBRARIES = FIXED | PYTHON | {"numpy", "scipy", "equinox"}


class Same:
    """An object as itself: equal to nothing but itself, and kept alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Known:
    """What is known by `known_by()` alone, in the place of all that it holds."""

    def known_by(self) -> Hashable:
        """Equal for what may stand in each other's place in a program."""
        raise NotImplementedError


class Content:
    """Equal to another one if it holds the same; `opaque` if that cannot be told.

    What is opaque is equal to itself alone.
    """

    __slots__ = ("_hash", "key", "opaque")

    def __init__(self, key: Hashable, opaque: bool):
        self.key, self.opaque = key, opaque
        self._hash = hash(key)

    def __eq__(self, other) -> bool:
        if self is other:
            return True
        return isinstance(other, Content) and not self.opaque and self.same(other)

    def __hash__(self) -> int:
        return self._hash

    def same(self, other: "Content") -> bool:
        """Whether both hold the same, as far as they can be looked into."""
        return self._hash == other._hash and self.key == other.key


def attributes(thing: Any) -> dict[str, Any]:
    """What lies in an object's dictionary and slots."""
    found = {**getattr(thing, "__dict__", {})}
    for base in type(thing).__mro__:
        for name, slot in vars(base).items():
            if isinstance(slot, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # a slot that is empty
                    found[name] = slot.__get__(thing)
    return found


def in_c(cls: type) -> bool:
    """Whether a class is written in C, so that its state need not be in attributes."""
    return not cls.__flags__ & 1 << 9  # Py_TPFLAGS_HEAPTYPE


@functools.lru_cache(maxsize=1024)
def is_library(name: str) -> bool:
    """Whether a package is a library, by its name or by where it is installed."""
    if name in OPEN:  # a notebook's __main__ lies in site-packages
        return False
    if name in _LIBRARIES:
        return True
    path = getattr(sys.modules.get(name), "__file__", None) or ""
    return any(f"{folder}/" in path for folder in ("site-packages", "dist-packages"))


def package(thing: Any) -> str:
    """The package of a module, of a class or of an object's class."""
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
    else:
        cls = thing if isinstance(thing, type) else type(thing)
        name = cls.__module__ or ""
    return name.split(".")[0]
