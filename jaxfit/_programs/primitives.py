"""The operations of a traced program and of the programs that it calls."""

from collections.abc import Iterator
from typing import Any


# Primitives that call a program on their own inputs, and where they keep it.
CALLS = {
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


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def calls_host(jaxpr: Any) -> bool:
    """Whether a program calls back to the host, where evaluations are dear."""
    host = {"pure_callback", "io_callback"}
    return any(eqn.primitive.name in host for eqn in equations(jaxpr))
