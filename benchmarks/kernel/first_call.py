"""What does the first call cost: importing, tracing and compiling?

Each number is from fresh processes, taken in turn. The clock starts after JAX was woken
by a trivial compiled function and a trivial QR, and stops when the first fit of 100
points is done. Peer: optimistix LevenbergMarquardt (rtol = atol = 1e-8).

`curve_fit` is measured as a user meets it: no linear algebra was woken before. Its
seconds are those of all cores together, with and without programs that an earlier
process kept (`JAXFIT_CACHE`).
"""

import statistics
import tempfile
import time
from typing import Any

from tools.measure import fresh
from tools.report import report, table, target


CASES = ("optimistix LM", "jaxfit", "jaxfit, bounded")
DOORS = ("curve_fit", "curve_fit, bounded")


def import_cost() -> float:
    """Seconds of importing `jaxfit.solve` once jax and equinox are there."""
    import equinox
    import jax

    assert equinox and jax
    start = time.perf_counter()
    from jaxfit import curve_problem, solve

    took = time.perf_counter() - start
    assert curve_problem and solve
    return took


def first_call(case: str) -> float:
    """Seconds of tracing, compiling and running one fit for the first time."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optimistix  # before the clock starts
    from tools import decay

    from jaxfit import solve

    assert optimistix
    x, y = (jnp.asarray(a) for a in decay.data(100))
    jax.block_until_ready(jax.jit(lambda a: a + 1)(x))
    jax.block_until_ready(jnp.linalg.qr(np.ones((4, 2))))
    start = time.perf_counter()
    if case == "optimistix LM":
        result = decay.optimistix_fit(1e-8)(x, y)
    else:
        bounds = (0.0, 10.0) if case == "jaxfit, bounded" else None
        result = jax.jit(solve)(decay.jaxfit_problem(x, y, bounds))
    jax.block_until_ready(result)
    return time.perf_counter() - start


def first_curve_fit(case: str) -> float:
    """Seconds of processor time of the first `curve_fit`, once it is imported."""
    import jax
    import jax.numpy as jnp
    from tools import decay

    import jaxfit

    x, y = decay.data(100)
    bounds = {"bounds": (0, 10)} if case == "curve_fit, bounded" else {}
    curve_fit = jaxfit.curve_fit  # imported when it is asked for
    jax.block_until_ready(jax.jit(lambda a: a + 1)(1.0))

    def model(x, a, b, c):
        return a * jnp.exp(-b * x) + c

    start = time.process_time()
    curve_fit(model, x, y, decay.START, **bounds)
    return time.process_time() - start


def curve_fits(rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of first calls by door, without kept programs and with them."""
    seconds = {(door, how): [] for door in DOORS for how in ("cold", "kept")}
    with tempfile.TemporaryDirectory(prefix="jaxfit-benchmark-") as folder:
        kept = {
            "JAXFIT_CACHE": folder,
            "JAX_COMPILATION_CACHE_DIR": "",
            "JAX_ENABLE_COMPILATION_CACHE": "1",
        }
        for door in DOORS:
            fresh("kernel.first_call", "first_curve_fit", door, **kept)
        for _ in range(rounds):
            for (door, how), all_ in seconds.items():
                variables = kept if how == "kept" else {}
                call = "kernel.first_call", "first_curve_fit", door
                all_.append(fresh(*call, **variables))
    return seconds


def calls_of_the_model() -> dict[str, int]:
    """How often the user's Python function runs while each is traced."""
    import jax
    import jax.numpy as jnp
    from tools import decay

    import jaxfit

    x, y = (jnp.asarray(a) for a in decay.data(100))
    count = 0

    def called():
        nonlocal count
        count += 1

    def model(x, params):
        called()
        return decay.model(x, params)

    def solution(y, **options):
        problem = jaxfit.curve_problem(model, x, y, jnp.array(decay.START))
        return jaxfit.solve(problem, jaxfit.TRF(**options)).params

    def of(fn, *args):
        nonlocal count
        before = count
        jax.clear_caches()
        jax.make_jaxpr(fn)(*args)
        return count - before

    optimistix = decay.optimistix_fit(1e-8, called)
    return {
        "jaxfit": of(solution, y),
        "jaxfit, in blocks": of(lambda y: solution(y, chunk_size=32), y),
        "jaxfit, jacfwd of a fit": of(jax.jacfwd(solution), y),
        "jaxfit, jacrev of a fit": of(jax.jacrev(solution), y),
        "optimistix LM": of(optimistix, x, y),
    }


def main(quick: bool) -> dict[str, Any]:
    rounds = 2 if quick else 5
    fresh("kernel.first_call", "import_cost")  # so that bytecode is cached
    imports, seconds = [], {case: [] for case in CASES}
    for _ in range(rounds):
        imports.append(fresh("kernel.first_call", "import_cost"))
        for case in CASES:
            seconds[case].append(fresh("kernel.first_call", "first_call", case))
    times = {case: statistics.median(all_) for case, all_ in seconds.items()}
    peer = times["optimistix LM"]
    imported = statistics.median(imports)
    calls = fresh("kernel.first_call", "calls_of_the_model")
    doors = curve_fits(rounds)
    cpu = {key: statistics.median(all_) for key, all_ in doors.items()}
    return report(
        __doc__,
        [
            target(
                "first call over optimistix LM's: at most 1",
                times["jaxfit"] / peer,
                at_most=1.0,
            ),
            target(
                "with bounds: at most 1.4",
                times["jaxfit, bounded"] / peer,
                at_most=1.4,
            ),
            target(
                "importing `jaxfit.solve` over `import jax, equinox`: at most 0.2 s",
                imported,
                at_most=0.2,
            ),
            target(
                "first curve_fit, s of processor time: at most 0.7",
                cpu["curve_fit", "cold"],
                at_most=0.7,
            ),
            target(
                "first curve_fit with kept programs, s of processor time: at most 0.15",
                cpu["curve_fit", "kept"],
                at_most=0.15,
            ),
            target(
                "calls of the model while a fit is traced: at most 2 (linearise, cost)",
                calls["jaxfit"],
                at_most=2,
            ),
        ],
        [
            table(
                "First fit of three parameters in a new process",
                ["library", "s", "over optimistix", "fastest", "slowest"],
                [
                    [case, times[case], times[case] / peer, min(all_), max(all_)]
                    for case, all_ in seconds.items()
                ],
            ),
            table(
                "First curve_fit in a new process, seconds of processor time",
                ["call", "cold", "kept", "kept over cold", "fastest cold", "and kept"],
                [
                    [
                        door,
                        cpu[door, "cold"],
                        cpu[door, "kept"],
                        cpu[door, "kept"] / cpu[door, "cold"],
                        min(doors[door, "cold"]),
                        min(doors[door, "kept"]),
                    ]
                    for door in DOORS
                ],
            ),
            table(
                "Calls of the user's Python function while tracing",
                ["traced", "calls"],
                [list(item) for item in calls.items()],
            ),
        ],
        [
            f"Medians of {rounds} processes each, taken in turn; no compilation cache.",
            "'kept': with programs that another process kept on disk (`JAXFIT_CACHE`); "
            "what remains is tracing, lowering and loading them.",
            "jaxfit's time includes building the problem, with its checks.",
            "optimistix LM has no bounds.",
        ],
    )
