"""Numbers with their errors, rounded by the rule of the Particle Data Group.

The error decides how many digits a value shows, by the rule of the Particle Data Group
(Review of Particle Physics, Introduction, 5.3): of the three leading digits of the
error, 100 to 354 keep two, 355 to 949 one, and 950 to 999 are rounded up to 1000, of
which two are kept.
"""

import math
from decimal import Decimal
from typing import Literal

import numpy as np
from jaxtyping import ArrayLike

from .checks import one_of


Style = Literal["pm", "short"]


def pretty(value: ArrayLike, error: ArrayLike, style: Style = "pm") -> str:
    """A value and its standard error as text: "1.234 +- 0.056" or "1.234(56)".

    Both get the decimals that the error warrants; a common power of ten is written
    once. What is not finite is said in words where there is no number to show.

    **Raises:** `ValueError` for a style that does not exist, or a negative error.
    """
    style = one_of("style", style, Style)
    value, error = float(np.asarray(value)), float(np.asarray(error))
    if error < 0:
        raise ValueError(f"`error` must not be negative, got {error!r}.")
    if not math.isfinite(value) or math.isnan(error):
        return f"{value:.6g} +- {error:.2g}"
    if math.isinf(error):
        return f"{value:.6g} (not determined)"
    if error == 0:
        return f"{value:.6g} (exact)"
    spread, last = _rounded(error)
    shown = Decimal(value)
    if shown.copy_abs().adjusted() - last < 25:  # beyond, no digit would be lost
        shown = shown.quantize(Decimal(1).scaleb(last))
    power = _power(max(shown.copy_abs(), spread), last)
    shown, spread = shown.scaleb(-power), spread.scaleb(-power)
    decimals = max(0, power - last)
    tail = f"e{power:+03d}" if power else ""
    if style == "short":
        digits = f"{spread:.{decimals}f}"
        if spread < 1:
            digits = digits.replace(".", "").lstrip("0")
        return f"{shown:.{decimals}f}({digits}){tail}"
    if tail:
        return f"({shown:.{decimals}f} +- {spread:.{decimals}f}){tail}"
    return f"{shown:.{decimals}f} +- {spread:.{decimals}f}"


def _rounded(error: float) -> tuple[Decimal, int]:
    """The error rounded, and the power of ten of its last digit."""
    mantissa, exponent = f"{error:.2e}".split("e")
    leading, first = int(mantissa.replace(".", "")), int(exponent)
    if leading >= 950:
        return Decimal(1).scaleb(first + 1), first
    last = first - 1 if leading <= 354 else first
    return Decimal(f"{error:.{first - last}e}"), last


def _power(size: Decimal, last: int) -> int:
    """The common power of ten: none where numbers are of ordinary size."""
    first = size.adjusted()
    return first if first >= 6 or first < -3 or last > 0 else 0
