"""The contents of a checkpoint of a streamed fit, and the identity of that fit."""

import dataclasses
import importlib.metadata
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from .._functions.fingerprint import fingerprint
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._solve.solver import TRF
from .blocks import Block, Reading
from .checkpoint import CheckpointError
from .drive import Arrays, Drive
from .passes import with_data


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
    chunks = reading.chunks
    seen = [reading.inspected, chunks.retried, chunks.count, chunks.bytes]
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

    **Raises:** `CheckpointError` where the source had another length, and where the
    arrays are not those of such a fit.
    """
    _check_arrays(drive, found)
    drive.restore(found)
    reading = drive.of.reading
    inspected, retried, count, num_bytes, num_rows = (int(i) for i in found["reading"])
    chunks = reading.chunks
    chunks.retried, chunks.count, chunks.bytes = retried, count, num_bytes
    chunks.bytes_before = num_bytes
    # Blocks that were inspected but not added yet are inspected again.
    if "partial done" in found and not found["counters"][1]:
        inspected = min(inspected, int(found["partial done"]))
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


def _check_arrays(drive: Drive, found: Arrays) -> None:
    """Refuse arrays that are missing, too many, or of other shapes and types."""
    wanted = _forms(held(drive))  # of a fit that has not begun
    wanted["bad rows"] = (None, 2), np.dtype(np.int64)
    x, blank = drive.state.x, jax.tree.leaves(drive.of.blank)
    n = x.size
    if "current 0" in found:
        wanted |= _forms({f"current {i}": leaf for i, leaf in enumerate(blank)})
    if "trial 0" in found:
        wanted |= _forms({f"trial {i}": leaf for i, leaf in enumerate(blank)})
        wanted |= _forms({"trial point": x})
    if "costs" in found:
        count = len(np.atleast_1d(found["costs"]))
        wanted["costs"] = (count,), x.dtype
        wanted["cost points"] = (count, n), x.dtype
    if "partial done" in found:
        others = len(np.atleast_1d(found.get("partial others", 0)))
        wanted |= _forms({"partial point": x})
        wanted["partial others"] = (others, n), x.dtype
        wanted["partial done"] = (), np.dtype(np.int64)
        wanted |= _forms({f"partial sums {i}": leaf for i, leaf in enumerate(blank)})
        wanted[f"partial sums {len(blank)}"] = (others,), x.dtype
    wrong = sorted(found.keys() ^ wanted.keys()) or [
        name for name, form in wanted.items() if not _is_of(form, found[name])
    ]
    if not wrong and found.get("partial done", 0) < 0:
        wrong = ["partial done"]
    if wrong:
        name = wrong[0]
        got = "missing"
        if name in found:
            got = f"{found[name].dtype}{list(found[name].shape)}"
        raise CheckpointError(
            f"the checkpoint is not one of such a fit: its array {name!r} is {got}, "
            f"which does not belong there. Give this fit another folder, or start anew "
            "with resume=False."
        )


_Form = tuple[tuple[int | None, ...], np.dtype]  # a shape (None: any) and a dtype


def _is_of(form: _Form, array: np.ndarray) -> bool:
    shape, dtype = form
    fits = len(shape) == array.ndim and all(
        wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True)
    )
    return fits and array.dtype == dtype


def _forms(arrays: dict[str, Any]) -> dict[str, _Form]:
    return {name: (np.shape(a), np.dtype(a.dtype)) for name, a in arrays.items()}
