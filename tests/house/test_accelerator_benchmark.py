"""The benchmark for accelerators, which is written where there is none.

What it reads from compiled programs, what it leaves out for want of time and what it
keeps; and all of it in small, on a CPU.
"""

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FOLDERS = {"gpu", "tools", "accelerator"}


@pytest.fixture
def of_benchmarks(monkeypatch):
    """Imports a file of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in {*sys.modules} - before:
        if name.split(".")[0] in FOLDERS:
            del sys.modules[name]


HLO = """
HloModule jit_f, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %exp = f32[4]{0} exponential(%p)
}

%once (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %b = f32[4]{0} fusion(%a), kind=kLoop, calls=%fused
}

%many (a.1: f32[4]) -> f32[4] {
  %a.1 = f32[4]{0} parameter(0)
  %b.1 = f32[4]{0} fusion(%a.1), kind=kLoop, calls=%fused
  ROOT %b.2 = f32[4]{0} custom-call(%b.1), custom_call_target="library"
}

%inner_body (c: (f32[4])) -> (f32[4]) {
  %c = (f32[4]{0}) parameter(0)
  %d = f32[4]{0} get-tuple-element(%c), index=0
  %e = f32[4]{0} copy(%d)
  ROOT %t = (f32[4]{0}) tuple(%e)
}

%cond (c.1: (f32[4])) -> pred[] {
  %c.1 = (f32[4]{0}) parameter(0)
  ROOT %go = pred[] fusion(%c.1), kind=kLoop, calls=%fused
}

%body (g: (f32[4])) -> (f32[4]) {
  %g = (f32[4]{0}) parameter(0)
  %h = f32[4]{0} get-tuple-element(%g), index=0
  %which = s32[] constant(1)
  %i = f32[4]{0} conditional(%which, %h, %h), branch_computations={%once, %many}
  %j = f32[4]{0} call(%i), to_apply=%once
  %k = (f32[4]{0}) tuple(%j)
  ROOT %w = (f32[4]{0}, /*index=5*/s32[]) while(%k), condition=%cond, body=%inner_body
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %z = (f32[4]{0}) tuple(%y)
  %v = (f32[4]{0}) while(%z), condition=%cond, body=%body
  ROOT %u = f32[4]{0} get-tuple-element(%v), index=0
}
"""


def test_launches_of_a_program_by_hand(of_benchmarks):
    found = of_benchmarks("tools.launches").launches(HLO)
    # One fusion outside. A turn: the larger branch's two, the call's one, the
    # condition's one; and within, a copy and the condition.
    assert found.once == 1
    (loop,) = found.loops
    assert (loop.once, [inner.once for inner in loop.loops]) == (4, [2])
    assert (found.largest_loop, loop.all, found.all) == (loop, 6, 7)


def test_launches_of_a_program_of_jax(of_benchmarks):
    launches = of_benchmarks("tools.launches").launches

    def turns(x):
        # Three sorts, which nothing fuses.
        def body(carry):
            i, x = carry
            return i + 1, jnp.sort(jnp.sort(-jnp.sort(x)) ** 2)

        return jax.lax.while_loop(lambda carry: carry[0] < 9, body, (0, x))

    found = launches(jax.jit(turns).lower(jnp.ones(100)).compile().as_text())
    assert len(found.loops) == 1
    assert found.largest_loop.all >= 3
    assert found.once < 10
    none = launches(jax.jit(jnp.sort).lower(jnp.ones(100)).compile().as_text())
    assert none.loops == () and none.largest_loop.all == 0 and none.once >= 1


def test_what_is_no_compiled_program_is_refused(of_benchmarks):
    with pytest.raises(ValueError, match="no ENTRY"):
        of_benchmarks("tools.launches").launches("module @jit_f {}")


def test_a_budget_refuses_what_would_not_fit_and_says_so(of_benchmarks):
    now = [100.0]
    budget = of_benchmarks("tools.budget").Budget(30, lambda: now[0])
    assert budget.allows("small", 20)
    now[0] += 20
    assert budget.left == 10
    assert not budget.allows("large", 11) and budget.allows("exact", 10)
    (said,) = budget.left_out()
    assert "large" in said and "11 s" in said and "10 s" in said
    assert budget.left_out() == []


def result(value: int, quick: bool, device: str = "A"):
    return {"value": value, "quick": quick, "machine": {"device": device}}


def test_sections_are_merged_into_what_is_kept(of_benchmarks):
    merged = of_benchmarks("gpu").merged
    kept = merged({}, "one_fit", result(1, True))
    kept = merged(kept, "agreement", result(2, False))
    kept = merged(kept, "one_fit", result(3, False))
    kept = merged(kept, "one_fit", result(4, True))  # does not replace a full one
    assert kept["device"] == "A"
    values = {name: one["value"] for name, one in kept["sections"].items()}
    assert list(values.items()) == [("agreement", 2), ("one_fit", 3)]
    with pytest.raises(ValueError, match="of A, and this is B"):
        merged(kept, "kernels", result(5, False, "B"))


def test_a_section_that_fails_leaves_the_others(of_benchmarks, monkeypatch, tmp_path):
    gpu = of_benchmarks("gpu")
    seconds = []

    def good(quick, budget):
        seconds.append(budget.left)
        budget.allows("the rest", 1e9)
        return {"question": "Q?", "targets": [], "tables": [], "notes": ["N."]}

    def bad(quick, budget):
        raise RuntimeError("no such memory")

    for name, main in {"one": good, "two": bad, "three": good}.items():
        module = types.SimpleNamespace(main=main)
        monkeypatch.setitem(sys.modules, f"accelerator.{name}", module)
    monkeypatch.setattr(gpu, "SECTIONS", ("one", "two", "three"))
    out = tmp_path / "found.json"
    assert gpu.main([], True, 50.0, out) == 1
    kept = json.loads(out.read_text())
    assert list(kept["sections"]) == ["one", "three"]
    assert kept["device"] == jax.devices()[0].device_kind
    for section in kept["sections"].values():
        assert section["notes"][0] == "N." and "the rest" in section["notes"][1]
        assert section["quick"] and section["versions"]["jax"] == jax.__version__
    assert len(seconds) == 2 and max(seconds) <= 50


@pytest.mark.slow
def test_every_section_in_small(of_benchmarks, tmp_path):
    gpu, out = of_benchmarks("gpu"), tmp_path / "found.json"
    path = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--out", str(out)]
    subprocess.run(
        [*command, "--seconds", "1000"],
        env={**os.environ, "PYTHONPATH": path, "XLA_FLAGS": ""},
        check=True,
    )
    sections = json.loads(out.read_text())["sections"]
    assert list(sections) == list(gpu.SECTIONS)
    for name, section in sections.items():
        assert all(table["rows"] for table in section["tables"]), name
        assert not any("Left out" in note for note in section["notes"]), name
    assert all(one["met"] for one in sections["agreement"]["targets"])
    for row in sections["kernels"]["tables"][0]["rows"]:
        assert min(row[2:6]) > 0, row  # every program has a loop that steps
    for name in ("vmap_fits", "pixel_fits"):
        assert all(row[-1] > 0.99 for row in sections[name]["tables"][0]["rows"]), name
    assert {row[-1] for row in sections["one_fit"]["tables"][0]["rows"]} == {"yes"}
