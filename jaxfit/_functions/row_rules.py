"""Rules of the primitives: where rows lie after an equation, or why they mix.

A variable of a traced program has its rows along one axis or does not depend on them,
and along some axes all of its entries are equal. Each rule tells both of the results of
one primitive from those of its inputs; `rowwise` follows whole programs with them.
"""

import math
from typing import Any, NamedTuple


class Var(NamedTuple):
    """The axis of the rows (None: does not depend on them) and the axes along which
    all entries are equal."""

    rows: int | None = None
    uniform: frozenset = frozenset()


class Mixed(Exception):
    """Raised with the reason why rows mix."""


_ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp convert_element_type copy copy_p cos cosh digamma div eq erf
    erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow
    is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg nextafter
    not or polygamma polynomial pow real reduce_precision regularized_incomplete_beta
    rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor
    zeta
    """.split()  # noqa: SIM905
)
_REDUCTIONS = frozenset(
    """
    argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
    reduce_xor
    """.split()  # noqa: SIM905
)
_CUMULATIVE = frozenset({"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"})


def outputs_of(eqn: Any, args: list[Var]) -> list[Var]:
    """The variables that one equation makes of its inputs.

    **Raises:** `Mixed` with the reason where it mixes rows; `KeyError` and the like for
    an equation that is not written as it is known here.
    """
    name, params = eqn.primitive.name, eqn.params
    shapes = [atom.aval.shape for atom in eqn.invars]
    if name in _ELEMENTWISE:
        return [_elementwise(name, args, shapes)] * len(eqn.outvars)
    if name == "broadcast_in_dim":
        return [_broadcast(args[0], shapes[0], params)]
    if name == "iota":
        axes = set(range(len(params["shape"]))) - {params["dimension"]}
        return [Var(uniform=frozenset(axes))]
    if name == "reshape":
        return [_reshape(args[0], shapes[0], params["new_sizes"])]
    if all(arg.rows is None for arg in args):
        return [Var()] * len(eqn.outvars)
    if name == "dot_general":
        return [_dot(args, shapes, params["dimension_numbers"])]
    if name == "concatenate":
        var = _elementwise(name, args, shapes)
        return [_keep(name, var, {params["dimension"]})]
    if name == "stack":
        var, new = _elementwise(name, args, shapes), params["axis"]
        return [moved(var, {a: a + (a >= new) for a in range(len(shapes[0]))})]

    if any(arg.rows is not None for arg in args[1:]):
        raise Mixed(f"`{name}` is not known to treat rows one by one")
    var, shape = args[0], shapes[0]
    if name == "transpose":
        return [moved(var, {a: i for i, a in enumerate(params["permutation"])})]
    if name in ("squeeze", "unstack") or name in _REDUCTIONS:
        key = {"squeeze": "dimensions", "unstack": "axis"}.get(name, "axes")
        gone = (params[key],) if name == "unstack" else params[key]
        _keep(name, var, set(gone))
        left = [a for a in range(len(shape)) if a not in gone]
        return [moved(var, {a: i for i, a in enumerate(left)})] * len(eqn.outvars)
    if name in _CUMULATIVE:
        return [_keep(name, var, {params["axis"]})]
    if name == "rev":
        return [_keep(name, var, set(params["dimensions"]))]
    if name == "sort":
        return [_keep(name, var, {params["dimension"]})] * len(eqn.outvars)
    if name in ("slice", "dynamic_slice"):
        sizes = eqn.outvars[0].aval.shape
        cut = {a for a, size in enumerate(shape) if sizes[a] != size}
        return [_keep(name, var, cut)]
    if name == "split":
        return [_keep(name, var, {params["axis"]})] * len(eqn.outvars)
    raise Mixed(f"`{name}` is not known to treat rows one by one")


def _keep(name: str, var: Var, touched: set) -> Var:
    """The variable after an operation along the axes `touched`."""
    if var.rows in touched:
        raise Mixed(f"`{name}` works along the rows")
    return var._replace(uniform=var.uniform - touched)


def moved(var: Var, to: dict) -> Var:
    """The variable after its axes moved; axes that are not in `to` are gone."""
    rows = None if var.rows is None else to[var.rows]
    return Var(rows, frozenset(to[a] for a in var.uniform if a in to))


def _elementwise(name: str, args: list[Var], shapes) -> Var:
    """Rows must lie along one axis; what is not row data must not vary along it."""
    arrays = [arg for arg, shape in zip(args, shapes, strict=True) if shape]
    if not arrays:
        return Var()
    axes = {arg.rows for arg in arrays if arg.rows is not None}
    uniform = frozenset.intersection(*(arg.uniform for arg in arrays))
    if not axes:
        return Var(uniform=uniform)
    if len(axes) > 1:
        raise Mixed(f"`{name}` pairs every row with every other")
    (axis,) = axes
    if any(arg.rows is None and axis not in arg.uniform for arg in arrays):
        raise Mixed(f"`{name}` meets an array as long as the data that is not data")
    return Var(axis, uniform)


def _broadcast(var: Var, shape, params) -> Var:
    target, placed = params["shape"], params["broadcast_dimensions"]
    new_var = moved(var, dict(enumerate(placed)))
    new = set(range(len(target))) - set(placed)
    stretched = {b for a, b in enumerate(placed) if shape[a] != target[b]}
    if var.rows is not None and placed[var.rows] in stretched:
        raise Mixed("a single row is broadcast")
    return new_var._replace(uniform=new_var.uniform | new | stretched)


def _reshape(var: Var, shape, new_shape) -> Var:
    """An axis survives a reshape that leaves as many entries before it."""

    def survives(axis):
        before = math.prod(shape[:axis])
        for b, size in enumerate(new_shape):
            if math.prod(new_shape[:b]) == before and size == shape[axis]:
                return b
        return None

    to = {a: survives(a) for a in range(len(shape))}
    if var.rows is not None and to[var.rows] is None:
        raise Mixed("`reshape` folds the rows into another axis")
    return moved(var, {a: b for a, b in to.items() if b is not None})


def _dot(args: list[Var], shapes, dimension_numbers) -> Var:
    """Rows of one factor as a free axis; the other must not depend on them."""
    contract, batch = dimension_numbers
    if all(arg.rows is not None for arg in args):
        raise Mixed("`dot_general` multiplies rows by rows")
    side = 0 if args[0].rows is not None else 1
    axis = args[side].rows
    if axis in contract[side] or axis in batch[side]:
        raise Mixed("`dot_general` sums over the rows")
    free = [
        [a for a in range(len(shape)) if a not in c and a not in b]
        for shape, c, b in zip(shapes, contract, batch, strict=True)
    ]
    before = len(batch[0]) + (len(free[0]) if side else 0)
    return Var(rows=before + [a == axis for a in free[side]].index(True))
