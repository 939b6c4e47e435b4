"""The result of `curve_fit`: SciPy's tuple (popt, pcov), and more by name."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._diagnosis.criteria import Measures, measures
from .._problem.curve import like_data
from .._scipy.pcov import scale_of
from .._solve.covariance import correlation_of, derived
from .._uncertainty.distributions import quantile
from .inference import Inference
from .plot import plot
from .predict import Predictor
from .saved import arrays, plain, restored
from .summary import summary


class FitError(RuntimeError):
    """A fit that found no minimum; `result` is how far it came."""

    def __init__(self, message: str, result: Any):
        super().__init__(message, result)
        self.result = result

    def __str__(self) -> str:
        return self.args[0]


class CurveFitResult(Inference, tuple):
    """The tuple (popt, pcov), or SciPy's five with `full_output`, and more by name.

    **Attributes:**

    - `popt`: the parameters, of shape (n,). `names` are theirs, from the model's
        signature, and `params` is a dictionary of both.
    - `pcov`: their covariance, (n, n), as SciPy's: all infinite where it could not be
        estimated, else zero for fixed parameters.
    - `covariance`: the same, knowing more: only the parameters that the data do not
        determine (their names are in `undetermined`) have an infinite variance, and
        NaN covariances.
    - `perr`: standard errors, the root of the diagonal of `covariance`. What is made
        of them (`correlation`, intervals, bands) is SciPy's like `pcov`. With a robust
        loss or an active bound `covariance_of()` knows better: "What each number
        means" in the documentation says how.
    - `cost`: half the sum of squared weighted residuals, or of the robust loss.
    - `outcome`: a [`jaxfit.Status`][]; `message`: the same in words; `status`: the same
        as an integer, but 0 where no minimum was found for a reason of which SciPy has
        no code; `success` is `status > 0`.
    - `nfev`, `njev`, `nit`: evaluations of the model and of its derivatives, and steps.
    - `optimality`, `active_mask`: as in SciPy's `least_squares`; `fixed` tells which
        parameters were held.
    - `num_data`, `dof`: data used, and degrees of freedom, as of
        [`jaxfit.Solution`][].
    - `num_differenced`: data at which the model is finite and an automatic derivative
        of it at the solution is not: there it is a difference.
    - `compile_time`, `run_time`: seconds spent in compiling and in the fit itself.
    - `solution`: the kernel's [`jaxfit.Solution`][] over the free parameters. Where
        JAX's own precision is single, ask it inside `jax.enable_x64(True)`.
    - `chi2`, `reduced_chi2`, `r2`, `adjusted_r2`, `rmse`, `mae`, `aic`, `aicc`, `bic`:
        goodness of fit, together in `measures`.
    - `xdata`, `ydata`, `sigma`, `used`: the data as they were fitted and, after
        `nan_policy="omit"`, which of them counted.

    - `measures` holds the goodness of fit, `residuals` are y - f and
        `weighted_residuals` what was minimised.

    More is computed when it is asked for: `profile`, `contour`, `bootstrap`,
    `jackknife`, `influence`, `covariance_of`, `propagate`, `goodness_of_fit`, `laplace`
    and `diagnose`.

    A result read back by `from_dict` or unpickled knows its numbers; its model and
    data it knows only if they were given to it again or saved with it.
    """

    popt: np.ndarray
    pcov: np.ndarray
    names: tuple[str, ...]

    def __new__(cls, numbers: dict[str, Any], full: tuple = (), **parts: Any):
        """From plain numbers by name, the rest of SciPy's five, and live parts."""
        self = super().__new__(cls, (numbers["popt"], numbers["pcov"], *full))
        self.__dict__.update(numbers)
        self.__dict__["_numbers"] = tuple(numbers)
        self.__dict__.update(parts)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a result is not to be changed: cannot set `{name}`.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a result is not to be changed: cannot delete `{name}`.")

    def __getattr__(self, name: str) -> Any:
        if name in Measures.__dataclass_fields__:
            return getattr(self.measures, name)
        if name in _DATA:
            raise AttributeError(
                f"this result was read back without its `{name}`: save it with "
                "to_dict(data=True)."
            )
        raise AttributeError(f"a CurveFitResult has no `{name}`.")

    def _evaluated(self) -> Predictor:
        if "predictor" not in self.__dict__:
            raise ValueError(
                "this result was read back without its model: "
                "CurveFitResult.from_dict(saved, model) gives it one."
            )
        return self.__dict__["predictor"]

    def _known(self) -> None:
        if "ydata" not in self.__dict__:
            raise ValueError(
                "this result was read back without its data: save it with "
                "to_dict(data=True)."
            )

    @property
    def params(self) -> dict[str, float]:
        """The parameters by name."""
        return dict(zip(self.names, self.popt.tolist(), strict=True))

    @property
    def success(self) -> bool:
        """Whether one of the tolerances was met."""
        return self.status > 0

    @property
    def correlation(self) -> np.ndarray:
        """Correlations of the parameters, (n, n); NaN where there are none."""
        return correlation_of(self.covariance)

    @functools.cached_property
    def solution(self) -> Any:
        """The kernel's solution over the free parameters."""
        if "done" not in self.__dict__:
            raise AttributeError("a result that was read back has no `solution`.")
        return self.__dict__["done"].solution

    @functools.cached_property
    def fitted(self) -> Any:
        """The model at the data, in the structure of `ydata`."""
        self._known()
        return like_data(self._evaluated().values(self.xdata), self.ydata)

    @functools.cached_property
    def residuals(self) -> Any:
        """y - f(x), in the structure of `ydata`; NaN where a datum was left out."""
        return jax.tree.map(
            lambda y, f, used: np.where(used, y - f, np.nan),
            self.ydata,
            self.fitted,
            self.used,
        )

    @functools.cached_property
    def weighted_residuals(self) -> np.ndarray:
        """(f(x) - y) / sigma of the data used, as one vector: what was minimised."""
        used = _flat(self.used)
        r = -_flat(self.residuals)[used]
        if self.sigma is None:
            return r
        if np.ndim(self.sigma) == 2 and np.ndim(self.ydata) == 1:
            lower = np.linalg.cholesky(self.sigma[np.ix_(used, used)])
            return np.linalg.solve(lower, r)
        sigma = jax.tree.map(
            lambda y, s: np.broadcast_to(s, y.shape), self.ydata, self.sigma
        )
        return r / _flat(sigma)[used]

    @functools.cached_property
    def measures(self) -> Measures:
        """Goodness of fit, [see there for the formulas](api.md)."""
        used = _flat(self.used)
        y, r = _flat(self.ydata)[used], _flat(self.residuals)[used]
        k = self.num_data - self.dof
        weighted = self.weighted_residuals
        return measures(y, r, weighted, self.cost, k, self.absolute_sigma)

    def predict(self, x: Any) -> Any:
        """The fitted model at `x`, which has the form of `xdata`."""
        return self._evaluated().values(x)

    def confidence_interval(self, level: float = 0.95) -> np.ndarray:
        """Lower and upper limits of every parameter, (n, 2).

        popt -+ q perr, with q the quantile of Student's t, or of the normal
        distribution where sigma is absolute.

        **Raises:** `ValueError` unless 0 < level < 1.
        """
        half = self._quantile(level) * self.perr
        return np.stack([self.popt - half, self.popt + half], axis=1)

    def confidence_band(
        self, x: Any = None, level: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits of the model's value at `x` (the data's if None).

        By the delta method: the variance of f is g'Cg with g its gradient by the
        parameters. Infinite where f depends on what the data do not determine.

        **Raises:** `ValueError` unless 0 < level < 1.
        """
        return self._band(x, level, 0.0)

    def prediction_band(
        self, x: Any = None, level: float = 0.95, sigma: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits of a new datum at `x` (the data's if None).

        The variance of the datum is added to that of the model: `sigma` squared, times
        the reduced chi2 unless sigma is absolute. `sigma` is needed where the data had
        one each and `x` is another.

        **Raises:** `ValueError` where it is needed, and unless 0 < level < 1.
        """
        if sigma is None:
            sigma = 1.0 if self.sigma is None else self.sigma
            if np.ndim(sigma) == 2:
                sigma = np.sqrt(np.diag(sigma))
            if np.ndim(sigma) and x is not None:
                raise ValueError(
                    "`sigma` must be given for a prediction at other points: the data "
                    "had a standard deviation each."
                )
        if not isinstance(sigma, np.ndarray | np.generic | float | int | list | tuple):
            raise ValueError(_ONE_ARRAY)
        noise = np.asarray(sigma, float) ** 2
        return self._band(x, level, noise * self._noise_scale())

    def summary(self, level: float = 0.95) -> str:
        """The result as an aligned table."""
        return summary(self, level)

    def plot(self, level: float = 0.95, axes: Any = None) -> Any:
        """Data, curve, bands and residuals, by matplotlib, on two `axes` if given."""
        return plot(self, level, axes)

    def to_dict(self, data: bool = False) -> dict[str, Any]:
        """The numbers as lists and strings, fit for JSON; with x, y, sigma on request.

        What is not finite becomes a string, for JSON has no such numbers.
        """
        out = {name: plain(getattr(self, name)) for name in self._numbers}
        if "ydata" in self.__dict__ or "measures" in self.__dict__:
            out["measures"] = {k: plain(v) for k, v in vars(self.measures).items()}
        if data:
            out["data"] = {name: plain(getattr(self, name)) for name in _DATA}
        return out

    def to_json(self, data: bool = False) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(data), allow_nan=False)

    @staticmethod
    def from_dict(saved: dict[str, Any], model: Callable | None = None):
        """A result from `to_dict`; with the model it can predict again."""
        saved = dict(saved)
        parts: dict[str, Any] = {}
        if "measures" in saved:
            numbers = {k: float(v) for k, v in saved.pop("measures").items()}
            parts["measures"] = Measures(**numbers)
        for name, value in saved.pop("data", {}).items():
            parts[name] = arrays(value, bool if name == "used" else float)
        numbers = {name: restored(name, value) for name, value in saved.items()}
        result = CurveFitResult(numbers, **parts)
        if model is not None:
            result.__dict__["predictor"] = Predictor.of_saved(
                model, result.popt, result.fixed, bool(saved["rows_last"])
            )
        return result

    @staticmethod
    def from_json(text: str, model: Callable | None = None):
        """A result from `to_json`."""
        return CurveFitResult.from_dict(json.loads(text), model)

    def __reduce__(self):
        parts = {k: v for k, v in self.__dict__.items() if k in (*_DATA, "measures")}
        numbers = {name: getattr(self, name) for name in self._numbers}
        return _unpickled, (numbers, tuple(self[2:]), parts)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self) -> str:
        values = ", ".join(
            f"{name}={value:.6g} ± {error:.2g}"
            for name, value, error in zip(self.names, self.popt, self.perr, strict=True)
        )
        return f"CurveFitResult({values}; {self.message})"

    def _quantile(self, level: float) -> float:
        return quantile(level, None if self.absolute_sigma else self._scipy_dof)

    def _noise_scale(self) -> float:
        """The variance of a datum of sigma 1, as SciPy has it."""
        return float(scale_of(self.cost, self._scipy_dof, self.absolute_sigma))

    @property
    def _scipy_dof(self) -> int:
        """m - n, where n counts a parameter at an active bound: what pcov rests on."""
        return self.num_data - int(np.sum(~self.fixed))

    def _band(self, x, level, noise) -> tuple[np.ndarray, np.ndarray]:
        q = self._quantile(level)
        if x is None:
            self._known()
            x = self.xdata
        value, slopes, _ = self._evaluated().slopes(x)
        if not isinstance(value, np.ndarray):
            raise ValueError(_ONE_ARRAY)
        variance = np.sum((slopes @ self.root.T) ** 2, axis=-1) * self._noise_scale()
        variance = derived(variance, np.asarray(slopes), self.null, self.unit)
        half = q * np.sqrt(variance + noise)
        return value - half, value + half


_ONE_ARRAY = "bands are for models whose value is one array."
_DATA = ("xdata", "ydata", "sigma", "used")


def _unpickled(numbers, full, parts) -> CurveFitResult:
    return CurveFitResult(numbers, full, **parts)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
