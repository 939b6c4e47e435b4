"""Errors that say how a function is called, where it cannot take its arguments."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def expected(name: str, form: str, *args: Any) -> Iterator[None]:
    """Say how the function called `name` is called, where it fails by that.

    **Raises:** `TypeError` where it takes another number of arguments, or looks for a
    name in an array.
    """
    try:
        yield
    except TypeError as err:
        says = str(err)
        if "positional argument" not in says and "string indexing" not in says:
            raise
        raise TypeError(
            f"`{name}` is called as {form}, here with {_kind(args[0])} and "
            f"{_kind(args[1])}: {says}"
        ) from err


def _kind(thing: Any) -> str:
    shape = getattr(thing, "shape", None)
    return type(thing).__name__ if shape is None else f"an array of shape {shape}"


_FOREIGN = {
    "lmfit": "an lmfit Model. Its function is `model.func`",
    "astropy": "an astropy model. Its function is `model.evaluate`",
}


def refuse_foreign(model: Any) -> None:
    """Refuse a model object of another fitting package, with the way out."""
    package = (type(model).__module__ or "").split(".")[0]
    if package in _FOREIGN:
        raise TypeError(
            f"`f` is {_FOREIGN[package]}: pass that, or write f(x, *params) with "
            "jax.numpy."
        )
