"""Directions of parameter space in words: combinations such as "a - 0.5 b".

A combination says by how much parameters change together: along "a - 0.5 b" b falls by
half of what a rises by. The words of a subspace are those of its reduced echelon form,
which is one for each subspace, whatever basis rounding has made of it.
"""

from collections.abc import Sequence

import numpy as np


# A share below this is not told, and sizes that differ by less are one size.
_HUNDREDTH = 0.01
# An entry of a basis whose rows have length 1 that may become the 1 of a row.
_PIVOT = 0.1


def combinations(
    directions: np.ndarray, names: Sequence[str], unit: np.ndarray | None = None
) -> tuple[str, ...]:
    """Directions as sums of named parameters, the largest first; zero ones left out.

    A parameter with less than a hundredth of the largest share is left out as well; a
    share is in units of `unit`, if it is given.
    """
    found = []
    for direction in np.asarray(directions, float):
        shares = np.abs(direction) / (1 if unit is None else unit)
        if not shares.max(initial=0) > 0:
            continue
        told = shares > _HUNDREDTH * shares.max()
        # Parameters of one size stay in their order.
        sizes = np.where(told, np.abs(direction), 0)
        order = np.argsort(-np.round(sizes / sizes.max(), 2), kind="stable")
        order = [i for i in order if told[i]]
        parts = direction / direction[order[0]]
        text = str(names[order[0]])
        for i in order[1:]:
            one = abs(abs(parts[i]) - 1) < _HUNDREDTH / 2
            share = "" if one else f"{abs(parts[i]):.2g} "
            text += f" {'-' if parts[i] < 0 else '+'} {share}{names[i]}"
        found.append(text)
    return tuple(found)


def plainest(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The reduced echelon form of the space that rows span; rows of zeros left out.

    Each row has a 1 where the others have none, at the first parameters that can have
    one. `unit` is the size of each parameter by which a share in a row is judged.
    """
    size = np.where(unit > 0, unit, 1)
    rows = np.asarray(rows, float) / size
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    places: list[int] = []
    for least in (_PIVOT, 0.0):
        for j in range(rows.shape[1]):
            done = len(places)
            if done == len(rows) or j in places:
                continue
            k = done + int(np.argmax(np.abs(rows[done:, j])))
            # Of what is left only the direction counts, not how the basis was made.
            left = np.linalg.norm(rows[done:, j])
            if not left > max(least, np.sqrt(np.finfo(float).eps)):
                continue
            rows[[done, k]] = rows[[k, done]]
            rows[done] /= rows[done, j]
            others = np.arange(len(rows)) != done
            rows[others] -= np.outer(rows[others, j], rows[done])
            places.append(j)
            rows[done + 1 :] = _orthonormal(rows[done + 1 :])
    rows = rows[np.argsort(places)]
    return np.where(np.abs(rows) < np.finfo(float).eps ** 0.5, 0, rows) * size


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    return np.linalg.qr(rows.T)[0].T if len(rows) else rows
