"""Numbers with their errors, rounded as they deserve.

The error decides how many digits a value shows, by the rule of the Particle Data Group
(Review of Particle Physics, Introduction, 5.3): of the three leading digits of the
error, 100 to 354 keep two, 355 to 949 one, and 950 to 999 are rounded up to 1000, of
which two are kept.
"""

import math
from typing import Literal

from ._check import one_of


Style = Literal["pm", "short"]


def pretty(value: float, error: float, style: Style = "pm") -> str:
    """A value and its standard error as text: "1.234 +- 0.056" or "1.234(56)".

    Both get the decimals that the error warrants; a common power of ten is written
    once. What is not finite is said in words where there is no number to show.

    **Raises:** `ValueError` for a style that does not exist.
    """
    style = one_of("style", style, Style)
    value, error = float(value), float(error)
    if not math.isfinite(value) or math.isnan(error):
        return f"{value:.6g} +- {error:.2g}"
    if math.isinf(error):
        return f"{value:.6g} (not determined)"
    if error <= 0:
        return f"{value:.6g} (exact)"
    last, error = _last_digit(error)
    power = _power(value, error, last)
    shown, spread = value / 10.0**power, error / 10.0**power
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


def _last_digit(error: float) -> tuple[int, float]:
    """The power of ten of the last digit to show, and the error rounded there."""
    first = math.floor(math.log10(error))
    leading = round(error / 10.0 ** (first - 2))
    if leading >= 950:
        return first, 10.0 ** (first + 1)
    last = first - 1 if leading <= 354 else first
    return last, round(error / 10.0**last) * 10.0**last


def _power(value: float, error: float, last: int) -> int:
    """The common power of ten: none where numbers are of ordinary size."""
    size = max(abs(value), error)
    first = math.floor(math.log10(size))
    return first if first >= 6 or first < -3 or last > 0 else 0
