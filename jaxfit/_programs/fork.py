"""What the first fit of a process begins, and refusal of processes forked after it.

JAX computes on threads, and a fork copies the memory of a process without them. What
the child then asks of JAX waits for threads that do not exist, for ever.
"""

import os

from .persistent import follow_environment


_USED_IN: int | None = None


def check_process() -> None:
    """Note that JAX is used in this process; the first time, see to its cache.

    **Raises:** `RuntimeError` in a process that was forked from one that had used it.
    """
    global _USED_IN
    process = os.getpid()
    if process == _USED_IN:
        return
    if _USED_IN is not None:
        raise RuntimeError(
            f"this process ({process}) was forked from one that had fitted before "
            f"({_USED_IN}). JAX's threads do not exist here, and a fit would wait for "
            "them for ever. Start processes by multiprocessing.get_context('spawn') or "
            "'forkserver' (of ProcessPoolExecutor: `mp_context`; of joblib: the "
            "default, 'loky'), or fork before the first fit."
        )
    follow_environment()
    _USED_IN = process
