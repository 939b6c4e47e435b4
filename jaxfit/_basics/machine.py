"""Cores and memory of this process; memory in gigabytes (10^9 bytes)."""

import ctypes
import os
import sys
from pathlib import Path

import jax


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_gb() -> float:
    """What the process holds in memory now; its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_gb()
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def peak_gb() -> float:
    """The most that the process held since it began."""
    try:
        import resource
    except ImportError as err:  # Windows
        raise NotImplementedError(
            "the peak memory of a process is known on Linux and macOS only."
        ) from err
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def free_gb() -> float:
    """What could be taken without swapping, less than all where a limit is set."""
    free = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024 / 1e9)
    except OSError:
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        return min(free)
    if limit != "max":
        free.append((int(limit) - used) / 1e9)
    return max(min(free), 0.0)


def return_free_memory() -> None:
    """Give the system what was freed and is kept for later, where it can be asked.

    glibc keeps the pieces of freed programs: some 10 MB of each.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "malloc_trim"):  # musl has none
        library.malloc_trim(0)


def device_peak_gb() -> float | None:
    """The most that one device held, where devices have memory of their own."""
    peaks = [
        stats["peak_bytes_in_use"] / 1e9
        for stats in (device.memory_stats() for device in jax.local_devices())
        if stats and "peak_bytes_in_use" in stats
    ]
    return max(peaks) if peaks else None
