"""The outcome of a fit as data."""

import enum


class Status(enum.IntEnum):
    """Why a fit ended: SciPy's codes where SciPy has one, negative for a failure.

    HESSIAN, AT_A_LIMIT and AT_A_KINK are what `curve_fit` and `least_squares` make of
    STALLED where a closer look, after the fit, finds a reason; `solve` and batches keep
    STALLED.
    """

    LEFT_THE_DATA = -11
    AT_A_KINK = -10
    RUNNING = -9
    STALLED = -7
    INFEASIBLE_START = -6
    NONFINITE_JACOBIAN = -5
    NONFINITE_START = -4
    TOO_FEW_DATA = -3
    STOPPED = -2
    MAX_STEPS = 0
    GTOL = 1
    FTOL = 2
    XTOL = 3
    FTOL_XTOL = 4
    HESSIAN = 5
    AT_A_LIMIT = 6

    @property
    def message(self) -> str:
        """One sentence, in SciPy's words where SciPy has them."""
        return _MESSAGES[self]

    @property
    def of_scipy(self) -> int:
        """The code at SciPy's doors: 0 for a fit without a certificate, as for one that
        went on for too long, and SciPy's 1 for a vanishing gradient."""
        return _OF_SCIPY.get(self, int(self))


# Without a certificate: a closer look may tell more, and the cost is above the least.
DOUBTFUL = (Status.STALLED, Status.LEFT_THE_DATA)


_MESSAGES = {
    Status.RUNNING: "The fit has not ended.",
    Status.STALLED: (
        "No minimum: the next step would still move the parameters by more than a "
        "thousandth of their errors, but none that was tried lowers the cost."
    ),
    Status.AT_A_KINK: (
        "No minimum in the usual sense: the residual has a kink here, and its "
        "derivatives on the two sides disagree."
    ),
    Status.LEFT_THE_DATA: (
        "No minimum: the fit went where the data no longer determine parameters that "
        "they determined at the start."
    ),
    Status.INFEASIBLE_START: "The start is outside its bounds.",
    Status.NONFINITE_JACOBIAN: "The Jacobian is not finite where short steps lead.",
    Status.NONFINITE_START: "The residual or its Jacobian is not finite at the start.",
    Status.TOO_FEW_DATA: "There are fewer data than free parameters, or none.",
    Status.STOPPED: "Stopped because `callback` raised `StopIteration` or gave True.",
    Status.MAX_STEPS: "The maximum number of steps or evaluations was reached.",
    Status.GTOL: "`gtol` termination condition is satisfied.",
    Status.FTOL: "`ftol` termination condition is satisfied.",
    Status.XTOL: "`xtol` termination condition is satisfied.",
    Status.FTOL_XTOL: "Both `ftol` and `xtol` termination conditions are satisfied.",
    Status.HESSIAN: (
        "A minimum by its exact second derivatives; the Jacobian alone, which is "
        "singular or nearly so here, does not show it."
    ),
    Status.AT_A_LIMIT: (
        "The cost has come to its limit in a valley towards infinitely large "
        "parameters, which the data do not determine."
    ),
}


_OF_SCIPY = {
    Status.STALLED: 0,
    Status.AT_A_KINK: 0,
    Status.LEFT_THE_DATA: 0,
    Status.HESSIAN: 1,
    Status.AT_A_LIMIT: 2,
}
