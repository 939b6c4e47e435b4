"""The plan of a fit: in memory, in blocks or streamed, and the memory it takes.

The numbers were measured on CPUs with float64 and float32, 3 to 12 parameters and 10^6
to 2 10^7 rows: the peak of a process above what it held before the first fit, which
includes compiling it. They hold within 30% for models whose own temporaries are few.
"""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from .._basics.checks import positive_int
from .._basics.machine import cores, free_gb
from .._trf.algebra import UNROLL


Strategy = Literal["in_memory", "chunked", "streamed"]
# Problems of fewer numbers than this are not cut in blocks (see `_problem.objective`).
_SMALL = 2**18
# Rows of a block where nobody chose: enough that what a block costs besides its rows
# (0.1 ms) does not count, few enough that all blocks in flight take some 20 MB.
_BLOCK = 2**18
_BLOCK_ON_ACCELERATOR = 2**22
# Of few rows each core is to have some blocks, none so short that it takes less time
# than what it costs besides.
_SHARES, _LEAST_SHARE = 16, 2**14
_SMALLEST_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a fit will go.

    **Attributes:**

    - `strategy`: "in_memory" (the Jacobian as a whole), "chunked" (all data in memory,
        visited block by block) or "streamed" (data read anew for every step).
    - `chunk_size`: rows worked on at a time; None for all.
    - `peak_memory_gb`: what the process will hold at most above what it held before, in
        gigabytes (10^9 bytes), with compilation. Memory maps and arrays that the
        caller holds already are not counted.
    - `passes_per_step`: how often a step visits all data where its first trial is
        accepted.
    """

    strategy: Strategy
    chunk_size: int | None
    peak_memory_gb: float
    passes_per_step: int


def plan(
    n_points: int,
    n_params: int,
    dtype: Any = np.float64,
    memory_limit: float | int | None = None,
    *,
    columns: int = 2,
    chunk_size: int | Literal["auto"] = "auto",
    strategy: Strategy | Literal["auto"] = "auto",
) -> Plan:
    """What [`jaxfit.fit_large_dataset`][] does with data of this size.

    **Arguments:**

    - `n_points`, `n_params`: rows of data, and parameters.
    - `dtype`: float32 or float64.
    - `memory_limit`: gigabytes (10^9 bytes) that the fit may take; None for four fifths
        of what the machine has free.
    - `columns`: numbers in a row of the data: those of x, y and sigma.
    - `chunk_size`: rows worked on at a time, where the data are streamed.
    - `strategy`: one that is wanted; "auto" for the fastest that fits.

    **Raises:** `ValueError` for numbers out of range, and where not even one chunk fits
    the limit.
    """
    m, n = positive_int("n_points", n_points), positive_int("n_params", n_params)
    width = positive_int("columns", columns)
    size = np.dtype(dtype)
    if size not in (np.float32, np.float64):
        raise ValueError(f"`dtype` must be float32 or float64, got {size}.")
    limit = 0.8 * free_gb() if memory_limit is None else memory_limit
    if not (isinstance(limit, int | float) and limit > 0):
        raise ValueError(f"`memory_limit` must be positive, got {memory_limit!r}.")
    if strategy not in ("auto", "in_memory", "chunked", "streamed"):
        raise ValueError(
            "`strategy` must be 'auto', 'in_memory', 'chunked' or 'streamed', got "
            f"{strategy!r}."
        )
    on_cpu = jax.default_backend() == "cpu"
    # Numbers a row: the data, the Jacobian, and what the compiler keeps between them.
    jacobian = 4 * n if n <= UNROLL else 15 * n
    compiling = 0.075 + 0.01 * min(n, UNROLL)
    whole = _peak(compiling, m * (width - 1 + jacobian), size, 0.65)
    # The data are there while it is compiled; a block takes less than that.
    data = m * width * size.itemsize / 1e9
    passes = 1 if n <= UNROLL else 2
    ways = {
        "in_memory": Plan("in_memory", None, whole, passes),
        "chunked": Plan("chunked", None, data + compiling, passes),
    }
    if strategy == "auto":
        small = not on_cpu or m * (n + 2) <= _SMALL
        first = ways["in_memory" if small else "chunked"]
        if first.peak_memory_gb <= limit:
            return first
        if first.strategy == "in_memory" and ways["chunked"].peak_memory_gb <= limit:
            return ways["chunked"]
    elif strategy != "streamed":
        return ways[strategy]
    return _streamed(m, n, width, size, float(limit), chunk_size)


def _streamed(
    m: int, n: int, width: int, dtype: np.dtype, limit: float, chunk_size: int | str
) -> Plan:
    workers = cores() if jax.default_backend() == "cpu" else 1
    # A block is read, waits, and is worked on; some is freed and not yet given back.
    numbers = 9 * width * workers
    compiling = 0.15 + 0.025 * n  # several programs, some of them at a time

    def peak_of(rows: int) -> float:
        return _peak(compiling, rows * numbers, dtype, 0.9)

    if isinstance(chunk_size, str):
        if chunk_size != "auto":
            raise ValueError(
                f"`chunk_size` must be 'auto' or a number, got {chunk_size!r}."
            )
        rows = block_rows(m)
        while rows > _SMALLEST_BLOCK and peak_of(rows) > limit:
            rows //= 2
    else:
        rows = positive_int("chunk_size", chunk_size)
    peak = peak_of(rows)
    if peak > limit:
        raise ValueError(
            f"`memory_limit` of {limit:.3g} GB is too small: a fit streamed in chunks "
            f"of {rows} rows takes {peak:.3g} GB, {compiling:.2g} GB of it to "
            "compile."
        )
    return Plan("streamed", rows, peak, 1)


def _peak(
    compiling: float, numbers: float | int, dtype: np.dtype, kept: float
) -> float:
    """Of a fit that holds so many numbers besides, in gigabytes.

    Of what `compiling` took the share `kept` is not given back by then.
    """
    working = float(numbers) * dtype.itemsize / 1e9
    return max(compiling, kept * compiling + working)


def block_rows(num_rows: int | None) -> int:
    """The rows of a block: equal shares, none of them too long.

    Independent of the number of workers, and so are the sums over the blocks.
    """
    on_cpu = jax.default_backend() == "cpu"
    most = _BLOCK if on_cpu else _BLOCK_ON_ACCELERATOR
    if num_rows is None:
        return most // 2
    fitting = most
    if on_cpu:
        fitting = min(most, max(_LEAST_SHARE, num_rows // _SHARES))
    share = -(-num_rows // max(1, round(num_rows / fitting)))
    # Of long blocks the parts that fit a cache are to be equal (see
    # `_problem.chunks`).
    step = 1024 if share > 2**15 else 64
    return min(most + most // 2, -(-share // step) * step)
