"""Advice for a function that JAX cannot trace: the line, the cause, two ways out."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np


_PACKAGE = str(Path(__file__).parents[1])
_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class UntraceableError(TypeError):
    """A function needs values that a trace has not."""


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn JAX's tracing errors inside the function called `name` into advice."""
    try:
        yield
    except UntraceableError:
        raise
    except Exception as err:
        cause = tracing_error(err)
        if cause is None:
            raise
        raise UntraceableError(
            f"`{name}` cannot be traced by JAX{place_of(err)}. It needs the values of "
            f"its arguments there ({type(cause).__name__}), as NumPy functions, "
            "`float()`, `if` and `while` do. Write it with jax.numpy (jnp.exp, "
            "jnp.where, ...). On the host it runs in jaxfit.curve_fit and "
            "jaxfit.least_squares, by itself, and wherever "
            f"jaxfit.from_numpy({name}) is taken: slower, not in batches or streams."
        ) from err


def place_of(err: BaseException) -> str:
    """ " at line ... of ...", of the user's own code, or nothing."""
    cause = tracing_error(err)
    line = (None if cause is None else _line(cause)) or _line(err)
    if line is None:
        return ""
    return f" at line {line.lineno} of {line.filename}: `{line.line}`"


def tracing_error(err: BaseException | None) -> BaseException | None:
    """The tracing error among an exception and what led to it."""
    seen = set()
    while err is not None and id(err) not in seen:
        if isinstance(err, _UNTRACEABLE):
            return err
        seen.add(id(err))
        err = err.__cause__ or err.__context__
    return None


def _line(err: BaseException) -> traceback.FrameSummary | None:
    """The last line of the user's own code in a traceback."""
    libraries = tuple(
        module.__file__.rsplit("/", 1)[0]
        for module in (jax, np)
        if module.__file__ is not None
    )
    own = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith(libraries)
        and "site-packages" not in frame.filename
        and not frame.filename.startswith(_PACKAGE)
    ]
    return own[-1] if own else None
