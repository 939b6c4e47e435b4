"""How much memory does a million small fits take beyond their input and output?

The fits of 'Batch' by jaxfit.curve_fit_batch, each setting in a process of its own: the
peak of its resident memory in a warm call, above what it held before and less the
results. What compilation takes, once, stands beside it. Peers: what XLA plans where all
fits are made at once, by optimistix LevenbergMarquardt and by jax.vmap(jaxfit.solve).
"""

import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tools.measure import fresh
from tools.pixels import ON_GPU, batch, data, device, optimistix_fit, problem
from tools.report import report, table, target

import jaxfit


SETTINGS: dict[str, dict[str, Any]] = {
    "float64": {},
    "float64, no covariance": {"covariance": False},
    "float32": {"dtype": "float32"},
    "float32, polished": {"polish": True},
}
# More than a slice for every core, so that it compiles what the large batch runs.
WARM = 131_072
RESULTS = (
    *("popt", "pcov", "perr", "cost", "optimality", "active_mask", "num_data"),
    *("status", "nfev", "njev", "nit"),
)


def resident() -> float:
    """MB that this process holds, after giving back what is free."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def forget_peak() -> bool:
    """Let the peak begin anew; whether that is allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> float:
    """MB that this process held at most, since `forget_peak` if it is allowed."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return float(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {key}")


def size(result: Any) -> float:
    """MB of the arrays of a result."""
    arrays = [getattr(result, name) for name in RESULTS]
    return sum(a.nbytes for a in arrays if a is not None) / 1e6


def measured(name: str, count: int) -> dict[str, float]:
    """MB of the warm call, and of the first one on fewer fits."""
    more = SETTINGS[name]
    images, starts = data(count)
    given = (images.nbytes + starts.nbytes) / 1e6
    before = resident()
    forget_peak()
    result = batch(images[:WARM], starts[:WARM], **more)
    first, compiled = peak() - before - size(result), result.compile_time
    del result
    kept = resident() - before

    before, reset = resident(), forget_peak()
    result = batch(images, starts, **more)
    top, out = peak(), size(result)
    found = {
        "given": given,
        "results": out,
        "beyond": top - before - out,
        "first": first,
        "kept": kept,
        "compiled": compiled,
        "compiled again": result.compile_time,
        "reset": float(reset),
    }
    if ON_GPU:
        found["device"] = jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 1e6
    return found


def planned(count: int) -> list[list[Any]]:
    """Rows of the MB that XLA plans where all fits are made at once."""
    root = float(np.sqrt(np.finfo(float).eps))
    solver = jaxfit.TRF(root, root, root, linear_solver="gram", trials=1)

    def mine(image, start):
        return jaxfit.solve(problem(image, start), solver).params

    peers = {"jax.vmap(jaxfit.solve)": mine, "optimistix LM": optimistix_fit(1e-8)}
    shapes = [jax.ShapeDtypeStruct((count, k), float) for k in (25, 5)]
    rows = []
    for name, fit in peers.items():
        plan = jax.jit(jax.vmap(fit)).lower(*shapes).compile().memory_analysis()
        temporaries = plan.temp_size_in_bytes / 1e6
        rows.append([name, temporaries, plan.output_size_in_bytes / 1e6])
    return rows


def main(quick: bool) -> dict[str, Any]:
    count = 2 * WARM if quick else 1_000_000
    names = list(SETTINGS)[:1] if quick else list(SETTINGS)
    script = "many.batch_memory"
    found = {name: fresh(script, "measured", name, count) for name in names}
    columns = ["given", "results", "beyond", "first", "kept"]
    columns += ["compiled", "compiled again"]
    heads = ["setting", "input", "results", "beyond both"]
    heads += ["first call", "kept after it", "s compiling", "and again"]
    if ON_GPU:
        columns.append("device")
        heads.append("device's peak")
    reset = all(one["reset"] for one in found.values())
    return report(
        __doc__,
        [
            target(
                f"{name}: MB beyond input and output, below 200",
                one["beyond"],
                at_most=200.0,
            )
            for name, one in found.items()
        ],
        [
            table(
                f"MB of {count:,} fits",
                heads,
                [[name, *(found[name][c] for c in columns)] for name in found],
            ),
            table(
                f"MB planned by XLA for {count:,} fits at once, float64",
                ["peer", "temporaries", "results"],
                planned(count),
            ),
        ],
        [
            "'Beyond both' is the peak of the process in a warm call, less what it "
            "held before, free memory given back, and less the results.",
            f"'First call' is the same of the call before that, of {WARM:,} fits, "
            "which compiled; 'kept after it' is what stayed when its results were "
            "gone.",
            "The peak was begun anew before each call."
            if reset
            else "The peak could not be begun anew: it includes the first call's.",
            device(),
        ],
    )
