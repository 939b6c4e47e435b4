"""The signature of a model f(x, *params): names and number of its parameters."""

import inspect
import types
from collections.abc import Callable
from typing import NamedTuple


class Signature(NamedTuple):
    """The parameters to fit of a model f(x, *params)."""

    names: tuple[str, ...]
    required: int  # how many of them have no default
    variadic: bool  # f takes more than those named, by *params

    def label(self, n: int) -> tuple[str, ...]:
        """Names for n parameters; those without one of their own are p0, p1, ..."""
        more = (f"p{i}" for i in range(len(self.names), n))
        return (*self.names[:n], *more)

    def check_count(self, n: int, what: str = "p0") -> None:
        """Refuse a number of parameters that the model does not take."""
        most = n if self.variadic else len(self.names)
        if self.required <= n <= most:
            return
        names = ", ".join(self.names) + (", ..." if self.variadic else "")
        raise ValueError(
            f"`{what}` has {n} entries, but the model wants {len(self.names)} "
            f"parameters ({names}): give one start for each."
        )


def signature_of(f: Callable) -> Signature:
    """The parameters of `f` after its first argument.

    **Raises:** `ValueError` where they cannot be found out.
    """
    own = type(f).__call__
    if isinstance(own, types.FunctionType) and not hasattr(f, "__wrapped__"):
        f = types.MethodType(own, f)  # `inspect` would compare the object with classes
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # some built-in functions have no signature
        return Signature((), 0, True)
    kinds = inspect.Parameter
    positional = [
        p
        for p in parameters
        if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    variadic = any(p.kind == kinds.VAR_POSITIONAL for p in parameters)
    params = positional[1:]
    required = sum(p.default is kinds.empty for p in params)
    return Signature(tuple(p.name for p in params), required, variadic)
