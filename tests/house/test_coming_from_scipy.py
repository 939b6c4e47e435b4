"""docs/coming-from-scipy.md has every argument of SciPy's two functions, and is right.

Its tables are compared with the signatures of the SciPy that is installed, and with
what jaxfit does when it is given what the page says it takes or refuses.
"""

import inspect
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxfit


PAGE = Path(__file__).resolve().parents[2] / "docs" / "coming-from-scipy.md"
VERDICTS = {"same", "different", "refused"}

# What SciPy's curve_fit gives to the other two by itself.
ITS_OWN = {"func", "x0", "Dfun", "full_output", "fun", "jac", "bounds", "method"}

# For what is refused, a value that is right in SciPy.
RIGHT_IN_SCIPY = {
    "args": (1.0,),
    "kwargs": {"c": 1.0},
    "col_deriv": True,
    "factor": 100,
}

# For what is taken, a value other than None.
TAKEN = {
    **{"maxfev": 0, "x_scale": "jac", "loss": "huber", "f_scale": 0.1, "verbose": 2},
    **{"jac_sparsity": np.ones((9, 1)), "workers": map},
}


def section(title: str) -> str:
    """The text below a heading, down to the next one of any level."""
    found = re.search(
        rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE.read_text(), re.M | re.S
    )
    assert found is not None, title
    return found[1]


def table(title: str) -> dict[str, str]:
    """The word for each argument in the table of a section."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", section(title), re.MULTILINE)
    names = [name for name, _ in rows]
    assert sorted(set(names)) == sorted(names), "a row stands twice"
    assert len(re.findall(r"^\| `", section(title), re.MULTILINE)) == len(rows)
    return dict(rows)


def defaults(fn) -> dict[str, object]:
    """The named arguments of a function and their defaults, `empty` where none."""
    named = inspect.signature(fn).parameters.values()
    return {p.name: p.default for p in named if p.kind is not p.VAR_KEYWORD}


OWN = table("curve_fit")
PASSED_ON = table("Keywords of curve_fit")
LEAST_SQUARES = table("least_squares")
SCIPYS_OWN = defaults(scipy.optimize.curve_fit)
SCIPYS_LEAST_SQUARES = defaults(scipy.optimize.least_squares)
SCIPYS_PASSED_ON = (
    set(defaults(scipy.optimize.leastsq)) | set(SCIPYS_LEAST_SQUARES)
) - ITS_OWN
CALLS = {"curve_fit": {**OWN, **PASSED_ON}, "least_squares": LEAST_SQUARES}


def line(x, a):
    return a * x


def call(name: str, **keywords):
    """A fit of nine data, refused or not."""
    x = np.linspace(0, 1, 9)
    if name == "curve_fit":
        return jaxfit.curve_fit(line, x, 2 * x, **keywords)
    return jaxfit.least_squares(lambda p: p * jnp.asarray(x) - 2, [1.0], **keywords)


@pytest.mark.parametrize(
    ("rows", "arguments"),
    [
        (OWN, set(SCIPYS_OWN)),
        (PASSED_ON, SCIPYS_PASSED_ON),
        (LEAST_SQUARES, set(SCIPYS_LEAST_SQUARES)),
    ],
    ids=["curve_fit", "keywords of curve_fit", "least_squares"],
)
def test_every_argument_of_scipy_has_a_row_and_no_other(rows, arguments):
    assert set(rows) == arguments
    assert set(rows.values()) <= VERDICTS


def test_what_scipy_has_not_is_named_below_the_table():
    sentence = re.search(r"Not in SciPy:.*?\n\n", PAGE.read_text(), re.DOTALL)
    assert sentence is not None
    here = set(defaults(jaxfit.CurveFit.__call__)) | set(defaults(jaxfit.least_squares))
    more = here - set(SCIPYS_OWN) - set(SCIPYS_LEAST_SQUARES) - {"self"}
    named = set(re.findall(r"`(\w+)(?:=True)?`", sentence[0])) - {"least_squares"}
    assert named == more


@pytest.mark.parametrize(
    ("scipys", "ours"),
    [
        (scipy.optimize.curve_fit, jaxfit.curve_fit),
        (scipy.optimize.least_squares, jaxfit.least_squares),
    ],
    ids=["curve_fit", "least_squares"],
)
def test_what_is_the_same_has_the_same_default_and_place(scipys, ours):
    rows = CALLS[scipys.__name__]
    theirs, mine = defaults(scipys), defaults(ours)
    for name in theirs:
        if rows[name] == "same":
            assert mine[name] == theirs[name], name
    # In SciPy's order, so that what is given by position is the same argument.
    assert list(mine)[: len(theirs)] == list(theirs)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (f, name)
        for f, rows in CALLS.items()
        for name in rows
        if rows[name] == "refused"
    ],
)
def test_what_is_refused_raises_and_is_named(function, name):
    with pytest.raises((ValueError, TypeError), match=rf"['`]{name}['`]"):
        call(function, **{name: RIGHT_IN_SCIPY[name]})


def test_what_is_not_refused_is_taken():
    for name, verdict in PASSED_ON.items():
        if verdict != "refused":
            jaxfit.CurveFit(line, **{name: TAKEN.get(name)})


def test_the_tables_of_results_name_what_comes_back():
    text = section("What comes back")
    first, second = text.split("an `OptimizeResult`:")
    five = re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE)
    assert five == ["popt", "pcov", "infodict", "mesg", "ier"]
    assert len(call("curve_fit", full_output=True)) == len(five)

    cells = re.findall(r"^\| (`.*?) \|", second, re.MULTILINE)
    fields = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert fields == set(call("least_squares"))
    theirs = scipy.optimize.least_squares(lambda p: p - 2, [1.0])
    assert set(theirs) <= fields
