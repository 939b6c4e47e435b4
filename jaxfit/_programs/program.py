"""`program`: a function that is compiled when it is called, and kept within a budget.

`jax.jit` keeps what it compiles for as long as its function lives, which for a function
of a module is for ever, and with it whatever the model captured. Here each structure of
arguments has a `jax.jit` of its own, which can be given up (`kept`): with it go the
trace, the code, its memory maps and the captured arrays.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.tree_util import tree_flatten, tree_unflatten

from .._basics.precision import full_products
from .budget import taken
from .fork import check_process
from .kept import STORE
from .tracing import is_within_a_trace


# A fit is a hundred kernels and more. XLA's older emitters compile them in half of the
# processor time of the newer ones, and they run as fast; after JAX 0.10 they are gone.
_OLDER = {"xla_cpu_use_fusion_emitters": False}
_OPTIONS = _OLDER if jax.__version__.startswith("0.10.") else {}


class Compiled:
    """A `jax.jit` of its own for one structure of arguments, given their leaves."""

    def __init__(self, fn: Callable, treedef: Any, static: dict[int, Any], options):
        # Of what comes in and of what goes out; no part of a cycle, so that a program
        # that is given up is freed at once.
        self.forms = forms = [treedef, None]

        def run(leaves):
            args = list(jax.tree.unflatten(forms[0], leaves))
            for i in sorted(static):
                args.insert(i, static[i])
            with _tracing():
                # JAX remembers structures of what it traces: it is shown leaves only.
                out, forms[1] = jax.tree.flatten(fn(*args))
                return out

        run.__name__ = run.__qualname__ = fn.__name__
        self.jit = jax.jit(run, **options)
        self.is_new = True
        self.lock = threading.Lock()

    def compile(self, key: Hashable, leaves: list) -> float:
        """Compile it unless that is done, and note what it takes; in seconds."""
        begun = time.perf_counter()
        with self.lock:
            if self.is_new:
                before = taken()
                with _discarded_on_failure(key):
                    traced = self.jit.trace(leaves)
                    traced.lower().compile()
                self.is_new = False
                STORE.compiled(key, before, _captured_bytes(traced.jaxpr, set()))
        return time.perf_counter() - begun

    def first_call(self, key: Hashable, leaves: list) -> Any:
        """Its value where something is traced, which JAX may compile on the way."""
        before = taken()
        with _discarded_on_failure(key):
            out = self(leaves)
        self.is_new = False
        STORE.compiled(key, before, 0)
        return out

    def __call__(self, leaves: list) -> Any:
        out = self.jit(leaves)  # which may be what finds its form
        return tree_unflatten(self.forms[1], out)


class Program:
    """`jax.jit` of a function of PyTrees, for many structures of arguments."""

    def __init__(self, fn: Callable, static: tuple[int, ...], options: dict[str, Any]):
        functools.update_wrapper(self, fn)
        self._fn, self._static = fn, static
        # JAX takes those of the compiler for the outermost program only.
        self._of_compiler = options.pop("compiler_options", {})
        self._options = options

    def __call__(self, *args: Any) -> Any:
        compiled, key, leaves = self._find(args)
        if compiled.is_new and key is not None:
            if _is_traced(leaves):
                return compiled.first_call(key, leaves)
            compiled.compile(key, leaves)
        return compiled(leaves)

    def ready(self, *args: Any) -> tuple[Callable[[], Any], float]:
        """The call, compiled, and the seconds that this took: 0 if done before."""
        compiled, key, leaves = self._find(args)
        seconds = 0.0
        if compiled.is_new and key is not None:
            seconds = compiled.compile(key, leaves)
        return functools.partial(compiled, leaves), seconds

    def like(self, *args: Any) -> Compiled:
        """The program of arguments like these, compiled, to be called with the leaves.

        For a loop whose arguments are alike each time: finding it takes some 0.1 ms.
        """
        compiled, key, leaves = self._find(args)
        if compiled.is_new and key is not None:
            compiled.compile(key, leaves)
        return compiled

    def _find(self, args: tuple) -> tuple[Compiled, "_Key | None", list]:
        """The program, its key among those that are kept (None: none), the leaves."""
        static: dict[int, Any] = {}
        if self._static:
            static = {i: args[i] for i in self._static if i < len(args)}
            args = tuple([a for i, a in enumerate(args) if i not in static])
        # A part of another program is that one's, and goes when it has been traced.
        inner = _TRACE.parts
        if inner is None:
            args = tuple(map(_current, args))
        leaves, treedef = tree_flatten(args)
        wide = jax.config.read("jax_enable_x64")
        traced = is_within_a_trace() or _is_traced(leaves)
        statics = (*static.values(),)
        key = _Key((self, treedef, statics, _shapes(leaves), wide, traced))
        if inner is None:
            return self._kept(key, treedef, static, traced), key, leaves
        new = functools.partial(Compiled, self._fn, treedef, static, self._options)
        found = inner[key] = inner.get(key) or new()
        found.forms[0] = treedef
        return found, None, leaves

    def _kept(
        self, key: "_Key", treedef: Any, static: dict[int, Any], traced: bool
    ) -> Compiled:
        """The program of a key among those that are kept.

        One that is traced is a part of the user's, which JAX gives no options.
        """
        check_process()
        options = self._options
        if not traced and jax.default_backend() == "cpu":
            options = {**options, "compiler_options": _OPTIONS | self._of_compiler}
        new = functools.partial(Compiled, self._fn, treedef, static, options)
        found = STORE.get(key, new)
        # JAX may trace again, for arrays elsewhere, and an equal function of before may
        # have changed since.
        found.forms[0] = treedef
        return found


class Bound:
    """Calls of a program whose first arguments do not change: they are looked at once.

    To be found by its arguments takes a program as long as a tenth of a small fit.
    """

    def __init__(self, program: Program, fixed: tuple):
        self._program, self._fixed = program, fixed
        self._leaves, _ = tree_flatten(fixed)
        self._known: dict[Hashable, tuple[_Key, Any]] = {}

    def ready(self, given: Any) -> tuple[Callable[[], Any], float]:
        """As `Program.ready` of the fixed arguments and one more."""
        if _TRACE.parts is not None or is_within_a_trace():
            return self._program.ready(*self._fixed, given)
        leaves, form = tree_flatten(given)
        kind = form, _shapes(leaves), jax.config.read("jax_enable_x64")
        known = self._known.get(kind)
        if known is None:
            compiled, key, _ = self._program._find((*self._fixed, given))
            if key is not None:
                self._known[kind] = key, compiled.forms[0]
        else:
            key, treedef = known
            compiled = self._program._kept(key, treedef, {}, False)
        leaves = [*self._leaves, *leaves]
        seconds = compiled.compile(key, leaves) if compiled.is_new else 0.0
        return functools.partial(compiled, leaves), seconds


class _Key:
    """What a program is known by, hashed once."""

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: tuple):
        self.parts, self._hash = parts, hash(parts)

    def __eq__(self, other) -> bool:
        if self is other:
            return True
        same = isinstance(other, _Key) and self._hash == other._hash
        return same and self.parts == other.parts

    def __hash__(self) -> int:
        return self._hash


def _shapes(leaves: list) -> tuple:
    """The shapes and types of arrays and numbers."""
    try:
        return tuple([(a.shape, a.dtype) for a in leaves])
    except AttributeError:  # a number of Python's
        return tuple([(np.shape(a), getattr(a, "dtype", type(a))) for a in leaves])


def program(
    fn: Callable | None = None, *, static: tuple[int, ...] = (), **options: Any
) -> Any:
    """Compile a function of PyTrees as `jax.jit` does, but keep it within the budget.

    `static` are the numbers of arguments that are hashed instead of traced; the other
    options are those of `jax.jit`. The function is called by position. An argument that
    has a method `current()`, a problem say, is known by what its functions hold now.
    """
    if fn is None:
        return functools.partial(program, static=static, **options)
    return Program(fn, static, options)


class _Trace(threading.local):
    """The programs that are parts of the one being traced in this thread, or None."""

    parts: dict[Hashable, Compiled] | None = None


_TRACE = _Trace()


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    before = _TRACE.parts
    if before is None:
        _TRACE.parts = {}
    try:
        with full_products():
            yield
    finally:
        _TRACE.parts = before


@contextlib.contextmanager
def _discarded_on_failure(key: Hashable) -> Iterator[None]:
    """A program that cannot be made, for an error in the model, is not kept."""
    try:
        yield
    except BaseException:
        STORE.discard(key)
        raise


def _current(thing: Any) -> Any:
    """What an argument with such a method is now.

    Its class is asked: equinox makes a Module of a method that is taken from a Module.
    """
    current = getattr(type(thing), "current", None)
    return thing if current is None else current(thing)


def _is_traced(leaves: list) -> bool:
    return any([isinstance(a, Tracer) for a in leaves])


def _captured_bytes(thing: Any, seen: set[int]) -> int:
    """The bytes of the arrays that a traced program holds, in all its parts."""
    # Newer releases of JAX have one class for what were two.
    if isinstance(thing, ClosedJaxpr | Jaxpr):
        consts = getattr(thing, "consts", ())
        own = {id(a): a for a in consts if id(a) not in seen}
        seen.update(own)
        return sum(getattr(a, "nbytes", 0) for a in own.values()) + sum(
            _captured_bytes(value, seen)
            for eqn in thing.eqns
            for value in eqn.params.values()
        )
    if isinstance(thing, tuple | list):
        return sum(_captured_bytes(item, seen) for item in thing)
    return 0
