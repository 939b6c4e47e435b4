"""The seconds that a run may take, and what is left out to keep within them."""

import time
from collections.abc import Callable


class Budget:
    """So many seconds from now on; `clock` tells the time."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._end = clock, clock() + seconds
        self._left_out: list[str] = []

    @property
    def left(self) -> float:
        """The seconds that are left, below 0 where it took longer than expected."""
        return self._end - self._clock()

    def allows(self, what: str, expected: float) -> bool:
        """Whether `expected` seconds are left; what is refused is remembered."""
        left = self.left
        if expected <= left:
            return True
        self._left_out.append(
            f"Left out for want of time: {what}, which would have taken about "
            f"{expected:.0f} s of the {max(left, 0.0):.0f} s that were left."
        )
        return False

    def left_out(self) -> list[str]:
        """What was refused since this was last asked, a sentence each."""
        said, self._left_out = self._left_out, []
        return said
