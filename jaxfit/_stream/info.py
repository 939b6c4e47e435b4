"""What the doors for large data tell of a fit, besides its result."""

from typing import Any

from .._basics.machine import device_peak_gb, peak_gb
from .._basics.status import Status
from .._solve.solution import Solution
from .blocks import Reading


def fit_info(
    strategy: str,
    solution: Solution,
    reading: Reading,
    seconds: float,
    passes: int,
    chunk_size: int | None,
    workers: int,
) -> dict[str, Any]:
    """The entries that all strategies have in common."""
    attempts = reading.chunks + reading.retried
    rows = reading.num_rows or 0
    status = Status(int(solution.status))
    stopped = status == Status.STOPPED
    return {
        "strategy": strategy,
        "status": status,
        "message": "Stopped by Ctrl-C." if stopped else status.message,
        "nfev": int(solution.nfev),
        "passes": passes,
        "chunk_size": chunk_size,
        "workers": workers,
        "num_rows": rows,
        "rows_used": reading.num_used,
        "rows_not_finite": reading.num_bad,
        "chunks_read": reading.chunks,
        "retries": reading.retried,
        "success_rate": reading.chunks / attempts if attempts else 1.0,
        "bytes_read": reading.bytes,
        "bytes_per_second": (reading.bytes - reading.bytes_before) / seconds,
        "seconds": seconds,
        "seconds_reading": reading.seconds,
        "peak_memory_gb": peak_gb(),
        "device_peak_memory_gb": device_peak_gb(),
    }
