"""The memory and memory maps of compiled programs: the most, and what is taken.

A program of a whole fit is a few megabytes of code in some 200 pieces, each a memory
map of its own. Linux allows a process 65,530 of those (`vm.max_map_count`), and beyond
them the compiler ends it, without an exception.
"""

from pathlib import Path
from typing import NamedTuple

from .._basics.machine import resident_gb


class Budget(NamedTuple):
    """The most that is kept: programs, memory maps, and bytes; None for any number."""

    programs: int | None
    maps: int | None
    bytes: int | None


class Held(NamedTuple):
    """What is kept: programs, and the memory maps and bytes that they took."""

    programs: int
    maps: int
    bytes: int


class Taken(NamedTuple):
    """Memory maps and resident bytes of the process; 0 where they are not told."""

    maps: int
    bytes: int


def default_budget() -> Budget:
    """Half of the maps that Linux allows, 2 GiB, and at most 1,024 programs.

    Elsewhere maps cannot be counted, and programs stand for them.
    """
    allowed = _maps_allowed()
    if allowed is None:
        return Budget(256, None, 2**31)
    return Budget(1024, allowed // 2, 2**31)


def nearly_all_maps() -> int | None:
    """So many maps of the whole process, whoever made them, leave no room."""
    allowed = _maps_allowed()
    return None if allowed is None else allowed * 9 // 10


def _maps_allowed() -> int | None:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):  # not Linux
        return None


def taken() -> Taken:
    """What the process takes now; 20 ms where there are as many maps as may be."""
    try:
        maps = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # not Linux
        return Taken(0, 0)
    return Taken(maps, int(resident_gb() * 1e9))
