"""SciPy's options and jaxfit's own, by name and type, each checked as it is read."""

import dataclasses
import enum
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from .host import Host, check_host
from .losses import check_f_scale
from .report import Watching


METHODS = ("trf", "dogbox", "lm")
SCHEMES = ("2-point", "3-point", "cs")


class OptionWarning(UserWarning):
    """An option of SciPy's that has no effect here."""


def check_method(method: Any) -> None:
    if method not in METHODS:
        raise ValueError(f"`method` must be 'trf', 'dogbox' or 'lm', got {method!r}.")


def check_jac(jac: Any) -> None:
    if jac is not None and not callable(jac) and jac not in SCHEMES:
        raise ValueError(
            "`jac` must be '2-point', '3-point', 'cs' or callable, or None for "
            f"automatic differentiation, got {jac!r}."
        )


def check_verbose(verbose: Any) -> None:
    if verbose not in (0, 1, 2):
        raise ValueError(f"`verbose` must be in [0, 1, 2], got {verbose!r}.")


def check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback` must be callable or None, got {callback!r}.")


def check_max_nfev(max_nfev: Any) -> None:
    """Refuse a limit that is no whole number of evaluations."""
    if max_nfev is None:
        return
    whole = isinstance(max_nfev, int | float | np.integer) and max_nfev % 1 == 0
    if isinstance(max_nfev, bool) or not whole or max_nfev <= 0:
        raise ValueError(
            f"`max_nfev` must be None or positive integer, got {max_nfev!r}."
        )


def check_hints(jac_sparsity: Any, workers: Any) -> None:
    """Check what tells SciPy how to come by derivatives, and changes no result."""
    if workers is not None and not callable(workers):
        try:
            operator.index(workers)
        except TypeError as err:
            raise TypeError(
                "`workers` must be an integer or a map-like callable, as in SciPy, got "
                f"{workers!r}. XLA runs on all cores whatever it is."
            ) from err
    if jac_sparsity is not None and len(np.shape(jac_sparsity)) != 2:
        raise ValueError(
            "`jac_sparsity` must have shape (m, n), as in SciPy, got "
            f"{np.shape(jac_sparsity)}. Derivatives are dense whatever it is."
        )


def check_matrix(kind: str | None, method: str, tr_solver: Any, x_scale: Any) -> None:
    """SciPy's rules for a `jac` that returns a sparse matrix or a LinearOperator."""
    if kind is None:
        return
    if method == "lm" or tr_solver == "exact":
        what = "method='lm'" if method == "lm" else "tr_solver='exact'"
        raise ValueError(
            f"{what} needs dense derivatives: a `jac` that returns an array, and no "
            "`jac_sparsity`."
        )
    if kind == "operator" and isinstance(x_scale, str):
        raise ValueError(
            "x_scale='jac' can't be used when `jac` returns a LinearOperator. Leave it "
            "out: parameters are scaled all the same."
        )


def unjitted(fn: Callable) -> Callable:
    """What the user wrapped in `jax.jit` or equinox's: a trace outlives changes."""
    while hasattr(fn, "lower") and hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__  # type: ignore[attr-defined]
    return fn


class NotGiven(enum.Enum):
    """What stands for a tolerance that was not given: None is "never stop by it"."""

    NOT_GIVEN = "not given"


NOT_GIVEN: Literal[NotGiven.NOT_GIVEN] = NotGiven.NOT_GIVEN


@dataclasses.dataclass(frozen=True, eq=False)
class Options:
    """How a fit is made: the options of SciPy's `least_squares`, and jaxfit's own.

    Those that need the number of parameters are checked where they are used
    (`solver`, `differences`, `losses`).

    **Raises:** `ValueError` or `TypeError` naming the option that is wrong.
    """

    ftol: Any = NOT_GIVEN
    xtol: Any = NOT_GIVEN
    gtol: Any = NOT_GIVEN
    x_scale: Any = None  # None is "jac"
    max_nfev: int | float | np.integer | None = None
    tr_solver: str | None = None  # "exact" or "lsmr"
    tr_options: Mapping[str, Any] | None = None
    diff_step: Any = None
    jac_sparsity: Any = None
    workers: Any = None
    loss: str | Callable = "linear"
    f_scale: Any = 1.0
    verbose: int = 0
    callback: Callable | None = None
    progress: bool = False
    host: Host = "warn"

    def __post_init__(self):
        check_verbose(self.verbose)
        check_callback(self.callback)
        check_hints(self.jac_sparsity, self.workers)
        check_host(self.host)
        check_f_scale(self.f_scale)
        if self.tr_solver not in (None, "exact", "lsmr"):
            raise ValueError(
                f"`tr_solver` must be None, 'exact' or 'lsmr', got {self.tr_solver!r}."
            )
        check_max_nfev(self.max_nfev)

    @functools.cached_property
    def are_plain(self) -> bool:
        """Whether all that makes a program are numbers and names without a warning."""
        values = (
            *(self.ftol, self.xtol, self.gtol, self.x_scale, self.max_nfev),
            *(self.tr_solver, self.loss, self.f_scale),
        )
        plain = all(isinstance(v, str | int | float | NotGiven | None) for v in values)
        return plain and self.diff_step is None and self.tr_options is None

    def watching(self) -> Watching | None:
        """Who wants to be told while the fit runs; None for nobody."""
        given = Watching(self.verbose, self.callback, self.progress)
        return given if given.wanted else None
