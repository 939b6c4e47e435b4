"""What a checkpoint of a streamed fit holds, and which fit it belongs to."""

import dataclasses
import importlib.metadata
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ._checkpoint import CheckpointError
from ._drive import Arrays, Drive
from ._fingerprint import fingerprint
from ._pass import with_data
from ._problem import Problem
from ._reading import Block, Reading
from ._spread import objective_of
from ._trf import TRF


def identity(
    problem: Problem, solver: TRF, point: Array, reading: Reading, first: Block
) -> dict[str, Any]:
    """What must be equal for a checkpoint to belong to this fit, cheapest first."""
    data = first.x, first.y, first.sigma, first.used

    def linearised(point, *data):
        whole = with_data(problem, *data)
        return jax.tree.leaves(objective_of(whole, point, solver).linearise(point))

    program = jax.make_jaxpr(linearised)(point, *data)
    # A Jacobian of the user's is known by its program.
    options = {
        field.name: str(getattr(solver, field.name))
        for field in dataclasses.fields(solver)
        if field.name != "jacobian"
    }
    return {
        "version of jaxfit": importlib.metadata.version("jaxfit-kernel"),
        "chunk_size": reading.rows,
        "nan_policy": reading.nan_policy,
        "start": fingerprint(problem.params),
        "bounds": fingerprint(problem.lower, problem.upper),
        "solver": fingerprint(options),
        "data": fingerprint(data),
        "model or loss": fingerprint(program),
    }


def held(drive: Drive) -> Arrays:
    """All that is needed to continue a fit."""
    reading = drive.of.reading
    seen = [reading.inspected, reading.retried, reading.chunks, reading.bytes]
    bad, masked = (
        np.array(sorted(rows.items()), np.int64).reshape(-1, 2)
        for rows in (reading.bad, reading.masked)
    )
    num_rows = -1 if reading.num_rows is None else reading.num_rows
    return {
        **drive.arrays(),
        "reading": np.array([*seen, num_rows], np.int64),
        "bad rows": bad,
        "masked rows": masked,
    }


def restore(drive: Drive, found: Arrays) -> None:
    """Continue from what was `held` by an equal fit.

    **Raises:** `CheckpointError` where the source had another length.
    """
    drive.restore(found)
    reading = drive.of.reading
    inspected, retried, chunks, num_bytes, num_rows = (int(i) for i in found["reading"])
    reading.retried, reading.chunks, reading.bytes = retried, chunks, num_bytes
    reading.bytes_before = num_bytes
    # Blocks that were inspected but not added yet are inspected again.
    if "partial done" in found and not found["counters"][1]:
        done, workers = found["partial done"], len(found["partial done"])
        added = min(i + workers * int(count) for i, count in enumerate(done))
        inspected = min(inspected, added)
    reading.inspected = inspected
    reading.bad = {int(i): int(n) for i, n in found["bad rows"] if i < inspected}
    reading.masked = {int(i): int(n) for i, n in found["masked rows"]}
    if num_rows >= 0:
        if reading.num_rows not in (None, num_rows):
            raise CheckpointError(
                f"the checkpoint is of a source of {num_rows} rows, and this one has "
                f"{reading.num_rows}. Give this fit another folder, or start anew with "
                "resume=False."
            )
        reading.num_rows = num_rows
