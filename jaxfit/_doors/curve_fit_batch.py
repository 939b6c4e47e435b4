"""`curve_fit_batch`: SciPy's call for many fits at once.

A call is read on the host (`_curve_batch.reading`), cut into slices
(`_curve_batch.slices`) that go through one compiled program (`_curve_batch.program`:
the kernel's `solve_batch`), and what comes out is wrapped (`_curve_batch.result`).
Starts may come from neighbours (`_curve_batch.neighbours`).
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np

from .._basics.checks import check_tolerance, is_concrete, one_of, positive_int
from .._basics.precision import precision
from .._batch.solve_batch import mesh_of
from .._curve_batch.data import BatchData, Part
from .._curve_batch.neighbours import from_neighbours
from .._curve_batch.reading import read_measured, read_shaped, wrong_shape
from .._curve_batch.result import CurveFitBatchResult
from .._curve_batch.slices import BatchCall, Numbers
from .._curve_batch.start import guess, read_batch_start
from .._functions.callables import Function
from .._functions.constants import forget_other_precision
from .._functions.from_numpy import HostFunction
from .._programs.capture import interned
from .._programs.fork import check_process
from .._scipy.losses import check_f_scale, read_loss
from .._scipy.model import ScipyJacobian, ScipyModel, is_cut_off
from .._scipy.options import check_max_nfev, unjitted
from .._scipy.solver import read_x_scale
from .._solve.solver import TRF


def curve_fit_batch(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    *,
    bounds: Any = (-np.inf, np.inf),
    mask: Any = None,
    fixed: Any = None,
    start: Any = "auto",
    clip_p0: bool = False,
    nan_policy: str | None = None,
    shared_x: bool | None = None,
    jac: Callable | None = None,
    loss: str | Callable = "linear",
    f_scale: float = 1.0,
    ftol: float | None = None,
    xtol: float | None = None,
    gtol: float | None = None,
    x_scale: Any = "jac",
    max_nfev: int | None = None,
    covariance: bool = True,
    dtype: Any = None,
    polish: bool = False,
    lanes: int | None = None,
    devices: Any = None,
    slice_size: int | None = None,
    progress: bool = False,
) -> CurveFitBatchResult:
    """Fit `f(x, *params)` to many data sets: thousands to millions of small fits.

    **Arguments:**

    - `f`: the model, written with `jax.numpy`, as of [`jaxfit.curve_fit`][]. Fastest if
        it treats the data one by one: then lanes of fits go through the rows together.
    - `xdata`: shared by all fits, (m,) or (k, m); or per fit, (*B, m) or (*B, k, m); or
        a PyTree of such arrays. One of the shape of `ydata` is per fit, unless
        `shared_x=True`.
    - `ydata`: (*B, m), the data of a fit along the last axis, any axes in front: an
        image stack gives maps. It may be a memory map. A list of arrays of unequal
        lengths is a batch too, `xdata` (and `sigma`, `mask`) then likewise.
    - `p0`: starts, (n,) for all or (*B, n) per fit; "auto" guesses one from the mean of
        the data; "neighbours" fits block means first, from coarse to fine along the
        axes of B, and makes again what stands out from its neighbours, from theirs.
        None asks the model's `estimate_p0(xdata, ydata)` with the mean.
    - `start`: where "neighbours" begins: (n,) numbers, or "auto".
    - `sigma`: standard deviations of y: one number, (m,), (*B, m) or (*B, 1); or an
        (m, m) covariance for all, unless that is the shape of `ydata`.
        `absolute_sigma` as in SciPy.
    - `bounds`: (lower, upper), each a number, (n,) or (*B, n). Equal bounds fix a
        parameter, and so does `fixed`: {"name": value}, or booleans that hold
        parameters at their starts.
    - `mask`: booleans (m,) or (*B, m): False leaves a datum out.
    - `nan_policy`: None ends fits with data that are not finite with a status;
        "omit" leaves such data out.
    - `clip_p0`: move starts outside their bounds to the nearest bound.
    - `jac`: `jac(x, *params)` of shape (m, n); automatic differentiation if None.
    - `loss`, `f_scale`, `x_scale`: as in [`jaxfit.curve_fit`][].
    - `max_nfev`: evaluations after which a fit ends with status 0; by default SciPy's
        100 n. Fits that take more than 32 are put off until the others are done.
    - `ftol`, `xtol`, `gtol`: as in [`jaxfit.TRF`][], but by default the root of the
        precision: 1.5e-8 in float64, like SciPy's, and 3.5e-4 in float32.
    - `covariance`: False saves its time and its memory, n * n numbers a fit.
    - `dtype`: "float32" or "float64"; by default as of [`jaxfit.curve_fit`][], double
        but for float32 JAX arrays. `polish=True` fits in single precision and ends in
        double.
    - `lanes`, `devices`: as of [`jaxfit.solve_batch`][]; by default all local devices,
        and of a CPU all cores.
    - `slice_size`: fits worked on in one piece, which bounds the memory; chosen for
        the size of a fit if None.
    - `progress`: show a bar over the fits (needs tqdm). Ctrl-C returns what is done.

    **Returns:** a [`jaxfit.CurveFitBatchResult`][], the tuple (popt, pcov). What goes
    wrong in a fit is its status, and changes no bit of the others.

    **Raises:** `ValueError` or `TypeError` for what is wrong with the arguments or with
    what all fits share, naming it.
    """
    check_process()
    f = unjitted(f)
    if isinstance(f, HostFunction):
        raise ValueError(
            "`f` is a NumPy function, which lanes cannot run: write it with jax.numpy, "
            "or call curve_fit in a loop."
        )
    one_of("nan_policy", nan_policy, Literal[None, "omit"])
    if jac is not None and not callable(jac):
        raise TypeError(
            "`jac` must be callable, or None for automatic differentiation, got "
            f"{jac!r}."
        )
    for name, value in _named(xdata, ydata, p0, sigma, mask):
        if not is_concrete(value):
            raise TypeError(
                f"`{name}` is traced by JAX, and this function works on the host: "
                "inside jit, vmap or grad call jaxfit.solve_batch."
            )
    check_f_scale(f_scale)
    for name, tol in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol)):
        check_tolerance(name, tol)
    if polish:
        if dtype is not None and np.dtype(dtype) != np.float32:
            raise ValueError("`polish` is for fits in float32: leave `dtype` out.")
        dtype = np.float32
    measured = read_measured(xdata, ydata, sigma, mask, shared_x, dtype, polish)
    names, free, data, way = read_batch_start(
        f, measured, p0, start, bounds, fixed, clip_p0
    )
    data = dataclasses.replace(data, omit=nan_policy == "omit", f_scale=f_scale)
    f, capture = interned(f)
    with precision(data.dtype):
        forget_other_precision(f)
    model = ScipyModel(Function(f, "f", capture), free, measured.rows_last, capture)
    if isinstance(data.x, Part) and not data.x.per_fit:
        with precision(data.dtype):
            begin = data.start.value.reshape(-1, data.num_params)[0]
            if is_cut_off(model, data.x.value, begin, data.num_rows):
                raise wrong_shape(
                    "xdata", data.x.value.shape, data.shape, data.num_rows
                )
    jacobian = None
    if jac is not None:
        jac, capture = interned(jac)
        jacobian = ScipyJacobian(model, Function(jac, "jac", capture), capture)
    losses = read_loss(loss, "trf")
    if way.guess:
        data = guess(model, losses, data)

    def call(dtype: np.dtype) -> BatchCall:
        root = float(np.sqrt(np.finfo(dtype).eps))
        tolerances = {"ftol": ftol, "xtol": xtol, "gtol": gtol}
        keywords: dict[str, Any] = {
            name: root if tol is None else tol for name, tol in tolerances.items()
        }
        given = 100 * data.num_params if max_nfev is None else max_nfev
        check_max_nfev(given)
        keywords["max_nfev"] = int(given)
        scale = read_x_scale(x_scale, data.num_params)
        if not isinstance(scale, str):
            keywords["x_scale"] = scale[list(free)]
        return BatchCall(
            model=model,
            jacobian=jacobian,
            solver=TRF(**keywords),
            loss=losses,
            absolute_sigma=bool(absolute_sigma),
            lanes=None if lanes is None else positive_int("lanes", lanes),
            mesh=_mesh(devices),
            slice_size=None
            if slice_size is None
            else positive_int("slice_size", slice_size),
            progress=progress,
        )

    now = covariance and not polish

    def fits(data: BatchData) -> Numbers:
        first = call(data.dtype)
        fit = from_neighbours if way.neighbours else BatchCall.fit
        numbers = fit(first, data, now)
        return _polished(call, data, numbers, covariance) if polish else numbers

    def again(rows: np.ndarray, p0: Any) -> Numbers:
        begin = read_shaped(p0, "p0", (len(rows),), data.num_params, data.dtype)
        part = data.only(rows).starting(begin.value)
        one = call(data.dtype)
        # Through the program of the first fits.
        one = dataclasses.replace(one, slice_size=one.plan(data, now)[0])
        numbers = one.fit(part, now, False)
        return _polished(call, part, numbers, covariance) if polish else numbers

    return CurveFitBatchResult(fits(data), data.shape, names, again)


def _polished(
    call: Callable, data: BatchData, numbers: Numbers, covariance: bool
) -> Numbers:
    """Single precision's results taken on in double."""
    if numbers.interrupted:
        return numbers
    double = np.dtype(np.float64)
    came_to = numbers.popt
    more = dataclasses.replace(data, dtype=double).starting(came_to, ~np.isnan(came_to))
    try:
        polished = call(double).fit(more, covariance)
    except KeyboardInterrupt:  # while compiling: single precision is done
        return numbers
    for i in (1, 2, 3):  # evaluations and steps of both count
        polished.counts[:, i] += numbers.counts[:, i]
    polished.compile_time += numbers.compile_time
    polished.run_time += numbers.run_time
    return polished


def _mesh(devices: Any):
    if devices is None:
        devices = jax.local_devices()
    mesh = mesh_of(devices, None)
    return mesh if mesh is not None and mesh.size > 1 else None


def _named(*values: Any) -> Iterable[tuple[str, Any]]:
    names = ("xdata", "ydata", "p0", "sigma", "mask")
    return zip(names, values, strict=True)
