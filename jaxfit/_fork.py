"""A process that was forked after a fit: told from its parent, and refused.

JAX computes on threads, and a fork copies the memory of a process without them. What
the child then asks of JAX waits for threads that do not exist, for ever.
"""

import os


_FITTING: int | None = None  # the process that JAX was used in first


def check_process() -> None:
    """Note that this process fits.

    **Raises:** `RuntimeError` in a process that was forked from one that had fitted.
    """
    global _FITTING
    process = os.getpid()
    if process == _FITTING:
        return
    if _FITTING is not None:
        raise RuntimeError(
            f"this process ({process}) was forked from one that had fitted before "
            f"({_FITTING}), and JAX's threads do not exist here: a fit would wait for "
            "ever. Start processes by multiprocessing.get_context('spawn') or "
            "'forkserver' (of ProcessPoolExecutor: `mp_context`; of joblib: the "
            "default, 'loky'), or fork before the first fit."
        )
    _FITTING = process
