"""Settings of JAX while a fit is traced."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

import jaxfit


X = jnp.linspace(0, 1, 40)
POWERS = jnp.stack([X**k for k in range(10)], 1)  # too many to be written out


def total(scale):
    problem = jaxfit.Problem(
        lambda p, s: POWERS @ p - jnp.sin(s * X), jnp.zeros(10), scale
    )
    solver = jaxfit.TRF(linear_solver="gram")
    return jnp.sum(jaxfit.solve(problem, solver).params)


def products_in(jaxpr):
    """The precision of each product of matrices, in all parts of a jaxpr."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            found.append(eqn.params["precision"])
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda a: hasattr(a, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += products_in(inner)
    return found


@pytest.mark.parametrize("fn", [total, jax.grad(total)], ids=["value", "slope"])
@pytest.mark.parametrize("chosen", [None, "tensorfloat32"])
def test_products_have_all_digits_unless_the_user_chose_others(fn, chosen):
    context = jax.default_matmul_precision(chosen) if chosen else None
    with context or contextlib.nullcontext():
        found = products_in(jax.make_jaxpr(fn)(3.0).jaxpr)
    expected = jax.lax.Precision.HIGH if chosen else jax.lax.Precision.HIGHEST
    assert len(found) >= 8 and set(found) == {(expected, expected)}
    assert jax.config.jax_default_matmul_precision is None
