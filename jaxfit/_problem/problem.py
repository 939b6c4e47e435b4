"""What to fit: `Problem` (any residual) and `curve_problem` (a model of data).

    minimise  1/2 C^2 sum(rho(r_i(params)^2 / C^2)),  lower <= params <= upper

with C = `f_scale`. Everything a user can get wrong is checked here, once, on concrete
values; inside a trace only shapes and types are, and the values become outcomes.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from .._basics.checks import (
    boolean,
    broadcast_like,
    flatten,
    is_concrete,
    list_to_array,
    real_tree,
    refuse,
)
from .._basics.masked import rows_of_x, unmasked
from .._basics.precision import in_own_settings
from .._functions.callables import Function, function_of, module_of
from .._programs.fork import check_process
from .._trf.bounds import Bounds
from .curve import Curve, curve_data
from .loss import LOSSES, Loss


class Problem(eqx.Module):
    """A nonlinear least squares problem: a PyTree whose leaves are all arrays.

    **Arguments:**

    - `residual`: `residual(params, args)` returns a PyTree of real arrays, m numbers in
        all. A plain function, a closure, or a Module whose array leaves are then data.
        It must be traceable by JAX.
    - `params`: PyTree of real arrays, n numbers in all: the starting point. Its dtype
        is the dtype of the fit.
    - `args`: PyTree of arrays handed to `residual`.
    - `bounds`: None, or `(lower, upper)`; each a scalar, a prefix of `params` or a
        PyTree like `params`. Infinite means no bound; lower == upper fixes a parameter.
    - `loss`: "linear", "soft_l1", "huber", "cauchy", "arctan" (as in SciPy), or an
        elementwise function rho(z) of z = (r / f_scale)^2 with rho(0) = 0, rho'(0) = 1.
    - `f_scale`: the residual beyond which a robust loss takes it for an outlier, in
        units of the residual.
    - `mask`: None, or booleans in the shape of the residual: False leaves a row out.
        The residual is still computed there and must be differentiable: NaN in masked
        data is safe with [`jaxfit.curve_problem`][] only.

    Problems of equal structure can be stacked, `jax.tree.map(lambda *a: jnp.stack(a),
    *problems)`, and solved by `jax.vmap(jaxfit.solve)`.

    **Raises:** `TypeError` or `ValueError`, naming the argument, for anything that is
    not as above, for bounds with lower > upper and for a start outside its bounds.
    """

    residual: Any
    params: PyTree[Array]
    args: PyTree
    lower: Array | None
    upper: Array | None
    loss: Loss
    mask: PyTree[Array] | None

    @in_own_settings
    def __init__(
        self,
        residual: Callable[[Any, Any], Any],
        params: PyTree[ArrayLike],
        args: PyTree = (),
        *,
        bounds: Sequence[Any] | None = None,
        loss: str | Callable = "linear",
        f_scale: ArrayLike = 1.0,
        mask: PyTree[ArrayLike] | None = None,
    ):
        check_process()
        is_curve = isinstance(residual, Curve)
        self.residual = residual if is_curve else function_of(residual, "residual")
        self.args = real_tree(args, "args")
        rest = _checked(params, bounds, loss, f_scale, mask)
        self.params, self.lower, self.upper, self.loss, self.mask = rest.values()

    def current(self) -> "Problem":
        """The same problem, its functions known by what they hold now."""
        residual, loss, current = self.residual, self.loss, Function.current
        if isinstance(residual, Curve):
            model = current(residual.model)
            residual = residual if model is residual.model else Curve(model)
        else:
            residual = current(residual)
        if isinstance(loss.rho, Function):
            rho = current(loss.rho)
            loss = loss if rho is loss.rho else Loss(rho, loss.f_scale)
        if residual is self.residual and loss is self.loss:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "residual", residual)
        object.__setattr__(other, "loss", loss)
        return other

    @property
    def bounds(self) -> Bounds | None:
        """The bounds as vectors in the order of `ravel_pytree(params)`, or None."""
        if self.lower is None or self.upper is None:
            return None
        return Bounds(self.lower, self.upper)


def check_problem(problem: Any, name: str = "problem") -> None:
    """Check that an argument is a problem.

    **Raises:** `TypeError`.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`{name}` must be a jaxfit.Problem, got {type(problem).__name__}: make "
            "one with jaxfit.Problem(residual, params) or jaxfit.curve_problem(...)."
        )


@in_own_settings
def curve_problem(
    model: Callable[[Any, Any], Any],
    x: PyTree[ArrayLike],
    y: PyTree[ArrayLike],
    params: PyTree[ArrayLike],
    *,
    sigma: PyTree[ArrayLike] | None = None,
    mask: PyTree[ArrayLike] | None = None,
    bounds: Sequence[Any] | None = None,
    loss: str | Callable = "linear",
    f_scale: ArrayLike = 1.0,
) -> Problem:
    """The problem of fitting `model(x, params)` to `y`.

    **Arguments:**

    - `model`: `model(x, params)` returns predictions in the structure and shapes of
        `y`. A plain function, a closure, or a Module with array leaves.
    - `x`: PyTree of arrays. The model is given floating point numbers at least as wide
        as the parameters, of integers and booleans too, but for those that it refuses
        as such: an index or a condition.
    - `y`: PyTree of real arrays, m numbers in all.
    - `params`: PyTree of real arrays: the starting point.
    - `sigma`: standard deviations of `y`, in its units: a scalar, a prefix of `y` or a
        PyTree like `y`. Residuals are divided by them. For a `y` of shape (m,) also its
        covariance matrix, of shape (m, m): residuals are multiplied by the inverse of
        its Cholesky factor.
    - `mask`: booleans, a prefix of `y` or a PyTree like it. Data where it is False
        count for nothing, whatever they hold: NaN there harms no derivative. The masks
        of NumPy's masked arrays among `x`, `y` and `sigma` say the same.
    - `bounds`, `loss`, `f_scale`: as in [`jaxfit.Problem`][].

    **Returns:** a [`jaxfit.Problem`][].

    **Raises:** `TypeError` or `ValueError`, naming the argument; `sigma` must be
    positive wherever `mask` is True. A deviation of inf is a weight of 0: such a datum
    says nothing, and yet it is one of those that `dof` counts.
    """
    check_process()
    x, x_counts = unmasked(list_to_array(x))
    y, y_counts = unmasked(list_to_array(y))
    sigma, sigma_counts = unmasked(sigma)
    x = real_tree(x, "x")
    y = real_tree(y, "y", inexact=True)
    if sum(leaf.size for leaf in jax.tree.leaves(y)) == 0:
        raise ValueError("`y` is empty: there are no data to fit.")
    if mask is not None:
        mask = jax.tree.map(
            jnp.asarray,
            broadcast_like(jax.tree.map(boolean, list_to_array(mask)), y, "mask", "y"),
        )
    if sigma_counts is not None:
        sigma_counts = broadcast_like(sigma_counts, y, "sigma", "y")
    if x_counts is not None:
        x_counts = jax.tree.map(lambda a: rows_of_x(x_counts, a.shape, "x"), y)
    for counts in (y_counts, sigma_counts, x_counts):
        if counts is not None:
            counts = jax.tree.map(jnp.asarray, counts)
            mask = (
                counts if mask is None else jax.tree.map(jnp.logical_and, mask, counts)
            )
    return module_of(
        Problem,
        residual=module_of(Curve, model=function_of(model, "model")),
        args=curve_data(x, y, sigma, mask),
        **_checked(params, bounds, loss, f_scale, mask),
    )


def _checked(params, bounds, loss, f_scale, mask) -> dict[str, Any]:
    """What any problem has besides its residual and args, checked; by field."""
    params = real_tree(params, "params", inexact=True)
    leaves = jax.tree.leaves(params)
    if sum([leaf.size for leaf in leaves]) == 0:
        raise ValueError("`params` holds no numbers: there is nothing to fit.")
    dtype = jnp.result_type(*leaves)
    if dtype not in (jnp.float32, jnp.float64):
        raise TypeError(
            f"`params` must be float32 or float64, got {dtype}: the linear algebra "
            "of a fit needs at least float32."
        )
    lower, upper = _flat_bounds(bounds, params, dtype)
    return {
        "params": params,
        "lower": lower,
        "upper": upper,
        "loss": _loss(loss, f_scale, dtype),
        "mask": None if mask is None else jax.tree.map(boolean, mask),
    }


def _flat_bounds(bounds, params, dtype):
    """Lower and upper bound as vectors, checked where they are known."""
    if bounds is None:
        return None, None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(
            f"`bounds` must be None or a pair (lower, upper), got {bounds!r}."
        )

    plain = jax.tree.structure(params) == jax.tree.structure(0)

    def vector(side, name):
        side = list_to_array(side) if plain else side
        full = broadcast_like(real_tree(side, name), params, name, "params")
        return flatten(full).astype(dtype)

    lower, upper = vector(bounds[0], "bounds[0]"), vector(bounds[1], "bounds[1]")
    if is_concrete((lower, upper)):
        lo, hi = lower, upper
        refuse(np.isnan(lo) | np.isnan(hi), params, "`bounds` is NaN")
        pair = {"lower": lo, "upper": hi}
        refuse(lo > hi, params, "`bounds` has lower > upper", pair)
        refuse((lo == hi) & np.isinf(lo), params, "`bounds` is infinite on both sides")
        if is_concrete(params):
            x = flatten(params).astype(dtype)
            refuse(
                (x < lo) | (x > hi),
                params,
                "`params` is outside `bounds`",
                {"start": x, **pair},
            )
    return jnp.asarray(lower), jnp.asarray(upper)


def _loss(loss, f_scale, dtype) -> Loss:
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(
                f"`loss` must be one of {sorted(LOSSES)} or a function rho(z), got "
                f"{loss!r}."
            )
        rho = LOSSES[loss]
        rho = None if rho is None else Function(rho, "loss")
    elif not callable(loss):
        raise TypeError(
            f"`loss` must be one of {sorted(LOSSES)} or a function rho(z), got "
            f"{loss!r}."
        )
    else:
        rho = Function(loss, "loss")
    is_usual = isinstance(f_scale, float) and f_scale == 1  # not read back to be seen
    f_scale = jnp.asarray(f_scale, dtype)
    if f_scale.ndim:
        raise ValueError(f"`f_scale` must be one number, got shape {f_scale.shape}.")
    seen = not is_usual and is_concrete(f_scale)
    if seen and not (float(f_scale) > 0 and np.isfinite(f_scale)):
        raise ValueError(f"`f_scale` must be positive and finite, got {f_scale}.")
    return module_of(Loss, rho=rho, f_scale=f_scale)
