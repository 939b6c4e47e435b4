"""The kernels that a compiled program launches, read from its HLO.

Every instruction that XLA left for itself after its fusions is a kernel, or a call of a
library, or a copy; the others (a tuple, one of its elements, another shape of the same
numbers) launch nothing. A loop launches those of its body and its condition each turn.
The same text is read on a CPU and on a GPU, where it says what a step costs: about as
many launches of some microseconds each.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax


# What only names, groups or reinterprets what is there, or waits for it.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "add-dependency",
    "opt-barrier",
    "partition-id",
    "replica-id",
    "copy-done",
    "async-done",
    "async-update",
    "all-reduce-done",
    "all-gather-done",
    "collective-permute-done",
}
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*?\s?([a-z][a-z0-9\-]*)\(")
CALLED = {
    "call": r"to_apply=%?([\w.\-]+)",
    "body": r"body=%?([\w.\-]+)",
    "condition": r"condition=%?([\w.\-]+)",
}
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
BRANCH = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Launches:
    """Kernels launched once, and loops with the launches of one of their turns."""

    once: int = 0
    loops: tuple["Launches", ...] = ()

    def __add__(self, other: "Launches") -> "Launches":
        return Launches(self.once + other.once, self.loops + other.loops)

    @property
    def all(self) -> int:
        """With one turn of every loop."""
        return self.once + sum(loop.all for loop in self.loops)

    @property
    def largest_loop(self) -> "Launches":
        """The loop of the program that has most in it; nothing where there is none."""
        return max(self.loops, key=lambda loop: loop.all, default=Launches())


def launches(hlo: str) -> Launches:
    """Those of a compiled program, `compiled.as_text()`."""
    entry, computations = _computations(hlo)

    def inside(name: str) -> Launches:
        total = Launches()
        for opcode, line in computations[name]:
            total += of(opcode, line)
        return total

    def named(kind: str, line: str) -> Launches:
        found = re.search(CALLED[kind], line)
        if found is None:
            raise ValueError(f"no {kind} is named by {line.strip()[:80]!r}")
        return inside(found[1])

    def of(opcode: str, line: str) -> Launches:
        if opcode in FREE:
            return Launches()
        if opcode == "call":
            return named("call", line)
        if opcode == "while":
            turn = named("body", line) + named("condition", line)
            return Launches(loops=(turn,))
        if opcode == "conditional":
            listed = BRANCHES.search(line)
            names = listed[1].split(",") if listed else BRANCH.findall(line)
            ways = [inside(name.strip(" %")) for name in names]
            return max(ways, key=lambda way: way.all)  # a turn takes one of them
        return Launches(once=1)

    return inside(entry)


def _computations(hlo: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """The entry's name, and (opcode, line) of the instructions of each computation."""
    entry, current, found = "", "", {}
    for line in hlo.splitlines():
        head = HEAD.match(line)
        if head is not None:
            current = head[2]
            found[current] = []
            entry = current if head[1] else entry
        elif current and (instruction := INSTRUCTION.match(line)):
            found[current].append((instruction[1], line))
    if not entry:
        raise ValueError("this is not the HLO of a compiled program: it has no ENTRY.")
    return entry, found


def measured_launches(call: Callable[[], Any]) -> int | None:
    """What the profiler sees on the streams of a GPU in one call; None elsewhere."""
    jax.block_until_ready(call())
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        count = 0
        for path in Path(folder).rglob("*.xplane.pb"):
            planes = jax.profiler.ProfileData.from_file(str(path)).planes
            for plane in planes:
                if plane.name.startswith("/device:GPU"):
                    streams = [a for a in plane.lines if a.name.startswith("Stream")]
                    count += sum(1 for line in streams for _ in line.events)
    return count or None
