"""Does a batch keep its speed: small or large, with a fit that never ends, with NaN?

The fits of 'Batch' by jaxfit.curve_fit_batch, from 1,000 to 1,000,000 of them; with one
fit among 100,000 that runs to the solver's last step; and with 1% of the images NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from tools.measure import Timings, interleave
from tools.pixels import NOISE, batch, data, device, rate
from tools.report import report, table, target


SETTINGS: dict[str, dict[str, Any]] = {
    "float64": {},
    "float64, no bounds": {"bounded": False},
    "float32": {"dtype": "float32"},
    "float32, polished": {"polish": True},
}
POISON, TRIED = 0.01, 512
NONE = "none"


def endless(
    images: np.ndarray, starts: np.ndarray, bounded: bool
) -> tuple[np.ndarray, np.ndarray]:
    """An image and a start: of some hundred such fits the one of most steps.

    They are tried in the place of others of the batch, so that its program serves.

    The images are noise without a spot, and starts lie anywhere: the Gaussian flattens
    and leaves, and amplitude and offset grow against each other without end. Bounds
    put an end to that, so with bounds a fit takes some hundred steps at most.
    """
    rng = np.random.default_rng(1)
    low, high = (0, -1, -1, 0.1, -100), (2000, 5, 5, 10, 500)
    images, starts = images.copy(), starts.copy()
    images[:TRIED] = NOISE * rng.standard_normal((TRIED, 25))
    starts[:TRIED] = rng.uniform(low, high, (TRIED, 5))
    worst = int(np.argmax(batch(images, starts, bounded).nit))
    return images[worst], starts[worst]


def compared(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> tuple[Timings, dict[str, float]]:
    """Timings, and the extra time of each over the first, as a share."""
    times = interleave(calls, rounds)
    first = next(iter(calls))
    return times, {name: times.ratio(name, first) - 1 for name in calls}


def one_that_never_ends(count: int, rounds: int) -> tuple[list[list[Any]], float]:
    """Rows of what it costs, by its place; and the worst of those without bounds."""
    images, starts = data(count)
    rows, worst = [], 0.0
    for bounded in (False, True):
        image, start = endless(images, starts, bounded)

        def call(place, image=image, start=start, bounded=bounded):
            y, p0 = images.copy(), starts.copy()
            if place is not None:
                y[place], p0[place] = image, start
            return lambda: batch(y, p0, bounded)

        places = {NONE: None, "first": 0, "middle": count // 2, "last": count - 1}
        calls = {name: call(place) for name, place in places.items()}
        times, extra = compared(calls, rounds)
        for name in calls:
            seconds = times.median(name)
            more = seconds - times.median(NONE)
            result = calls[name]()
            row = ["yes" if bounded else "no", name, int(result.nit.max())]
            rows.append([*row, seconds, 1e3 * more, extra[name]])
            rows[-1].append(result.lane_efficiency)
        if not bounded:
            worst = max(extra.values())
    return rows, worst


def poisoned(count: int, rounds: int) -> tuple[list[list[Any]], float, int]:
    """Rows of what NaN cost, the largest extra, and the other fits that changed."""
    images, starts = data(count)
    bad = np.random.default_rng(2).random(count) < POISON
    ill = images.copy()
    ill[bad] = np.nan
    rows, worst, changed = [], -1.0, 0
    for name in ("float64", "float32"):
        more = SETTINGS[name]
        calls = {
            "clean": lambda more=more: batch(images, starts, **more),
            "1% NaN": lambda more=more: batch(ill, starts, **more),
            "clean again": lambda more=more: batch(images, starts, **more),
        }
        times, extra = compared(calls, rounds)
        clean, other = calls["clean"](), calls["1% NaN"]()
        for a, b in ((clean.popt, other.popt), (clean.pcov, other.pcov)):
            differ = (a != b).reshape(count, -1).any(axis=1)
            changed += int(np.sum(differ & ~bad))
        for which in calls:
            rows.append([name, which, times.median(which), extra[which]])
        worst = max(worst, extra["1% NaN"])
    return rows, worst, changed


def sizes(counts: list[int], rounds: int) -> tuple[list[list[Any]], dict[str, float]]:
    """Rows of fits a second by size, and the lowest rate over the highest."""
    images, starts = data(counts[-1])
    rows, flat = [], {}
    for setting in ("float64", "float32"):
        more = SETTINGS[setting]
        calls = {
            str(n): lambda n=n, more=more: batch(images[:n], starts[:n], **more)
            for n in counts
        }
        times = interleave(calls, rounds, 0.2)
        fits = {str(n): n for n in counts}
        rates = {n: rate(times, str(n), fits) for n in counts}
        best = max(rates.values())
        for n in counts:
            efficiency = calls[str(n)]().lane_efficiency
            rows.append([setting, n, rates[n], rates[n] / best, efficiency])
        flat[setting] = min(rates.values()) / best
    return rows, flat


def efficiencies(count: int) -> list[list[Any]]:
    """Rows of lane efficiency and steps by setting."""
    images, starts = data(count)
    rows = []
    for name, more in SETTINGS.items():
        result = batch(images, starts, **more)
        row = [name, result.lane_efficiency, float(result.nit.mean())]
        row += [int(result.nit.max()), float(result.nfev.mean())]
        rows.append([*row, float(result.success.mean())])
    return rows


def main(quick: bool) -> dict[str, Any]:
    rounds = 3 if quick else 7
    counts = [1_000, 10_000, 100_000, 1_000_000][: 2 if quick else None]
    many = 20_000 if quick else 100_000
    by_size, flat = sizes(counts, 3 if quick else 5)
    never, cost = one_that_never_ends(many, rounds)
    ill, pains, changed = poisoned(many, rounds)
    efficient = efficiencies(many)
    return report(
        __doc__,
        [
            target(
                f"{setting}: lowest rate over the highest, 1,000 to 1,000,000 fits: "
                "at least 0.8",
                share,
                at_least=0.8,
            )
            for setting, share in flat.items()
        ]
        + [
            target(
                f"one fit of {many:,} that runs to the last step: extra time, 5%",
                cost,
                at_most=0.05,
            ),
            target("1% of the fits NaN: extra time, 2%", pains, at_most=0.02),
            target("other fits changed in any bit by them: none", changed, at_most=0),
            target(
                "float64: useful lane steps over all: at least 0.85",
                efficient[0][1],
                at_least=0.85,
            ),
        ],
        [
            table(
                "Fits a second by size",
                ["setting", "fits", "fits/s", "over the highest", "lane efficiency"],
                by_size,
            ),
            table(
                f"One fit among {many:,} that goes on and on, by its place; float64",
                [
                    "bounds",
                    "place",
                    "its steps",
                    "s",
                    "ms more",
                    "extra time",
                    "lane efficiency",
                ],
                never,
            ),
            table(
                f"1% of {many:,} fits are NaN",
                ["setting", "fits", "s", "extra time"],
                ill,
            ),
            table(
                f"Lanes and steps of {many:,} fits",
                [
                    "setting",
                    "lane efficiency",
                    "mean steps",
                    "most steps",
                    "mean nfev",
                    "converged",
                ],
                efficient,
            ),
        ],
        [
            "The fit that goes on and on is noise without a spot, from a start "
            f"anywhere within the bounds: of {TRIED} such fits the one of most steps. "
            "The solver gives up after 2,000. Bounds end such a fit sooner.",
            "'clean again' shows what two measurements of the same differ by.",
            device(),
        ],
    )
