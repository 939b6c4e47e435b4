"""Warnings of `curve_fit` besides SciPy's, from numbers that are at hand.

A success that `diagnose` would not call one is told at once: a minimum that the
Jacobian does not show, and tolerances so loose that the fit stopped by more than a
tenth of a standard error before the minimum.
"""

from collections.abc import Iterator

import numpy as np

from .._basics.status import Status
from .._scipy.messages import optimize_warning
from .._scipy.pcov import scale_of
from .._scipy.prepared import Prepared
from .._solve.second_opinion import Fitted
from .._solve.solver import TRF


# In standard errors: how near the minimum has to be, and how far a fit may stop from it
# by its tolerances before that is looked at.
_NEAR, _LOOSE = 0.1, 0.03
# Residuals are rounding up to so many eps of what parameters make of the model.
_ROUNDING = 64


def warn_of_health(prepared: Prepared, done: Fitted, known: bool) -> None:
    """Warn where a fit that succeeded has numbers that mislead.

    `known` says that `sigma` is absolute.
    """
    for says in _findings(prepared, done, known):
        optimize_warning(says)


def _findings(prepared: Prepared, done: Fitted, known: bool) -> Iterator[str]:
    outcome = done.outcome
    if outcome.counts[0] == Status.HESSIAN:
        yield (
            "Standard errors are not to be trusted: they come from the Jacobian, which "
            "is nearly singular at this minimum. result.covariance_of('hessian') has "
            "others, and result.profile() intervals."
        )
    dof = prepared.dof
    if dof <= 0 or not _is_loose(prepared.solver):
        return
    ways, x = outcome.directions, np.asarray(outcome.params)
    norms = np.where(ways.unit > 0, 1 / np.where(ways.unit > 0, ways.unit, 1), 0)
    residual = np.sqrt(2 * float(outcome.cost))
    if residual <= _ROUNDING * np.finfo(x.dtype).eps * np.linalg.norm(norms * x):
        return
    free = (np.asarray(outcome.active_mask) == 0) & ~ways.lost
    inverse = ways.determined.T @ ways.determined
    step = inverse @ np.where(free, np.asarray(outcome.grad), 0)
    error = np.sqrt(np.diag(inverse) * scale_of(float(outcome.cost), dof, known))
    offset = np.where(free, np.abs(step) / np.where(error > 0, error, np.inf), 0)
    worst = int(np.argmax(offset))
    if offset[worst] > _NEAR:
        name = prepared.names[worst]
        yield (
            f"The fit stopped before the minimum: the next step would move {name} by "
            f"{offset[worst]:.2g} of its error. Tighten ftol and xtol."
        )


def _is_loose(solver: TRF) -> bool:
    return any(
        float(tol) ** power > _LOOSE  # type: ignore[arg-type]
        for tol, power in solver.offsets
    )
