"""The account of a fit of large data: its way, its outcome, and what was read."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from .._basics.machine import device_peak_gb, peak_gb
from .._basics.status import Status
from .._solve.solution import Solution
from .blocks import Reading
from .plan import Plan, Strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitInfo(Mapping[str, Any]):
    """How a fit went, by name: `info.passes`, or as of a dictionary `info["passes"]`.

    **Attributes:**

    - `strategy`: "in_memory", "chunked" or "streamed".
    - `status`, `message`: how the fit ended, and in words.
    - `nfev`: trial points evaluated, the start included.
    - `passes`: visits of all data. In memory those are evaluations and linearisations.
    - `chunk_size`: rows of a block; None in memory.
    - `workers`: threads that computed at the same time.
    - `num_rows`, `rows_used`, `rows_not_finite`: rows of the data, of the fit, and left
        out because they are not finite.
    - `chunks_read`, `retries`, `success_rate`: chunks that came, further attempts, and
        the share of all attempts that brought a chunk.
    - `bytes_read`, `bytes_per_second`: of all chunks, and over all of the time.
    - `seconds`, `seconds_reading`: of the call, with compilation; waiting for the
        source.
    - `peak_memory_gb`: the most that the process held since it began, in 10^9 bytes.
    - `device_peak_memory_gb`: the same of one accelerator; None on a CPU.
    - `checkpoints`, `checkpoint_failures`, `checkpoint_seconds`: how many were written
        and how many could not be, and the longest time that one took.
    - `resumed`: whether the fit began from a checkpoint.
    - `warm_up_rows`, `warm_up_steps`: of the sample; 0 without a warm-up.
    - `warm_up_cost_ratio`: the sample's cost after the warm-up over that before.
    """

    strategy: Strategy
    status: Status
    message: str
    nfev: int
    passes: int
    chunk_size: int | None
    workers: int
    num_rows: int
    rows_used: int
    rows_not_finite: int
    chunks_read: int
    retries: int
    success_rate: float
    bytes_read: int
    bytes_per_second: float
    seconds: float
    seconds_reading: float
    peak_memory_gb: float
    device_peak_memory_gb: float | None
    checkpoints: int = 0
    checkpoint_failures: int = 0
    checkpoint_seconds: float = 0.0
    resumed: bool = False
    warm_up_rows: int = 0
    warm_up_steps: int = 0
    warm_up_cost_ratio: float = 1.0

    @staticmethod
    def of(
        strategy: Strategy,
        solution: Solution,
        reading: Reading,
        seconds: float,
        passes: int,
        chunk_size: int | None,
        workers: int,
    ) -> "FitInfo":
        """What all strategies tell; checkpoints and warm-up come with a stream."""
        chunks = reading.chunks
        attempts = chunks.count + chunks.retried
        status = Status(int(solution.status))
        stopped = status == Status.STOPPED
        return FitInfo(
            strategy=strategy,
            status=status,
            message="Stopped by Ctrl-C." if stopped else status.message,
            nfev=int(solution.nfev),
            passes=passes,
            chunk_size=chunk_size,
            workers=workers,
            num_rows=reading.num_rows or 0,
            rows_used=reading.num_used,
            rows_not_finite=reading.num_bad,
            chunks_read=chunks.count,
            retries=chunks.retried,
            success_rate=chunks.count / attempts if attempts else 1.0,
            bytes_read=chunks.bytes,
            bytes_per_second=(chunks.bytes - chunks.bytes_before) / seconds,
            seconds=seconds,
            seconds_reading=chunks.seconds,
            peak_memory_gb=peak_gb(),
            device_peak_memory_gb=device_peak_gb(),
        )

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dataclass_fields__)

    def __len__(self) -> int:
        return len(self.__dataclass_fields__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LargeFitInfo(FitInfo):
    """The same of `fit_large_dataset`, with what was planned and found.

    **Attributes:** those of `FitInfo`, and

    - `plan`: the [`jaxfit.Plan`][].
    - `solution`: the [`jaxfit.Solution`][] of the free parameters.
    """

    plan: Plan
    solution: Solution
