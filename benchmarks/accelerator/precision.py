"""How many digits does each precision give on an accelerator?

What `kernel/precision.py` asks on a CPU, where all of it is tried: here NIST StRD in
float64 and in float32, the spots by every option, and derivatives in every precision.
"""

from typing import Any

import jax
from kernel.precision import NOTES, of_derivatives, of_nist, of_pixels
from tools.budget import Budget
from tools.compiled import workers
from tools.precisions import DOUBLE, PRECISIONS, SINGLE
from tools.report import report

from jaxfit.datasets import nist_names


# Of a single fit's program, as measured on an H200: its trace, and the rest alone.
TRACE_SECONDS, COMPILE_SECONDS = 0.3, 3.0
# Of the five settings of the spots, each with a program or two of its own.
PIXELS_SECONDS = 60.0


def compiling(programs: int) -> float:
    """Seconds that so many programs of single fits take together."""
    return programs * TRACE_SECONDS + COMPILE_SECONDS * (1 + programs // workers())


def main(quick: bool, budget: Budget) -> dict[str, Any]:
    names = list(nist_names())[:: 14 if quick else 1]
    count, few = (500, 20) if quick else (20_000, 500)
    both, tables = (DOUBLE, SINGLE), []
    free = 0 if quick else 1
    if budget.allows("NIST StRD", free * compiling(2 * len(names))):
        tables += of_nist(names, both)
    precisions = both if quick else PRECISIONS
    if budget.allows("derivatives", free * 2 * compiling(len(precisions) + 2)):
        tables.append(of_derivatives(few, precisions))
        with jax.default_matmul_precision("highest"):
            best = of_derivatives(few, (SINGLE,))
        best["title"] += ', with jax_default_matmul_precision="highest"'
        tables.append(best)
    if budget.allows("spots of light", free * PIXELS_SECONDS):
        tables.append(of_pixels(count))
    return report(
        __doc__,
        [],
        tables,
        NOTES,
    )
