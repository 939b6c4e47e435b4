"""The tables of docs/benchmarks.md are those of the committed results."""

import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    """The runner; it imports nothing but the standard library and its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import run

    yield run
    for name in {"run", "_measure", "_picture", "_report"} - before:
        del sys.modules[name]


def test_the_page_is_up_to_date(run):
    text = run.PAGE.read_text()
    results = {name: run.load(name) for name in run.NAMES}
    assert run.page(text, results) == text, "run: python benchmarks/run.py --tables"


def test_every_picture_is_there(run):
    for name in run.NAMES:
        result = run.load(name)
        if result is not None and "picture" in result:
            drawn = (run.PAGE.parent / "images" / f"{name}.svg").read_text()
            for panel in result["picture"]["panels"]:
                assert panel["title"] in drawn
                shown = [value for row in panel["rows"].values() for value in row]
                assert all(0 <= value <= 100 for value in shown)


def test_every_script_is_run_and_every_result_is_of_a_script(run):
    scripts = {p.stem for p in BENCHMARKS.glob("*.py") if not p.stem.startswith("_")}
    assert scripts == {*run.NAMES, "run", "gpu"}
    assert {p.stem for p in run.RESULTS.glob("*.json")} <= set(run.NAMES)


def test_a_number_keeps_three_digits_and_a_miss_is_said(run):
    result = {
        "question": "Is it fast?",
        "targets": [{"asked": "at most 1", "measured": 1.23456, "met": False}],
        "tables": [{"title": "T", "columns": ["a", "b"], "rows": [["x", 12345]]}],
        "notes": [],
    }
    text = run.as_text("name", result)
    assert "1.23" in text and "NOT MET" in text and "12,345" in text
    assert "1.2345" not in text
