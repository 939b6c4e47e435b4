"""The Trust Region Reflective method: linearisation, subproblem, step, loop."""
