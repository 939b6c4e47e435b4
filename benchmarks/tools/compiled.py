"""Programs compiled several at a time: most of a run on an accelerator is compilation.

Tracing holds Python's lock and is done one after the other; what XLA does is not.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar


Name = TypeVar("Name")


def compiled(
    programs: Mapping[Name, tuple[Any, tuple]],
) -> dict[Name, Any]:
    """The programs by name, each given as a `jax.jit` and arguments (or their shapes).

    **Raises:** what tracing and compiling one of them does.
    """
    with ThreadPoolExecutor(workers()) as pool:
        begun = {
            name: pool.submit(program.lower(*args).compile)
            for name, (program, args) in programs.items()
        }
        return {name: one.result() for name, one in begun.items()}


def together(calls: Mapping[Any, Callable[[], Any]]) -> None:
    """Call each of them, several at a time: first calls that are not timed."""
    with ThreadPoolExecutor(workers()) as pool:
        for one in [pool.submit(call) for call in calls.values()]:
            one.result()


def workers() -> int:
    """How many are compiled at a time."""
    return os.cpu_count() or 1
