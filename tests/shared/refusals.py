"""Calls that are refused: the error, and what its message has to say."""

import re

import numpy as np
import pytest


def put(array, index, value):
    """A copy with one entry replaced."""
    array = np.array(array)
    array[index] = value
    return array


def complaint(text):
    """The pattern of a message that has all parts of `text`, in their order."""
    return "(?s)" + ".*".join(re.escape(word) for word in text.split(" ... "))


def refused(error, text, call, **options):
    """`call(**options)` raises `error` with such a message."""
    with pytest.raises(error, match=complaint(text)):
        call(**options)
