"""Smoke tests: each folder of tests has one, for other processors and Pythons."""

from pathlib import Path


TESTS = Path(__file__).resolve().parents[1]


def test_every_folder_has_a_smoke_test():
    without = {path.parent.name for path in TESTS.glob("*/test_*.py")} - {
        path.parent.name
        for path in TESTS.glob("*/test_*.py")
        if "pytest.mark.smoke" in path.read_text(encoding="utf-8")
    }
    assert not without
