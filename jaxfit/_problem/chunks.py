"""How many rows are visited at a time: all, or blocks that stay in the cache."""

from typing import Any

import jax

from .._basics.types import Vector
from .evaluation import Evaluation
from .forms import Form
from .problem import Problem
from .traced import why_not_rowwise


# A block of this many numbers, those of [J r] and one more a row, stays in the
# second-level cache of a CPU core. One linearisation of 1e6 points took, in ns a row at
# 2,000, 4,000, 8,000, 10,000 and 20,000 rows a block (one core, JAX 0.10.2):
#     3 parameters  5.7   5.6   4.9   5.1   6.1
#     5             9.5   8.7   8.4   9.1  11.5
_BLOCK_NUMBERS = 2**16
# Arrays of lengths that are no multiple of the processor's vectors take twice as long:
# 14.4 ns a row at 15,625 rows a block, 7.5 at 8,000 (sums product by product).
_VECTOR = 16


def _even(size: int, fitting: int) -> int:
    """A block near `fitting`, of whole vectors, that cuts the rows evenly.

    Then no row has to be masked: 5.2 ns a row where it took 5.5. If there is none, the
    last two of equal blocks overlap.
    """
    near = range(fitting // 2, 2 * fitting, _VECTOR)
    dividing = [rows for rows in near if size % rows == 0]
    if dividing:
        return min(dividing, key=lambda rows: abs(rows - fitting))
    equal = -(-size // -(-size // fitting))
    return -(-equal // _VECTOR) * _VECTOR


def block_of(
    problem: Problem, x: Vector, how: Evaluation, form: Form, programs: Any
) -> int:
    """The number of rows to visit at a time.

    **Raises:** `ValueError` where `chunk_size` is a number, and the form does not add
    over rows or the residual, traced as `programs`, is not row-wise.
    """
    n, size = x.size, programs[0].out_struct.size
    wanted = how.chunk_size
    small = wanted == "auto" and not how.is_large(size, n)
    if not form.dense or wanted is None or small:
        if not form.dense and isinstance(wanted, int):
            raise ValueError("`chunk_size` needs linear_solver 'qr' or 'gram'.")
        return size
    if wanted == "auto" and jax.default_backend() != "cpu":
        return size
    reason = why_not_rowwise(problem, x, how, programs)
    if reason is None:
        fitting = 2 ** max(6, (_BLOCK_NUMBERS // (n + 2)).bit_length() - 1)
        return min(size, _even(size, fitting) if wanted == "auto" else wanted)
    if wanted == "auto":
        return size
    raise ValueError(
        f"`chunk_size` is {wanted}, but the residual is not row-wise: {reason}. Write "
        "it so that each residual depends on its own row of the data alone, all data "
        "passed as `args` (or `x` and `y`), or leave chunk_size at 'auto'."
    )
