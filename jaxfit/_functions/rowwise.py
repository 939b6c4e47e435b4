"""Whether a traced function treats its rows one by one.

A model is row-wise when row i of its result depends on row i of its data and on nothing
of the other rows. Only then can data be cut into blocks that are visited one after the
other. The answer is read from the jaxpr, so it holds for all values: every variable is
followed from the inputs on, and so is the axis along which its rows lie. What is not
known to be row-wise is not: the answer errs on the safe side, with a reason. So does an
equation whose parameters are not the ones known here, as another version of JAX may
write it.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


class _Var(NamedTuple):
    """The axis of the rows (None: does not depend on them) and the axes along which
    all entries are equal."""

    rows: int | None = None
    uniform: frozenset = frozenset()


class _Mixed(Exception):
    """Raised within this file with the reason why rows mix."""


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
# Parameters of primitives that hold shapes, those that hold derivative rules, and those
# that tell where arrays lie.
_SHAPES = frozenset({"shape", "new_sizes", "sizes", "limit_indices", "slice_sizes"})
_RULES = frozenset(
    {"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees"}
)
_PLACES = frozenset({"sharding", "out_sharding", "ctx_mesh"})
# Primitives that call a program on their own inputs, and where they keep it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
_CUMULATIVE = frozenset({"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"})


def rows_mixed_by(jaxpr: Jaxpr, is_row_data: list[bool]) -> str | None:
    """None if every output has its rows along axis 0 and treats them one by one.

    `is_row_data` tells which inputs hold rows along axis 0. Otherwise the reason.
    """
    inputs = [_Var(rows=0) if is_row else _Var() for is_row in is_row_data]
    try:
        outputs = _follow(jaxpr, inputs)
    except _Mixed as reason:
        return str(reason)
    if all(out.rows == 0 for out in outputs):
        return None
    return "the result's first axis is not that of the data's rows"


def _follow(jaxpr: Jaxpr, inputs: list[_Var]) -> list[_Var]:
    known = {var: _Var() for var in jaxpr.constvars}
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return _Var() if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        args = [read(atom) for atom in eqn.invars]
        try:
            outputs = dict(zip(eqn.outvars, _outputs(eqn, args), strict=True))
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as err:
            name = eqn.primitive.name
            raise _Mixed(f"`{name}` is not written in a way that is known") from err
        known.update(outputs)
    return [read(atom) for atom in jaxpr.outvars]


def _outputs(eqn, args: list[_Var]) -> list[_Var]:
    """What one equation makes of its inputs."""
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS:
        inner = next(params[k] for k in (_CALLS[name], *_CALLS.values()) if k in params)
        return _follow(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner, args)
    if name == "scan":
        return _scan(eqn, args)
    shapes = [atom.aval.shape for atom in eqn.invars]
    if name in _ELEMENTWISE:
        return [_elementwise(name, args, shapes)] * len(eqn.outvars)
    if name == "broadcast_in_dim":
        return [_broadcast(args[0], shapes[0], params)]
    if name == "iota":
        axes = set(range(len(params["shape"]))) - {params["dimension"]}
        return [_Var(uniform=frozenset(axes))]
    if name == "reshape":
        return [_reshape(args[0], shapes[0], params["new_sizes"])]
    if all(arg.rows is None for arg in args):
        return [_Var()] * len(eqn.outvars)
    if name == "dot_general":
        return [_dot(args, shapes, params["dimension_numbers"])]
    if name == "concatenate":
        var = _elementwise(name, args, shapes)
        return [_keep(name, var, {params["dimension"]})]
    if name == "stack":
        var, new = _elementwise(name, args, shapes), params["axis"]
        return [_moved(var, {a: a + (a >= new) for a in range(len(shapes[0]))})]

    if any(arg.rows is not None for arg in args[1:]):
        raise _Mixed(f"`{name}` is not known to treat rows one by one")
    var, shape = args[0], shapes[0]
    if name == "transpose":
        return [_moved(var, {a: i for i, a in enumerate(params["permutation"])})]
    if name in ("squeeze", "unstack") or name in _REDUCTIONS:
        key = {"squeeze": "dimensions", "unstack": "axis"}.get(name, "axes")
        gone = (params[key],) if name == "unstack" else params[key]
        _keep(name, var, set(gone))
        left = [a for a in range(len(shape)) if a not in gone]
        moved = _moved(var, {a: i for i, a in enumerate(left)})
        return [moved] * len(eqn.outvars)
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
    raise _Mixed(f"`{name}` is not known to treat rows one by one")


def _scan(eqn, args: list[_Var]) -> list[_Var]:
    """A loop over something else than rows, `jnp.polyval` over its coefficients say.

    What is carried and what is visited is told by the shapes: of the latter the body
    sees one entry, and of what it adds to the results they have an axis more.
    """
    body = eqn.params["jaxpr"].jaxpr

    def same_axes(outside, inside):
        pairs = zip(outside, inside, strict=True)
        return [len(a.aval.shape) == len(b.aval.shape) for a, b in pairs]

    whole = sum(same_axes(eqn.invars, body.invars))
    num_carry = sum(same_axes(eqn.outvars, body.outvars))
    consts, carry = args[: whole - num_carry], args[whole - num_carry : whole]
    xs = args[whole:]
    if any(x.rows == 0 for x in xs):
        raise _Mixed("`scan` visits the rows one after the other")
    xs = [_moved(x, {a: a - 1 for a in [x.rows, *x.uniform] if a}) for x in xs]
    # The carry's kind settles after as many turns as it has parts, at the most.
    for _ in range(len(carry) + 1):
        outputs = _follow(body, [*consts, *carry, *xs])
        turned = outputs[: len(carry)]
        met = [_met(a, b) for a, b in zip(carry, turned, strict=True)]
        if met == carry:
            break
        carry = met
    else:
        raise _Mixed("`scan` carries rows in a way that is not followed")
    ys = outputs[len(carry) :]
    return carry + [
        _moved(y, {a: a + 1 for a in [y.rows, *y.uniform] if a is not None}) for y in ys
    ]


def _met(a: _Var, b: _Var) -> _Var:
    """What is true of a variable that is either `a` or `b`."""
    rows = {var.rows for var in (a, b)} - {None}
    if len(rows) > 1:
        raise _Mixed("`scan` moves the rows to another axis")
    axis = rows.pop() if rows else None
    if axis is not None and any(
        v.rows is None and axis not in v.uniform for v in (a, b)
    ):
        raise _Mixed("`scan` starts from an array as long as the data that is not data")
    return _Var(axis, a.uniform & b.uniform)


def _keep(name: str, var: _Var, touched: set) -> _Var:
    """The variable after an operation along the axes `touched`."""
    if var.rows in touched:
        raise _Mixed(f"`{name}` works along the rows")
    return var._replace(uniform=var.uniform - touched)


def _moved(var: _Var, to: dict) -> _Var:
    """The variable after its axes moved; axes that are not in `to` are gone."""
    rows = None if var.rows is None else to[var.rows]
    return _Var(rows, frozenset(to[a] for a in var.uniform if a in to))


def _elementwise(name: str, args: list[_Var], shapes) -> _Var:
    """Rows must lie along one axis; what is not row data must not vary along it."""
    arrays = [arg for arg, shape in zip(args, shapes, strict=True) if shape]
    if not arrays:
        return _Var()
    axes = {arg.rows for arg in arrays if arg.rows is not None}
    uniform = frozenset.intersection(*(arg.uniform for arg in arrays))
    if not axes:
        return _Var(uniform=uniform)
    if len(axes) > 1:
        raise _Mixed(f"`{name}` pairs every row with every other")
    (axis,) = axes
    if any(arg.rows is None and axis not in arg.uniform for arg in arrays):
        raise _Mixed(f"`{name}` meets an array as long as the data that is not data")
    return _Var(axis, uniform)


def _broadcast(var: _Var, shape, params) -> _Var:
    target, placed = params["shape"], params["broadcast_dimensions"]
    moved = _moved(var, dict(enumerate(placed)))
    new = set(range(len(target))) - set(placed)
    stretched = {b for a, b in enumerate(placed) if shape[a] != target[b]}
    if var.rows is not None and placed[var.rows] in stretched:
        raise _Mixed("a single row is broadcast")
    return moved._replace(uniform=moved.uniform | new | stretched)


def _reshape(var: _Var, shape, new_shape) -> _Var:
    """An axis survives a reshape that leaves as many entries before it."""

    def survives(axis):
        before = math.prod(shape[:axis])
        for b, size in enumerate(new_shape):
            if math.prod(new_shape[:b]) == before and size == shape[axis]:
                return b
        return None

    to = {a: survives(a) for a in range(len(shape))}
    if var.rows is not None and to[var.rows] is None:
        raise _Mixed("`reshape` folds the rows into another axis")
    return _moved(var, {a: b for a, b in to.items() if b is not None})


def _dot(args: list[_Var], shapes, dimension_numbers) -> _Var:
    """Rows of one factor as a free axis; the other must not depend on them."""
    contract, batch = dimension_numbers
    if all(arg.rows is not None for arg in args):
        raise _Mixed("`dot_general` multiplies rows by rows")
    side = 0 if args[0].rows is not None else 1
    axis = args[side].rows
    if axis in contract[side] or axis in batch[side]:
        raise _Mixed("`dot_general` sums over the rows")
    free = [
        [a for a in range(len(shape)) if a not in c and a not in b]
        for shape, c, b in zip(shapes, contract, batch, strict=True)
    ]
    before = len(batch[0]) + (len(free[0]) if side else 0)
    return _Var(rows=before + [a == axis for a in free[side]].index(True))


def _equal(a: Any, b: Any) -> bool:
    """Whether two constants of programs are one array."""
    if a is b:
        return True
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    a, b = np.asarray(a), np.asarray(b)
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def same_but_for_length(a: Jaxpr, b: Jaxpr, lengths: tuple[int, int]) -> bool:
    """Whether two jaxprs are one program, traced for data of two lengths.

    They may differ where the one has the first length and the other the second, in
    shapes; a length among the values (`x / len(x)`) makes them two programs. Where
    their arrays lie makes no difference.
    """

    def same(p, q, length_here=False) -> bool:
        if isinstance(p, ClosedJaxpr) and isinstance(q, ClosedJaxpr):
            pairs = zip(p.consts, q.consts, strict=False)
            if len(p.consts) != len(q.consts) or not all(_equal(*c) for c in pairs):
                return False
            return same_but_for_length(p.jaxpr, q.jaxpr, lengths)
        if isinstance(p, Jaxpr) and isinstance(q, Jaxpr):
            return same_but_for_length(p, q, lengths)
        if isinstance(p, tuple | list) and isinstance(q, tuple | list):
            pairs = zip(p, q, strict=False)
            return len(p) == len(q) and all(same(*v, length_here) for v in pairs)
        if isinstance(p, np.ndarray | jax.Array) or isinstance(
            q, np.ndarray | jax.Array
        ):
            return _equal(p, q)
        if length_here and (p, q) == lengths:
            return True
        return bool(p == q)

    def same_params(p, q) -> bool:
        keys = [key for key in p if key not in _RULES | _PLACES]
        return all(same(p[key], q[key], key in _SHAPES) for key in keys)

    def alike(p, q) -> bool:
        if isinstance(p, Literal) or isinstance(q, Literal):
            return isinstance(p, type(q)) and bool(p.val == q.val)
        return same(tuple(p.aval.shape), tuple(q.aval.shape), True)

    if len(a.eqns) != len(b.eqns) or len(a.constvars) != len(b.constvars):
        return False
    return all(
        e.primitive is f.primitive
        and len(e.invars) == len(f.invars)
        and all(map(alike, e.invars, f.invars))
        and same_params(e.params, f.params)
        for e, f in zip(a.eqns, b.eqns, strict=True)
    )
