"""How things are measured: warm, several times, peers in turn, in fresh processes.

Only the standard library is imported here, so that a fresh process can measure what
importing something else costs.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parent
PACKAGES = (
    "jaxfit-kernel",
    "jax",
    "jaxlib",
    "equinox",
    "numpy",
    "scipy",
    "optimistix",
    "lineax",
    "lmfit",
    "iminuit",
    "nlsq",
)


@dataclass(frozen=True)
class Timings:
    """Seconds of one call of each peer, one entry a round."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median over the rounds of this peer's time over that of another.

        Both were measured in the same round, so what slows the machine for a while
        slows both.
        """
        pairs = zip(self.rounds[name], self.rounds[to], strict=True)
        return statistics.median(a / b for a, b in pairs)


def interleave(
    calls: dict[str, Callable[[], Any]], rounds: int, seconds: float = 0.05
) -> Timings:
    """Time every call once a round, after two calls that do not count.

    A call that is short is repeated within its round until `seconds` have passed. Each
    call must wait for its own result. The order is turned from round to round.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        repeats[name] = max(1, int(seconds / took))
    names, times = list(calls), {name: [] for name in calls}
    for i in range(rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                calls[name]()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return Timings(times)


def least_seconds(call: Callable[[], Any], rounds: int = 5) -> float:
    """The least time of some calls, after one that does not count.

    What it returns may be on its way still: it is waited for.
    """
    import jax

    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times[1:])


def fresh(module: str, function: str, *args: Any, **variables: str) -> Any:
    """What `module.function(*args)` returns in a new process that computes in float64.

    The module is `folder.file` of the benchmarks; arguments and result must be JSON.
    `variables` are set in the environment.
    """
    code = (
        f"import json, {module}; "
        f"result = {module}.{function}(*json.loads({json.dumps(args)!r})); "
        "print(); print(json.dumps(result))"
    )
    paths = [str(HERE), str(ROOT), str(ROOT / "tests" / "shared")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_ENABLE_X64": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "0",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def versions() -> dict[str, str]:
    """Versions of Python and of every package that takes part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def machine() -> dict[str, Any]:
    """The kind of machine, without anything that names this one."""
    import jax

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
