"""The memory of this process, watched while something runs."""

import threading
import time
from types import TracebackType

import numpy as np
from jaxtyping import Float

from .machine import device_peak_gb, resident_gb


class MemoryProfiler:
    """Watches the resident memory of the process from begin to end of a `with` block.

        with jaxfit.MemoryProfiler() as memory:
            ...
        print(memory.report())

    **Arguments:**

    - `interval`: seconds between two looks. What comes and goes faster is not seen.

    **Attributes** (gigabytes, 10^9 bytes):

    - `times`, `resident_gb`: arrays, one entry a look: seconds since the begin, and the
        memory held then.
    - `start_gb`, `peak_gb`: at the begin, and the most that was seen.
    - `device_peak_gb`: the most that one accelerator held since the process began; None
        on a CPU.

    **Raises:** `ValueError` where `interval` is not positive.
    """

    def __init__(self, interval: float | int = 0.02):
        if not (isinstance(interval, int | float) and interval > 0):
            raise ValueError(f"`interval` must be positive, got {interval!r}.")
        self._interval = float(interval)
        self._seen: list[tuple[float, float]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.device_peak_gb: float | None = None

    def __enter__(self) -> "MemoryProfiler":
        if self._thread is not None:
            raise RuntimeError("a MemoryProfiler serves for one `with` block.")
        self._begun = time.perf_counter()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        assert self._thread is not None
        self._thread.join()
        self._look()
        self.device_peak_gb = device_peak_gb()

    def _watch(self) -> None:
        while not self._stopping.wait(self._interval):
            self._look()

    def _look(self) -> None:
        self._seen.append((time.perf_counter() - self._begun, resident_gb()))

    @property
    def times(self) -> Float[np.ndarray, " looks"]:
        return np.array([when for when, _ in self._seen])

    @property
    def resident_gb(self) -> Float[np.ndarray, " looks"]:
        return np.array([held for _, held in self._seen])

    @property
    def start_gb(self) -> float:
        return self._seen[0][1]

    @property
    def peak_gb(self) -> float:
        return float(self.resident_gb.max())

    def report(self) -> str:
        """A few lines to print."""
        held = self.resident_gb
        lines = [
            f"{len(held)} looks in {self.times[-1]:.1f} s",
            f"at the begin {held[0]:.3f} GB, at the end {held[-1]:.3f} GB",
            f"most {held.max():.3f} GB, {held.max() - held[0]:.3f} GB above the begin",
        ]
        if self.device_peak_gb is not None:
            lines.append(f"most on a device {self.device_peak_gb:.3f} GB")
        return "\n".join(lines)
