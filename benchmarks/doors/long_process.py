"""What do 2,000 different models take that are fitted in one process?

Each captures a table of 1,000 numbers of its own and has 3 parameters and 60 points;
jaxfit.curve_fit, jaxfit.least_squares and a plain jaxfit.solve take turns, so every fit
is a new program. Every 200 models: the memory maps of the process (Linux allows 65,530,
and ends it beyond), its resident memory, and what is kept. Fits that miss the truth,
which has no noise, are counted. At the end jaxfit.clear_caches gives all back.

Programs are compiled with few optimisations (XLA_FLAGS), in a third of the time.
"""

import importlib.metadata
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from tools.report import report, table, target

import jaxfit
from jaxfit._programs.budget import default_budget, taken
from jaxfit._programs.kept import STORE


TRUTH = np.array([2.5, 1.3, 0.5])
START = [1.0, 1.0, 1.0]


def model_of(number: int):
    """A model that nothing fitted before is equal to, and its data."""
    rng = np.random.default_rng(number)
    places = np.linspace(0, 5, 1000)
    values = np.cumsum(rng.normal(size=1000)) / 30

    def model(x, a, b, c):
        return a * jnp.exp(-b * x) + c * jnp.interp(x, places, values)

    x = np.linspace(0, 5, 60)
    y = TRUTH[0] * np.exp(-TRUTH[1] * x) + TRUTH[2] * np.interp(x, places, values)
    return model, x, y


def by_curve_fit(model, x, y):
    return jaxfit.curve_fit(model, x, y, START).popt


def by_least_squares(model, x, y):
    return jaxfit.least_squares(lambda p: model(x, *p) - y, START).x


def by_solve(model, x, y):
    problem = jaxfit.curve_problem(lambda x, p: model(x, *p), x, y, jnp.array(START))
    return np.asarray(jaxfit.solve(problem).params)


DOORS = (by_curve_fit, by_least_squares, by_solve)


def row(name: str, seconds: float) -> list:
    now, held = taken(), STORE.held()
    megabytes = now.bytes / 1e6
    return [name, now.maps, megabytes, held.programs, held.maps, seconds]


def compile_fast() -> None:
    """XLA reads its flags when JAX first computes something."""
    flags = ["--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # 0.12 refuses it
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])


def main(quick: bool) -> dict:
    compile_fast()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    count = 60 if quick else 2000
    every = count // 10
    if quick:
        jaxfit.set_program_budget(programs=20)
    rows, missed, begun = [row("none", 0.0)], 0, time.perf_counter()
    for i in range(count):
        found = DOORS[i % len(DOORS)](*model_of(i))
        missed += not np.allclose(found, TRUTH, rtol=1e-6)
        if (i + 1) % every == 0:
            rows.append(row(f"{i + 1:,}", time.perf_counter() - begun))
            begun = time.perf_counter()
    most = max(maps for _, maps, *_ in rows)
    jaxfit.clear_caches()
    rows.append(row("cleared", time.perf_counter() - begun))
    # What JAX itself keeps for each operation that it was ever asked for.
    few = 2000
    grown = rows[-2][2] - rows[len(rows) // 2][2]
    budget = default_budget()
    return report(
        __doc__,
        [
            target("Models fitted in the process", count, at_least=count),
            target("Fits that missed the truth", missed, at_most=0),
            target("Most maps, Linux allows 65,530", most, at_most=60_000),
            target("Maps after clear_caches", rows[-1][1], at_most=rows[0][1] + few),
            target("MB grown in the second half", grown, at_most=300),
        ],
        [
            table(
                "Models in one process",
                ["models", "maps", "MB", "programs kept", "their maps", "seconds"],
                rows,
            )
        ],
        [
            "The budget is the default one: "
            f"{budget.maps:,} maps and {budget.bytes / 1e9:.1f} GB."
            if budget.maps and budget.bytes and not quick
            else "The budget is 20 programs.",
            "Compiled with few optimisations; with all of them a program takes three "
            "times as long to compile, and about 230 maps instead of 177.",
        ],
    )
