"""Names of parameters: of a PyTree's numbers, and those meant by a user."""

import difflib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.tree_util import SequenceKey, keystr, tree_leaves_with_path


def names_of(params: Any, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """A name for each number of `params`, in the order of `ravel_pytree`.

    Those of dictionaries and attributes are their keys, as in "peak.width"; numbers of
    an array get its name and an index, as in "width[1]"; what has no name is counted
    as "params[0]". Given `names` are checked and returned.

    **Raises:** `ValueError` where given names are too few, too many or not distinct.
    """
    found = []
    for path, leaf in tree_leaves_with_path(params):
        if not path or isinstance(path[0], SequenceKey):
            name = "params" + keystr(path)
        else:
            name = keystr(path, simple=True, separator=".")
        if np.ndim(leaf) == 0:
            found.append(name)
        else:
            places = np.ndindex(np.shape(leaf))
            found += [f"{name}[{', '.join(map(str, at))}]" for at in places]
    if names is None:
        return tuple(found)
    names = tuple(map(str, names))
    if len(names) != len(found) or len(set(names)) != len(names):
        raise ValueError(
            f"`names` must be {len(found)} different names, one for each parameter, "
            f"got {names}."
        )
    return names


def indices_of(which: Any, names: tuple[str, ...]) -> tuple[int, ...]:
    """The parameters meant by None (all), names, indices, or a list of either.

    A name of which others are numbers, such as "width" of "width[0]" and "width[1]",
    means them all.

    **Raises:** `ValueError` for a name that does not exist, with the nearest one that
    does, and for an index out of range.
    """
    if which is None:
        return tuple(range(len(names)))
    if isinstance(which, str) or not isinstance(which, Sequence):
        which = [which]
    found: list[int] = []
    for one in which:
        found += _places(one, names)
    if not found:
        raise ValueError("`params` is empty: name one or more, or leave it at None.")
    return tuple(dict.fromkeys(found))


def _places(one: Any, names: tuple[str, ...]) -> list[int]:
    if isinstance(one, str):
        places = [
            i
            for i, name in enumerate(names)
            if name == one or name.startswith((one + "[", one + "."))
        ]
        if places:
            return places
        near = difflib.get_close_matches(one, names, n=1, cutoff=0.0)
        raise ValueError(
            f"`params` has no {one!r}: did you mean {near[0]!r}? There are "
            f"{', '.join(names)}."
        )
    try:
        place = operator.index(one)
    except TypeError as err:
        raise TypeError(
            f"`params` must hold names or indices of parameters, got {one!r}."
        ) from err
    if not 0 <= place < len(names):
        raise ValueError(
            f"`params` holds {place}, but parameters are counted from 0 to "
            f"{len(names) - 1}."
        )
    return [place]
