"""The result of `curve_fit_batch`: maps of parameters and what belongs to them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._basics.status import Status
from .._batch.solution import outcomes, summary
from .slices import Numbers


class CurveFitBatchResult(tuple):
    """The tuple (popt, pcov) of a batch of shape B, and more by name.

    **Attributes:** arrays with the axes of the batch in front.

    - `popt`: the parameters, (*B, n). `names` are theirs, from the model's signature,
        and `params` is a dictionary of maps. NaN where nothing was fitted: where
        `status` is negative.
    - `pcov`: their covariances, (*B, n, n), or None. A parameter that the data do not
        determine has an infinite variance and NaN covariances.
    - `perr`: standard errors, (*B, n), the roots of the diagonals of `pcov`, or None.
    - `undetermined`: booleans (*B, n), parameters that the data do not determine, also
        in fits that converged; None without covariances.
    - `cost`: half the sum of squared weighted residuals, or of the robust loss.
    - `status`: the outcomes, by the codes of [`jaxfit.Status`][], not SciPy's: a fit
        that stalled is STALLED, without the closer look that `curve_fit` takes.
        `success` is `status > 0`. STOPPED are those that Ctrl-C kept from being begun.
    - `nfev`, `njev`, `nit`: evaluations of the model and of its derivatives, and steps.
    - `optimality`, `active_mask`: as in SciPy's `least_squares`.
    - `num_data`, `dof`: data used, and degrees of freedom.
    - `differenced`: booleans: fits at whose solution some automatic derivatives are not
        finite though the model is, or the model forbids them: there they are
        differences.
    - `lane_efficiency`: the share of the lanes' steps that were steps of a fit.
    - `compile_time`, `run_time`: seconds.
    """

    popt: np.ndarray
    pcov: np.ndarray | None

    def __new__(
        cls,
        numbers: Numbers,
        shape: tuple[int, ...],
        names: tuple[str, ...],
        again: Callable[[np.ndarray, Any], Numbers] | None,
    ):
        """From flat arrays; `again(indices, p0)` fits some of the fits once more."""

        def shaped(a):
            return None if a is None else a.reshape((*shape, *a.shape[1:]))

        self = super().__new__(cls, (shaped(numbers.popt), shaped(numbers.pcov)))
        self.__dict__.update({k: shaped(a) for k, a in numbers.arrays().items()})
        counts = self.__dict__.pop("counts")
        for i, name in enumerate(("status", "nfev", "njev", "nit")):
            self.__dict__[name] = counts[..., i]
        self.__dict__.update(
            popt=self[0],
            pcov=self[1],
            perr=shaped(numbers.perr),
            undetermined=shaped(numbers.undetermined),
            names=names,
            shape=shape,
            lane_efficiency=numbers.lane_efficiency,
            compile_time=numbers.compile_time,
            run_time=numbers.run_time,
            _numbers=numbers,
            _again=again,
        )
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a result is not to be changed: cannot set `{name}`.")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a CurveFitBatchResult has no `{name}`.")

    def __reduce__(self):
        """Pickled are the numbers; the data and the model stay behind."""
        return CurveFitBatchResult, (self._numbers, self.shape, self.names, None)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """A map of each parameter by its name."""
        return {name: self.popt[..., i] for i, name in enumerate(self.names)}

    @property
    def success(self) -> np.ndarray:
        """Whether each fit met a tolerance."""
        return np.asarray(self.status > 0)

    @property
    def failed(self) -> tuple[np.ndarray, ...]:
        """The indices of the fits that met no tolerance, for `status[failed]`."""
        return np.nonzero(np.atleast_1d(~self.success))

    @property
    def outcomes(self) -> dict[Status, int]:
        """How many fits ended in which way, the most frequent first."""
        return outcomes(self.status.ravel())

    def summary(self) -> str:
        """The outcomes as a table, and how many fits have undetermined parameters."""
        lost = self.undetermined
        if lost is not None:
            lost = lost.reshape(-1, lost.shape[-1])
        return summary(self.status.ravel(), lost, self.names)

    def refit(self, p0: Any, where: Any = None) -> "CurveFitBatchResult":
        """This result with some of the fits made again from other starts.

        **Arguments:**

        - `p0`: n starting values for all of them, one set for each of them (k, n), or
            for the whole batch (*B, n).
        - `where`: booleans of shape B: which fits; those that failed if None.

        A fit is replaced if the new one converged and the old one did not, or if both
        did and the new one has the lower cost.

        **Returns:** a new [`jaxfit.CurveFitBatchResult`][].

        **Raises:** `ValueError` for shapes that do not fit.
        """
        chosen = ~self.success if where is None else np.asarray(where)
        if chosen.dtype != bool or chosen.shape != self.shape:
            raise ValueError(
                f"`where` must be booleans of shape {self.shape}, got "
                f"{chosen.dtype} of shape {chosen.shape}."
            )
        if self._again is None:
            raise ValueError(
                "this result was pickled, and has its numbers but neither its data nor "
                "its model: fit again with `p0=result.popt`."
            )
        rows = np.flatnonzero(chosen)
        p0 = np.asarray(p0)
        if p0.shape == self.popt.shape and p0.ndim > 1:
            p0 = p0.reshape(-1, p0.shape[-1])[rows]
        merged = self._numbers.improved(rows, self._again(rows, p0))
        return CurveFitBatchResult(merged, self.shape, self.names, self._again)
