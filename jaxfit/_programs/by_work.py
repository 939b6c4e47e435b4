"""Programs that are compiled with less care where they have little to do.

What follows a fit is asked once or twice: its intervals, its replicates. To compile the
lanes of five parameters takes 3 s of a processor, and a thousand fits of a hundred data
0.03 s with them. LLVM's optimisations are half of the first and two thirds of the
second: where there is little to do they are left out.
"""

from collections.abc import Callable
from typing import Any

import jax

from .program import Program, program


# Residuals to be evaluated, in numbers, below which the work is little. What is lost
# there is 0.15 s a call on two cores, and 2 to 3 s of processor time are saved.
_LITTLE = 2**18
_UNOPTIMISED = {"xla_backend_optimization_level": 0}


class ByWork:
    """A function as two programs, of which the one that pays is asked for by `of`.

    Its arguments are those of `program`.
    """

    def __init__(
        self,
        fn: Callable,
        *,
        static: tuple[int, ...] = (),
        compiler_options: dict[str, Any] | None = None,
    ):
        options = compiler_options or {}
        self._careful = program(fn, static=static, compiler_options=options)
        self._quick = program(
            fn, static=static, compiler_options=options | _UNOPTIMISED
        )

    def of(self, numbers: float | int) -> Program:
        """The program for so many fits times residuals of one."""
        little = numbers <= _LITTLE and jax.default_backend() == "cpu"
        return self._quick if little else self._careful
