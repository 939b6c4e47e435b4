"""One call of `curve_fit` seen through: which modules it enters, in which order.

The call goes down through the folders, each entered once: the door, SciPy's terms, the
curve fit, then the kernel, in which the method asks the problem for its values.
"""

import itertools
import json
import subprocess
import sys


# The modules of jaxfit of which some function is called, in order of first entry, until
# the loop of the method begins. What a dataclass generates is no function of a module,
# and `current` is what the memory of programs asks of its arguments.
FIRST_CALL = """
import json, sys
import jax.numpy as jnp
import numpy as np
from jaxfit import clear_caches, curve_fit

def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c

x = np.linspace(0.0, 4.0, 100)
y = 2.0 * np.exp(-1.3 * x) + 0.5 + 0.01 * np.sin(50.0 * x)
entered, loop = {}, []

def note(frame, event, arg):
    name, code = frame.f_globals.get("__name__", ""), frame.f_code
    own = name.startswith("jaxfit.") and code.co_filename != "<string>"
    if event != "call" or not own or code.co_name in ("<module>", "current") or loop:
        return
    name = name.removeprefix("jaxfit.")
    entered.setdefault(name, None)
    if (name, code.co_name) == ("_trf.trf", "minimise"):
        loop.append(name)

curve_fit(decay, x, y)  # what is imported late is imported now
clear_caches()
sys.setprofile(note)
curve_fit(decay, x, y)
sys.setprofile(None)
print(json.dumps(list(entered)))
"""

# What every folder may call, and what compiles the call rather than makes it.
LEFT_OUT = {"_basics", "_programs", "_functions"}
KERNEL = {"_solve", "_problem", "_trf"}


def path_of_a_call() -> list[str]:
    """The modules between the door and the loop, in order of first entry."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True
    )
    entered = json.loads(done.stdout.splitlines()[-1])
    return [name for name in entered if name.split(".")[0] not in LEFT_OUT]


def test_a_curve_fit_goes_from_the_door_to_the_loop_in_one_direction():
    path = path_of_a_call()
    assert path[0] == "_doors.curve_fit"
    folders = [name.split(".")[0] for name in path]
    # Each folder above the kernel is entered once, and left for good.
    above = [folder for folder in folders if folder not in KERNEL]
    runs = [folder for folder, _ in itertools.groupby(above)]
    assert runs == ["_doors", "_scipy", "_curve"]
    assert folders[: len(above)] == above
    # Of the kernel: one fit, its problem, the method.
    first = list(dict.fromkeys(folders[len(above) :]))
    assert first == ["_solve", "_problem", "_trf"]
    # The method calls back for values, and enters nothing above the problem.
    loop = folders.index("_trf")
    assert set(folders[loop:]) <= {"_problem", "_trf"}
