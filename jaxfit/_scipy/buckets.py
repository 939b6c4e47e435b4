"""Lengths of data rounded up, so that few programs serve all lengths.

Rows beyond the data are copies of the last row and are masked: safe values, no NaN in
any derivative. Powers of two up to 8,192 (at most half is padding, of data that fit
the cache); beyond, eight steps from one power to the next (at most an eighth).
"""

_SMALLEST = 64
_FINE = 8192


def bucket(m: int) -> int:
    """The padded length for m rows."""
    if m <= _SMALLEST:
        return _SMALLEST
    power = 1 << (m - 1).bit_length()
    if power <= _FINE:
        return power
    step = power // 16
    return -(-m // step) * step
