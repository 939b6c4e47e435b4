"""Memory from call to call, of which the least recently used is given up first.

Compiled programs are kept up to a budget. What is remembered of a model besides (which
function stands for its equals, whether its data may be padded) goes when the programs
that were used at that time have gone, so nothing of a model outlives its programs.
"""

import gc
import itertools
import threading
from collections.abc import Callable, Hashable
from typing import Any

from .._basics.checks import positive_int
from .._basics.machine import return_free_memory
from .budget import Held, Taken, default_budget, nearly_all_maps, taken


_CLOCK = itertools.count()
_LOCK = threading.RLock()
_LEAST_BYTES = 2**20  # of a program that found room in what others had left
# So that not every new program has to give up another one: a tenth at a time.
_ROOM = 0.9


class Kept:
    """Something kept: when it was used last, and what it takes."""

    __slots__ = ("maps", "size", "used", "value")

    def __init__(self, value: Any):
        self.value = value
        self.maps = self.size = 0
        self.used = next(_CLOCK)


class Memory:
    """A dictionary that forgets: at most so many items, the latest used stay."""

    def __init__(self, most: int = 4096):
        self._items: dict[Hashable, Kept] = {}
        self._most = most
        _MEMORIES.append(self)

    def find(self, key: Hashable, default: Any = None) -> Any:
        """The value of a key, or the default where there is none."""
        found = self._items.get(key)
        if found is None:
            return default
        found.used = next(_CLOCK)
        return found.value

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key, made where there is none."""
        found = self._items.get(key)
        if found is None:
            value = make()
            with _LOCK:
                found = self._items.setdefault(key, Kept(value))
            self.make_room()
        found.used = next(_CLOCK)
        return found.value

    def put(self, key: Hashable, value: Any) -> None:
        """Set the value of a key, whatever it was."""
        with _LOCK:
            self.discard(key)
            self._items[key] = Kept(value)
        self.make_room()

    def discard(self, key: Hashable) -> None:
        """Forget one key, if it is known."""
        with _LOCK:
            self._items.pop(key, None)

    def make_room(self) -> None:
        """Forget what was used longest ago, if there are too many."""
        with _LOCK:
            ages = sorted(item.used for item in self._items.values())
            if len(ages) > self._most:
                self.forget(ages[len(ages) - int(self._most * _ROOM)])

    def forget(self, before: int | None = None) -> None:
        """What was used last before a time; everything if None."""
        with _LOCK:
            for key, item in list(self._items.items()):
                if before is None or item.used < before:
                    del self._items[key]

    def __len__(self) -> int:
        return len(self._items)


_MEMORIES: list[Memory] = []


class Store(Memory):
    """All compiled programs of the process by key, within a budget.

    What is remembered besides goes with the programs that were used at the time.
    """

    def __init__(self):
        super().__init__()
        self.budget = default_budget()

    def compiled(self, key: Hashable, before: Taken, captured: int) -> None:
        """Note what a program took, and make room if that was too much.

        `before` is what the process took before it was compiled; `captured` are the
        bytes of arrays that the program holds for the function it was made of.
        """
        now = taken()
        with _LOCK:
            item = self._items.get(key)
            if item is None:  # given up in the meantime
                return
            item.maps = max(now.maps - before.maps, 0)
            item.size = max(now.bytes - before.bytes, _LEAST_BYTES) + captured
            item.used = next(_CLOCK)
        self.make_room(now.maps)

    def make_room(self, maps: int = 0) -> None:
        """Give up what exceeds the budget, of programs that were used longest ago.

        `maps` is the number of all maps of the process.
        """
        with _LOCK:
            has, most = self.held(), self.budget
            excess = [_excess(h, m) for h, m in zip(has, most, strict=True)]
            limit = nearly_all_maps()
            if limit is not None:
                excess[1] = max(excess[1], maps - limit)
            if not any(excess):
                return
            by_age = sorted(self._items.values(), key=lambda item: item.used)
            last = 0
            for item in by_age[:-1]:
                if max(excess) <= 0:
                    break
                takes = 1, item.maps, item.size
                excess = [e - t for e, t in zip(excess, takes, strict=True)]
                last = item.used
            for memory in _MEMORIES:
                memory.forget(last + 1)
        gc.collect()  # a program that is in a cycle keeps its maps until then

    def held(self) -> Held:
        """What is kept now."""
        with _LOCK:
            items = list(self._items.values())
        maps, size = sum(i.maps for i in items), sum(i.size for i in items)
        return Held(len(items), maps, size)


def _excess(has: int, most: int | None) -> int:
    """How much to give up: a tenth more than is too much, so that it lasts a while."""
    return has - int(most * _ROOM) if most is not None and has > most else 0


STORE = Store()


def set_program_budget(
    *, programs: int | None = None, maps: int | None = None, bytes: int | None = None
) -> None:
    """Limit the compiled programs that are kept for later calls.

    What was used longest ago is given up first, and compiled anew if it is asked for
    again. The limits hold for all doors and threads of this process together.

    **Arguments:** each is left at its default where it is None.

    - `programs`: their number; 1,024 where the system counts memory maps (Linux), else
        256.
    - `maps`: memory maps, of which a program takes some 200; half of what Linux allows
        a process (`vm.max_map_count`). Elsewhere they are not counted.
    - `bytes`: the memory that was taken while programs were compiled, and the arrays
        that their functions captured; 2 GiB.

    **Raises:** `TypeError` or `ValueError` for what is not an integer of at least 1.
    """
    given = {"programs": programs, "maps": maps, "bytes": bytes}
    chosen = {n: positive_int(n, v) for n, v in given.items() if v is not None}
    STORE.budget = default_budget()._replace(**chosen)
    STORE.make_room()


def clear_caches() -> None:
    """Give back all that jaxfit keeps from call to call: programs, models, arrays.

    Memory and memory maps return to the process, and what fits next is compiled anew.
    Programs that a `jax.jit` of your own compiled are JAX's: `jax.clear_caches()` gives
    those back.
    """
    for memory in _MEMORIES:
        memory.forget()
    gc.collect()
    return_free_memory()
