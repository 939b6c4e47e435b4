"""How many rows are visited at a time: all, or blocks that stay in the cache."""

from typing import Any

import jax

from .._basics.types import Vector
from .._trf.algebra import UNROLL
from .evaluation import Evaluation
from .forms import Form
from .problem import Problem
from .traced import why_not_rowwise


# A block of this many numbers stays in the second-level cache of a CPU core. A pass
# over 1e6 points took, in ms at 2^15, 2^16, 2^17 and 2^18 (medians):
#     3 parameters  4.6   4.7   5.0   5.3
#     5             10.8  9.9   9.0   8.6
#     8             24.7  24.1  21.2  19.2
_BLOCK_NUMBERS = 2**17


def _even(size: int, fitting: int) -> int:
    """A block near `fitting` that cuts the rows evenly, if there is one.

    Then no row has to be masked: 6.2 ms a pass over 1e6 points where it took 8.5.
    """
    near = range(2 * fitting, fitting // 2, -1)
    return next((rows for rows in near if size % rows == 0), fitting)


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
        sums = (n + 1) * (n + 2) // 2 if n <= UNROLL else n + 2
        fitting = 2 ** max(6, (_BLOCK_NUMBERS // sums).bit_length() - 1)
        return min(size, _even(size, fitting) if wanted == "auto" else wanted)
    if wanted == "auto":
        return size
    raise ValueError(
        f"`chunk_size` is {wanted}, but the residual is not row-wise: {reason}. Write "
        "it so that each residual depends on its own row of the data alone, all data "
        "passed as `args` (or `x` and `y`), or leave chunk_size at 'auto'."
    )
