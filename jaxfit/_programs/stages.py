"""Functions in stages, so that an operation that takes long is computed once a value.

On a CPU XLA makes one kernel for each result, and computes in each of them anew what
several results share. Most operations that take long it spares, and keeps their values:
exp, log, pow, sqrt, tanh, erf. Others it has written out as plain arithmetic by then.
What leaves a loop is kept (`_basics.once`): so the function is cut behind those, and
each stage between two cuts is a loop of one turn.

Four results of one value and one of them alone, 8,000 rows a block, in ns a row in
float64 on one core (JAX 0.10.2; on 0.12 and in float32 the same operations gain):

    operation        one   four   four in stages
    sin              6.6   20.2    8.6
    cos              7.2   19.3    7.9
    tan              8.3   23.5   10.0
    bessel_i0e      11.0   36.4   15.2
    bessel_i1e      11.6   34.7   14.2
    lgamma          22.3   36.5   26.9
    digamma         24.2   41.0   30.2
    erf_inv         13.6   23.0   15.7
    erfc             5.7    8.9    8.2
    exp, complex    17.1   41.1   20.8
    sqrt, complex   13.0   19.9   16.9

    exp              3.7    4.6    5.5
    log              6.1    7.1    7.7
    log1p            6.7    7.6    8.0
    pow             15.2   16.5   15.8
    tanh             3.8    4.6    5.6
    sinh             8.7   12.4   10.2   (float32: 2.8, 4.4, 4.3)
    atan2           13.7   15.7   15.9
    erf              6.2    6.9    7.2
    igamma          93.6   96.0   97.3
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, Int

from .._basics.once import once
from .abstract import abstract
from .primitives import CALLS, calls_host, equations


# Computed anew in each kernel that uses them, and long.
_LONG = frozenset(
    "sin cos tan bessel_i0e bessel_i1e lgamma digamma erf_inv erfc".split()  # noqa: SIM905
)
# The same of complex numbers, which are pairs of real ones by then.
_LONG_COMPLEX = frozenset(
    """
    exp exp2 expm1 log log1p pow sqrt rsqrt tanh sinh cosh asinh acosh atanh logistic
    """.split()  # noqa: SIM905
)


class _Step(NamedTuple):
    """An equation, and the names of its inputs and outputs in the whole program."""

    eqn: Any
    ins: list[object]
    outs: list[object]


def in_stages(
    fn: Callable[..., Any], count: Int[Array, ""], least: int, *args: Any
) -> Any:
    """`fn(*args)`, each operation that takes long computed once for each of its values.

    Where a value is of fewer than `least` numbers it does not count. `count` is any
    counter, 0 or more, of which the compiler does not know that it is. The result has
    no derivative in reverse mode: JAX has none of loops.
    """
    if jax.default_backend() != "cpu":
        return fn(*args)
    closed, shapes = abstract(fn, *args)
    leaves = jax.tree.leaves(args)
    told = closed.effects or calls_host(closed.jaxpr)  # how often it is evaluated
    if told or not _has_long(closed.jaxpr, least):
        out = jaxpr_as_fun(closed)(*leaves)
    else:
        out = _Program(closed, leaves, least).run(count)
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def _is_long(eqn: Any, least: int) -> bool:
    name = eqn.primitive.name
    if name not in _LONG | _LONG_COMPLEX:
        return False
    aval = eqn.outvars[0].aval
    dear = name in _LONG or jnp.issubdtype(aval.dtype, jnp.complexfloating)
    return dear and aval.size >= least


def _has_long(jaxpr: Jaxpr, least: int) -> bool:
    return any(_is_long(eqn, least) for eqn in equations(jaxpr))


class _Program:
    """A program without calls, and the values that are known so far."""

    def __init__(self, closed: ClosedJaxpr, inputs: list[Any], least: int):
        self.values: dict[object, Any] = {}
        self.steps: list[_Step] = []
        self.least = least
        self.outputs = self._lay_out(closed, [self._known(value) for value in inputs])

    def run(self, count: Int[Array, ""]) -> list[Any]:
        """The outputs, stage by stage."""
        for wanted in self._stages():
            stage = functools.partial(self._computed, wanted)
            self.values.update(zip(wanted, once(stage, count), strict=True))
        return self._computed(self.outputs)

    def _known(self, value: Any) -> object:
        name = object()
        self.values[name] = value
        return name

    def _lay_out(self, closed: ClosedJaxpr, inputs: list[object]) -> list[object]:
        """The names of the outputs of a program, whose steps are added."""
        jaxpr, consts = closed.jaxpr, [self._known(value) for value in closed.consts]
        names = dict(
            zip((*jaxpr.constvars, *jaxpr.invars), consts + inputs, strict=True)
        )

        def read(atom):
            return self._known(atom.val) if isinstance(atom, Literal) else names[atom]

        for eqn in jaxpr.eqns:
            ins = [read(atom) for atom in eqn.invars]
            inner = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
            if isinstance(inner, Jaxpr):
                inner = ClosedJaxpr(inner, ())
            if inner is not None and _has_long(inner.jaxpr, self.least):
                outs = self._lay_out(inner, ins)
            else:
                outs = [object() for _ in eqn.outvars]
                self.steps.append(_Step(eqn, ins, outs))
            names.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _stages(self) -> list[list[object]]:
        """The values that end each stage, those of one that depend on one another not.

        What no output needs is left out.
        """
        depths: dict[object, int] = {}
        stages: list[list[object]] = []
        for eqn, ins, outs in self._leading_to(self.outputs):
            depth = max((depths.get(name, 0) for name in ins), default=0)
            if _is_long(eqn, self.least):
                stages += [[] for _ in range(depth + 1 - len(stages))]
                stages[depth] += outs
                depth += 1
            depths.update((name, depth) for name in outs)
        return stages

    def _leading_to(self, wanted: list[object]) -> list[_Step]:
        """The steps that compute these values from the known ones."""
        missing = set(wanted) - set(self.values)
        steps = []
        for step in reversed(self.steps):
            if not missing.isdisjoint(step.outs):
                steps.append(step)
                missing.update(set(step.ins) - set(self.values))
        return steps[::-1]

    def _computed(self, wanted: list[object]) -> list[Any]:
        values = dict(self.values)
        for eqn, ins, outs in self._leading_to(wanted):
            out = _bind(eqn, [values[name] for name in ins])
            values.update(zip(outs, out, strict=True))
        return [values[name] for name in wanted]


def _bind(eqn: Any, values: list[Any]) -> list[Any]:
    """What an equation makes of values."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]
