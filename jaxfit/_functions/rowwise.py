"""The proof that a traced function treats its rows one by one.

A model is row-wise when row i of its result depends on row i of its data and on nothing
of the other rows. Only then can data be cut into blocks that are visited one after the
other. The answer is read from the jaxpr, so it holds for all values: every variable is
followed from the inputs on, and so is the axis along which its rows lie. What is not
known to be row-wise is not: the answer errs on the safe side, with a reason. So does an
equation whose parameters are not the ones known here, as another version of JAX may
write it.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .._programs.primitives import CALLS
from .row_rules import Mixed, Var, moved, outputs_of


def rows_mixed_by(jaxpr: Jaxpr, is_row_data: list[bool]) -> str | None:
    """None if every output has its rows along axis 0 and treats them one by one.

    `is_row_data` tells which inputs hold rows along axis 0. Otherwise the reason.
    """
    inputs = [Var(rows=0) if is_row else Var() for is_row in is_row_data]
    try:
        outputs = _follow(jaxpr, inputs)
    except Mixed as reason:
        return str(reason)
    if all(out.rows == 0 for out in outputs):
        return None
    return "the result's first axis is not that of the data's rows"


def _follow(jaxpr: Jaxpr, inputs: list[Var]) -> list[Var]:
    known = {var: Var() for var in jaxpr.constvars}
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return Var() if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        args = [read(atom) for atom in eqn.invars]
        try:
            outputs = dict(zip(eqn.outvars, _outputs(eqn, args), strict=True))
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as err:
            name = eqn.primitive.name
            raise Mixed(f"`{name}` is not written in a way that is known") from err
        known.update(outputs)
    return [read(atom) for atom in jaxpr.outvars]


def _outputs(eqn: Any, args: list[Var]) -> list[Var]:
    """What one equation makes of its inputs: a program within, a loop, or a rule."""
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        inner = next(params[k] for k in (CALLS[name], *CALLS.values()) if k in params)
        return _follow(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner, args)
    return _scan(eqn, args) if name == "scan" else outputs_of(eqn, args)


def _scan(eqn, args: list[Var]) -> list[Var]:
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
        raise Mixed("`scan` visits the rows one after the other")
    xs = [moved(x, {a: a - 1 for a in [x.rows, *x.uniform] if a}) for x in xs]
    # The carry's kind settles after as many turns as it has parts, at the most.
    for _ in range(len(carry) + 1):
        outputs = _follow(body, [*consts, *carry, *xs])
        turned = outputs[: len(carry)]
        met = [_met(a, b) for a, b in zip(carry, turned, strict=True)]
        if met == carry:
            break
        carry = met
    else:
        raise Mixed("`scan` carries rows in a way that is not followed")
    ys = outputs[len(carry) :]
    return carry + [
        moved(y, {a: a + 1 for a in [y.rows, *y.uniform] if a is not None}) for y in ys
    ]


def _met(a: Var, b: Var) -> Var:
    """What is true of a variable that is either `a` or `b`."""
    rows = {var.rows for var in (a, b)} - {None}
    if len(rows) > 1:
        raise Mixed("`scan` moves the rows to another axis")
    axis = rows.pop() if rows else None
    if axis is not None and any(
        v.rows is None and axis not in v.uniform for v in (a, b)
    ):
        raise Mixed("`scan` starts from an array as long as the data that is not data")
    return Var(axis, a.uniform & b.uniform)
