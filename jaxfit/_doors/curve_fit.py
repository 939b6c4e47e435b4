"""`curve_fit`: SciPy's call for one curve, and `CurveFit`, the same kept for more.

A call goes one way: it is read (`_scipy`: data, start, options), prepared
(`_scipy.prepared`: model, solver, padded data), fitted (`_curve.fit`) as one compiled
program (`_curve.program`: the kernel's `solve` of a `curve_problem`), and what comes
out is wrapped (`_curve.outcome`). Programs are shared by all calls with the same model
and the same options; data are padded where the model is row-wise, so that new lengths
rarely need a new one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._basics.precision import precision
from .._curve.fit import fitted, with_guess
from .._curve.outcome import result_of
from .._curve.result import CurveFitResult
from .._functions.expected import refuse_foreign
from .._functions.signature import signature_of
from .._programs.capture import by_identity
from .._programs.fork import check_process
from .._programs.tracing import at_once
from .._scipy.data import Data, fit_dtype, read_data
from .._scipy.host import hosted_loss, model_and_jacobian, table_columns
from .._scipy.leastsq_options import CALL_ONLY, read_options
from .._scipy.losses import read_loss
from .._scipy.options import check_jac, check_method, unjitted
from .._scipy.prepared import Read, remember, remembered, terms_of
from .._scipy.start import Start, read_start, with_own_estimate


def curve_fit(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool | int = False,
    check_finite: bool | None = None,
    bounds: Any = (-np.inf, np.inf),
    method: str | None = None,
    jac: Any = None,
    *,
    full_output: bool | int = False,
    nan_policy: str | None = None,
    **kwargs: Any,
) -> CurveFitResult:
    """Fit `f(x, *params)` to data: `scipy.optimize.curve_fit`, and more.

    SciPy's arguments mean what they mean there; "Coming from SciPy" in the
    documentation has them one by one. What differs most:

    - `f` is written with `jax.numpy`. One that JAX cannot trace (NumPy, SciPy, `if`,
        `float()`, columns of a table) runs on the host, slower, with a warning;
        `host="allow"` leaves the warning out, `host="refuse"` makes it an error. So for
        `jac` and `loss`. [`jaxfit.from_numpy`][] chooses how it is differentiated.
    - `jac=None` differentiates automatically. Tolerances that are not given are those
        of [`jaxfit.TRF`][], near the limits of the precision.
    - `xdata` may be any PyTree of arrays of leading length M besides SciPy's (M,) and
        (k, M), and `ydata` any array or PyTree that `f` returns.
    - `mask`, booleans like `ydata`: False leaves a datum out, and so do the masks of
        NumPy's masked arrays, of `xdata` and `sigma` as well.
    - `p0="auto"` guesses sizes from the data; a model's own `f.estimate_p0(xdata,
        ydata)` is used if there is one and `p0` is None. It is given arrays, without
        data that are left out.
    - `nan_policy="propagate"`: what is not finite makes the result NaN.
    - `fixed={"c": 0.0}` holds parameters at values, `fixed=[False, False, True]` at
        their starts. Equal bounds fix as well.
    - `clip_p0=True` moves a start that is outside its bounds to the nearest one.
    - `progress=True` shows a bar (needs tqdm). A fit that its `callback` stopped
        returns how far it came.

    Data in NumPy arrays are fitted in double precision whatever JAX's setting, which
    stays as it is; float32 JAX arrays in single precision.

    **Returns:** a [`jaxfit.CurveFitResult`][], which is the tuple (popt, pcov).

    **Raises:** `ValueError` or `TypeError` for what is wrong with the arguments, naming
    it; [`jaxfit.FitError`][], a `RuntimeError`, where no minimum was found: its
    `result` is the point reached, and `result.outcome` why it is none.

    **Warns:** `scipy.optimize.OptimizeWarning` where the covariance could not be
    estimated, naming the parameters that the data do not determine, where it comes from
    a nearly singular Jacobian, and where loose tolerances ended the fit more than a
    tenth of a standard error before its minimum.
    """
    call = {name: kwargs.pop(name) for name in CALL_ONLY if name in kwargs}
    if all([isinstance(value, _PLAIN) for value in kwargs.values()]):
        # 1 and 1.0 and True are equal, and not all the same to an option.
        options = tuple([(k, type(value), value) for k, value in kwargs.items()])
        fitter = by_identity(_plain_fitter, f, method, jac, options)
    else:
        fitter = CurveFit(f, method=method, jac=jac, **kwargs)
    return fitter(
        xdata,
        ydata,
        p0,
        sigma,
        absolute_sigma,
        check_finite,
        bounds,
        full_output=full_output,
        nan_policy=nan_policy,
        **call,
    )


_PLAIN = str | int | float | None


def _plain_fitter(
    f: Callable, method: str | None, jac: Any, options: tuple
) -> "CurveFit":
    given = {name: value for name, _, value in options}
    return CurveFit(f, method=method, jac=jac, **given)


class CurveFit:
    """`curve_fit` for one model and one choice of options, to be called many times.

    **Arguments:** the model, and the options of [`jaxfit.curve_fit`][] that are not
    about data: `method`, `jac`, `loss`, `f_scale`, `ftol`, `xtol`, `gtol`, `x_scale`,
    `diff_step`, `max_nfev`, `tr_solver`, `tr_options`, `verbose`, `callback`,
    `progress`, `host`, and of method "lm" `maxfev`, `epsfcn` and `diag`.

    Called with data it gives what `curve_fit` gives. Programs are compiled once for
    each bucket of lengths and shared with all other calls for the same model, by
    `curve_fit` or another fitter.

    **Raises:** `TypeError` for an unknown option, with the nearest one there is;
    `ValueError` for one that is out of range or that SciPy has and jaxfit has not.
    """

    def __init__(
        self,
        model: Callable,
        *,
        method: str | None = None,
        jac: Any = None,
        **options: Any,
    ):
        refuse_foreign(model)
        if not callable(model):
            raise TypeError(f"`f` must be callable, got {type(model).__name__}.")
        if method is not None:
            check_method(method)
        check_jac(jac)
        read = read_options(options)
        read_loss(read.loss, method or "trf")
        if callable(read.loss):
            loss = hosted_loss(read.loss, read.host)
            read = dataclasses.replace(read, loss=loss)
        self.model, self.method, self.jac = unjitted(model), method, jac
        self.options = read
        self.signature = by_identity(signature_of, self.model)

    @at_once
    def __call__(
        self,
        xdata: Any,
        ydata: Any,
        p0: Any = None,
        sigma: Any = None,
        absolute_sigma: bool | int = False,
        check_finite: bool | None = None,
        bounds: Any = (-np.inf, np.inf),
        *,
        full_output: bool | int = False,
        nan_policy: str | None = None,
        fixed: Mapping[str, float] | Any = None,
        clip_p0: bool = False,
        mask: Any = None,
    ) -> CurveFitResult:
        """Fit the model to data; the arguments are those of [`jaxfit.curve_fit`][]."""
        check_process()
        if nan_policy not in (None, "raise", "omit", "propagate"):
            raise ValueError(
                "nan_policy must be one of {None, 'raise', 'omit'} or 'propagate', got "
                f"{nan_policy!r}."
            )
        if check_finite is None:
            check_finite = nan_policy is None
        if isinstance(ydata, int | float) and np.ndim(xdata):
            ydata = np.full(np.shape(xdata)[-1], float(ydata))
        dtype = fit_dtype(ydata)
        reading = ydata, sigma, check_finite, nan_policy, dtype, mask
        data = read_data(xdata, *reading)
        counting = functools.partial(_counting, data, xdata)
        p0 = with_own_estimate(p0, self.model, counting)
        start = read_start(self.signature, p0, bounds, fixed, clip_p0, dtype)
        read = Read(data, start, self.options, self._method(start, data))
        with precision(dtype):
            key, terms = remembered(self.model, self.jac, xdata, read)
            if terms is None:
                model, jac, columns = model_and_jacobian(
                    self.model, self.jac, xdata, data, start.p0, self.options.host
                )
                if columns is not None:
                    data = read_data(columns, *reading)
                read = read._replace(data=data)
                terms = terms_of(model, jac, read, columns is not None)
                remember(key, terms)
            prepared = terms.of(data, start)
            if start.guess:
                prepared = with_guess(prepared)
            done = fitted(prepared, self.options.watching())
        return result_of(
            prepared, done, bool(absolute_sigma), bool(full_output), nan_policy
        )

    def _method(self, start: Start, data: Data) -> str:
        """SciPy's choice of the method, and its rules about it."""
        bounded = start.limits is not None
        robust = self.options.loss != "linear"
        method = self.method or ("trf" if bounded or robust else "lm")
        if method == "lm":
            if bounded:
                raise ValueError(
                    "Method 'lm' only works for unconstrained problems. Use 'trf' or "
                    "'dogbox' instead."
                )
            n = len(start.free)
            if n > data.count:
                raise TypeError(
                    f"The number of func parameters={n} must not exceed the number of "
                    f"data points={data.count}. method='trf' fits all the same."
                )
        return method


def _counting(data: Data, xdata: Any) -> tuple[Any, Any]:
    """x and y that count; of a table the table itself or, if some do not, columns."""
    x, y = data.counting()
    columns = table_columns(xdata)
    if columns is None:
        return x, y
    if data.mask is None:
        return xdata, y
    return {name: a[data.mask] for name, a in columns.items()}, y
