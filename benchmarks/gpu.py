"""Run the sections of `accelerator/` on whatever device JAX finds.

`python benchmarks/gpu.py [sections...] [--quick] [--seconds S] [--out FILE]` prints and
keeps each of them when it is done:

    agreement   parameters, errors and derivatives against those found on the CPU
    kernels     kernels launched a step
    vmap_fits   decays of 100 points by `jax.vmap(jaxfit.solve)`
    one_fit     one fit of 100 to 100 million points and five parameters
    pixel_fits  Gpufit's case: spots of light on 5x5 pixels, up to 10 million
    precision   digits of NIST StRD, of spots and of derivatives, by precision

All of them take at most `S` seconds, 225 unless told otherwise: what is expected to
take longer than what is left is left out, and named in the notes. FILE is JSON; a
section replaces its own earlier result there and leaves the others.
"""

import argparse
import importlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

import jax
from tools.budget import Budget
from tools.measure import machine, versions
from tools.report import as_text


BEGUN = time.perf_counter()
# In the order in which they are run: what takes longest last.
SECTIONS = ("agreement", "kernels", "vmap_fits", "one_fit", "pixel_fits", "precision")
SECONDS = 225.0


def measured(name: str, quick: bool, budget: Budget) -> dict[str, Any]:
    """The report of one section."""
    begin = time.perf_counter()
    found = importlib.import_module(f"accelerator.{name}").main(quick, budget)
    return {
        **found,
        "notes": [*found["notes"], *budget.left_out()],
        "quick": quick,
        "seconds": time.perf_counter() - begin,
        "versions": versions(),
        "machine": machine(),
    }


def merged(kept: dict[str, Any], name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The results with those of one section; a quick one never replaces a full one.

    **Raises:** `ValueError` where they are of another device.
    """
    device = result["machine"]["device"]
    if kept.get("device", device) != device:
        raise ValueError(f"the file is of {kept['device']}, and this is {device}.")
    sections = dict(kept.get("sections", {}))
    if not (result["quick"] and not sections.get(name, result)["quick"]):
        sections[name] = result
    ordered = {name: sections[name] for name in SECTIONS if name in sections}
    return {"device": device, "sections": ordered}


def load(out: Path | None) -> dict[str, Any]:
    """What a file has already."""
    if out is None or not out.exists():
        return {}
    return json.loads(out.read_text())


def main(names: list[str], quick: bool, seconds: float, out: Path | None) -> int:
    """Run some sections, all if none is named; the number of those that failed.

    One that fails is told, and the others are run all the same: a machine with an
    accelerator may not be there again.
    """
    spent = time.perf_counter() - BEGUN  # imports, which count
    budget, failed = Budget(seconds - spent), 0
    for name in [name for name in SECTIONS if name in (names or SECTIONS)]:
        try:
            result = measured(name, quick, budget)
        except Exception:
            failed += 1
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
            continue
        print(as_text(name, result), flush=True)
        if out is not None:
            found = merged(load(out), name, result)
            out.write_text(json.dumps(found, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="few and small: a trial")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="at most")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    given = parser.parse_args()
    if unknown := set(given.names) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    raise SystemExit(main(given.names, given.quick, given.seconds, given.out))
