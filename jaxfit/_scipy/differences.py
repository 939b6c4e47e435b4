"""Derivatives by finite differences: SciPy's `jac="2-point"` and `diff_step`."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._basics.checks import outside
from .._functions.differences import DifferenceJacobian, Scheme
from .._functions.from_numpy import HostFunction
from .data import real_array
from .options import OptionWarning


class Differences(NamedTuple):
    """How derivatives are taken: the scheme, and steps relative to |x| (None: usual).

    Steps are one number or n of them.
    """

    scheme: Scheme
    step: Any

    def jacobian(
        self,
        residual: Callable,
        fn: Callable,
        limits: tuple[Any, Any] | None,
        argnum: int,
        free: list[int] | None = None,
    ) -> DifferenceJacobian:
        """The Jacobian of `residual` by its argument `argnum`.

        `fn` is the caller's function in it, which on the host tells the relative error
        of its values; `limits` bound all parameters, of which some are `free`.
        """
        which: Any = slice(None) if free is None else free
        if limits is not None:
            limits = jnp.asarray(limits[0][which]), jnp.asarray(limits[1][which])
        step = self.step if np.size(self.step) == 1 else self.step[which]
        eps = fn.eps if isinstance(fn, HostFunction) else 0.0
        return DifferenceJacobian(residual, limits, step, self.scheme, eps, argnum)


def read_differences(
    fn: Callable, jac: Any, step: Any, n: int, dtype: np.dtype
) -> Differences | None:
    """The differences that `jac` and `diff_step` ask for; None for no differences.

    A host function without a Jacobian has differences for its only way.

    **Raises:** `ValueError` for steps that are none.

    **Warns:** `OptionWarning` of a step that nothing takes.
    """
    if isinstance(fn, HostFunction) and jac is None and fn.jac is None:
        jac, step = fn.derivative, fn.diff_step if step is None else step
    if step is not None:
        steps = real_array(step, "diff_step", np.dtype(float))
        if steps.shape not in ((), (1,), (n,)):
            raise ValueError(
                f"`diff_step` must be one number or {n}, got shape {steps.shape}."
            )
        if not (np.isfinite(steps) & (steps != 0)).all():
            raise ValueError(f"`diff_step` must be finite and not 0, got {step!r}.")
        step = steps.astype(dtype)
        if jac is None:
            warnings.warn(
                "`diff_step` (or `epsfcn`) has no effect: derivatives are automatic. "
                "jac='2-point' takes steps.",
                OptionWarning,
                stacklevel=outside(),
            )
    return None if jac is None or callable(jac) else Differences(jac, step)
