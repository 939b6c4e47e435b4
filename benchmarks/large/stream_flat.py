"""Does a streamed fit keep its speed and its memory, however many points there are?

A decay of 3 parameters in float64, streamed from memory maps of up to 10^8 points (1.6
GB) in a temporary folder: the time a point and pass, the resident memory while all of
them are read, and, with a straight line for a model, the speed of reading beside a loop
that reads the same chunks and does nothing but add them up.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tools.measure import fresh
from tools.report import report, table, target

import jaxfit


START = (1.0, 1.0, 1.0)
PIECE = 1_000_000
LIMIT_GB = 2.0  # for the way that is planned: 10^8 points in memory take more
GOLDEN = (5**0.5 - 1) / 2
COLUMNS = ("x", "y")
KEPT = {
    "start": "at the begin",
    "mean": "mean of the passes",
    "least": "least",
    "most": "most",
    "variation": "variation",
    "above": "most above the begin",
    "passes": "passes",
    "seconds": "s",
}


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def line(x, a, b):
    return a + b * x


def write(folder: Path, count: int) -> None:
    """Files of x and y, written in pieces; every beginning of them covers [0, 4]."""
    rng = np.random.default_rng(0)
    x, y = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float64, (count,))
        for name in COLUMNS
    )
    for i in range(0, count, PIECE):
        j = min(i + PIECE, count)
        some = 4 * (GOLDEN * np.arange(i, j) % 1)
        x[i:j] = some
        y[i:j] = 2.5 * np.exp(-1.3 * some) + 0.5 + 0.05 * rng.standard_normal(j - i)
    x.flush()
    y.flush()


def read(folder: str | Path, count: int) -> list[np.ndarray]:
    """Memory maps of the first `count` rows."""
    return [
        np.load(Path(folder) / f"{name}.npy", mmap_mode="r")[:count] for name in COLUMNS
    ]


class Clocked(jaxfit.ArraySource):
    """A source that notes when each pass over it begins."""

    def __init__(self, *arrays: Any):
        super().__init__(*arrays)
        self.begins: list[float] = []

    def chunks(self, begin: int, rows: int) -> Any:
        self.begins.append(time.perf_counter())
        return super().chunks(begin, rows)


def fit(model: Callable, start: Any, arrays: list[np.ndarray]) -> tuple[Any, Clocked]:
    """A streamed fit and its source."""
    source = Clocked(*arrays)
    found = jaxfit.fit_large_dataset(
        model, source, p0=np.array(start), strategy="streamed"
    )
    return found, source


def passes(model: Callable, start: Any, arrays: list[np.ndarray]) -> list[float]:
    """Seconds of each pass of a fit but the last, which has no successor.

    The first look at the source is at one chunk, for its structure; the first pass
    looks for numbers that are not finite as well. From one pass's begin to the next's,
    the step between them is included.
    """
    _, source = fit(model, start, arrays)
    begins = source.begins[1:]
    return list(np.diff(begins))


def as_planned(folder: Path, counts: list[int], rounds: int) -> list[list[Any]]:
    """Rows of the way and the time a point and evaluation, sizes in turn."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    infos = {}

    def call(count):
        x, y = read(folder, count)
        begin = time.perf_counter()
        found = jaxfit.fit_large_dataset(
            decay, x, y, np.array(START), memory_limit_gb=LIMIT_GB
        )
        infos[count] = found.info
        return time.perf_counter() - begin

    for count in counts:
        call(count)
    for _ in range(rounds):
        for count in counts:
            for _ in range(max(1, min(20, 10**6 // count))):
                seconds = call(count)
                times[count].append(1e9 * seconds / count / infos[count]["nfev"])
    return [
        [
            count,
            infos[count]["strategy"],
            infos[count]["nfev"],
            statistics.median(times[count]),
        ]
        for count in counts
    ]


def streamed(folder: Path, counts: list[int], rounds: int) -> list[list[Any]]:
    """Rows of times a point and pass of a streamed fit, sizes in turn."""
    kinds = ("later", "first", "whole")
    times: dict[Any, list[float]] = {(c, kind): [] for c in counts for kind in kinds}
    chunks = {}
    for count in counts:
        found, _ = fit(decay, START, read(folder, count))
        chunks[count] = found.info["chunk_size"]
    for _ in range(rounds):
        for count in counts:
            arrays = read(folder, count)
            for _ in range(max(1, min(20, 10**6 // count))):
                begin = time.perf_counter()
                found, source = fit(decay, START, arrays)
                took = time.perf_counter() - begin
                first, *later = 1e9 / count * np.diff(source.begins[1:])
                times[count, "first"].append(first)
                times[count, "later"] += later
                whole = 1e9 * took / count / found.info["passes"]
                times[count, "whole"].append(whole)
    return [
        [count, chunks[count], *(statistics.median(times[count, k]) for k in kinds)]
        for count in counts
    ]


def held(folder: str, count: int) -> list[dict[str, float]]:
    """GB of this process while it streams: the first call, and the same one again."""
    return [watched(read(folder, count)) for _ in range(2)]


def watched(arrays: list[np.ndarray]) -> dict[str, float]:
    """GB held from the begin of the first pass on, and above the begin of the call."""
    with jaxfit.MemoryProfiler(interval=0.01) as memory:
        begin = time.perf_counter()
        found, source = fit(decay, START, arrays)
    looks = memory.resident_gb[memory.times >= source.begins[1] - begin]
    return {
        "start": memory.start_gb,
        "mean": float(looks.mean()),
        "least": float(looks.min()),
        "most": float(looks.max()),
        "variation": float(looks.std() / looks.mean()),
        "above": memory.peak_gb - memory.start_gb,
        "seconds": float(memory.times[-1]),
        "passes": found.info["passes"],
    }


def reading(folder: Path, count: int, rounds: int) -> tuple[list[list[Any]], float]:
    """Rows of GB/s, and the median of streaming's over that of reading the file."""
    arrays = read(folder, count)
    size = sum(a.nbytes for a in arrays) / 1e9
    rows = fit(line, (0.0, 0.0), arrays)[0].info["chunk_size"]

    def loop(take: Callable) -> float:
        """Seconds in which both columns are read chunk by chunk, and summed."""
        begin, total = time.perf_counter(), 0.0
        for i in range(0, count, rows):
            for column in read_only:
                total += float(take(column[i : i + rows]).sum())
        assert np.isfinite(total)
        return time.perf_counter() - begin

    def from_file() -> float:
        """Seconds in which the files themselves are read chunk by chunk, and summed."""
        begin, total = time.perf_counter(), 0.0
        files = [(Path(a.filename), a.offset, a.dtype) for a in arrays]
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(path.open("rb")) for path, _, _ in files]
            for file, (_, offset, _) in zip(opened, files, strict=True):
                file.seek(offset)
            for _ in range(0, count, rows):
                for file, (_, _, dtype) in zip(opened, files, strict=True):
                    total += float(np.fromfile(file, dtype, rows).sum())
        assert np.isfinite(total)
        return time.perf_counter() - begin

    names = ("read", "copied", "mapped", "fit")
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        speeds["read"].append(size / from_file())
        for name, take in (("copied", np.array), ("mapped", np.asarray)):
            # Mapped anew, as the pages that were read would stay and cost nothing.
            read_only = read(folder, count)
            speeds[name].append(size / loop(take))
        arrays = read(folder, count)
        speeds["fit"].append(size / statistics.median(passes(line, (0, 0), arrays)))

    def ratio(name):
        pairs = zip(speeds["fit"], speeds[name], strict=True)
        return statistics.median(a / b for a, b in pairs)

    titles = {
        "read": "a loop that reads each chunk from the file and sums it",
        "copied": "a loop that copies each chunk and sums it",
        "mapped": "a loop that sums each chunk where it is mapped",
        "fit": "a pass of the fit of a straight line",
    }
    table = [
        [title, statistics.median(speeds[name]), ratio(name)]
        for name, title in titles.items()
    ]
    return table, ratio("read")


def main(quick: bool) -> dict[str, Any]:
    counts = [10**5, 10**6, 10**7, 10**8][: 3 if quick else None]
    most = counts[-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, most)
        first, again = fresh("large.stream_flat", "held", name, most)
        rounds = 2 if quick else 3
        planned = as_planned(folder, counts, rounds)
        rows = streamed(folder, counts, rounds)
        speeds, speed = reading(folder, most, 3 if quick else 5)
    each, calls = [row[2] for row in rows], [row[3] for row in planned]
    return report(
        __doc__,
        [
            target(
                f"ns a point and evaluation, {counts[0]:,} to {most:,} points as "
                "planned, largest over smallest: at most 1.25",
                max(calls) / min(calls),
                at_most=1.25,
            ),
            target(
                f"ns a point and pass, {counts[0]:,} to {most:,} points streamed, "
                "largest over smallest: at most 1.25",
                max(each) / min(each),
                at_most=1.25,
            ),
            target(
                f"resident memory while {most:,} points are streamed, once compiled: "
                "coefficient of variation under 0.05",
                again["variation"],
                at_most=0.05,
            ),
            target(
                f"GB above the begin, {most:,} points, first call: under 1",
                first["above"],
                at_most=1.0,
            ),
            target(
                "a straight line: reading speed over that of a loop that reads the "
                "file in chunks and sums, at least 0.7",
                speed,
                at_least=0.7,
            ),
        ],
        [
            table(
                f"The way that is planned for {LIMIT_GB:.0f} GB: ns a point and "
                "evaluation of a warm call",
                ["points", "strategy", "evaluations", "ns"],
                planned,
            ),
            table(
                "Streamed at all sizes: ns a point and pass",
                ["points", "chunk size", "later passes", "first pass", "whole call"],
                rows,
            ),
            table(
                f"GB held while {most:,} points are streamed, in a fresh process",
                ["call", *KEPT.values()],
                [
                    [name, *(one[key] for key in KEPT)]
                    for name, one in (("first", first), ("again", again))
                ],
            ),
            table(
                f"Reading {most:,} points of two columns from memory maps, in chunks "
                "of the same length",
                ["what", "GB/s", "the fit's speed over it"],
                speeds,
            ),
        ],
        [
            "Files are in the system's cache, where it is large enough for them: what "
            "is compared is the way from there, not a disk.",
            "An evaluation is a trial point: in memory two visits of the data, for its "
            "cost and for a linearisation; streamed, one for both.",
            "A pass is timed from its begin to that of the next, with the step between "
            "them. The first one also looks for numbers that are not finite.",
            "'Whole call' is a warm call, with all that it does before and after, over "
            "its passes.",
            "Memory is looked at every 10 ms. Mean, least, most and variation are from "
            "the begin of the first pass, in which the first call still compiles.",
            "The loops run on one core, and the fit on all of them. The loops map the "
            "file anew each time, as the fit gives its pages back.",
        ],
    )
