"""jaxfit: bounded nonlinear least squares in pure JAX, a whole fit as one function.

A public name is imported when it is first used (PEP 562), so `import jaxfit` takes
milliseconds, and a command line need not wait for JAX before it answers.
"""

from importlib import import_module as _import_module


# Where each public name is defined; `__init__.pyi` says the same to type checkers.
_HOMES = {
    "datasets": "datasets",
    "pretty": "_basics.rounding",
    "Status": "_basics.status",
    "BatchSolution": "_batch.solution",
    "solve_batch": "_batch.solve_batch",
    "CurveFitResult": "_curve.result",
    "FitError": "_curve.result",
    "CurveFitBatchResult": "_curve_batch.result",
    "Checkup": "_diagnosis.checkup",
    "diagnose": "_diagnosis.diagnose",
    "Finding": "_diagnosis.findings",
    "HealthReport": "_diagnosis.findings",
    "Severity": "_diagnosis.findings",
    "Comparison": "_diagnosis.compare",
    "Goodness": "_diagnosis.goodness",
    "compare_models": "_diagnosis.compare",
    "goodness_of_fit": "_diagnosis.goodness",
    "CurveFit": "_doors.curve_fit",
    "curve_fit": "_doors.curve_fit",
    "curve_fit_batch": "_doors.curve_fit_batch",
    "LargeFit": "_doors.fit_large_dataset",
    "fit_large_dataset": "_doors.fit_large_dataset",
    "least_squares": "_doors.least_squares",
    "from_numpy": "_functions.from_numpy",
    "Consensus": "_posterior.consensus",
    "consensus": "_posterior.consensus",
    "Laplace": "_posterior.laplace",
    "LogDensity": "_posterior.density",
    "laplace": "_posterior.laplace",
    "log_density": "_posterior.density",
    "Problem": "_problem.problem",
    "curve_problem": "_problem.problem",
    "cache_programs": "_programs.persistent",
    "clear_caches": "_programs.kept",
    "set_program_budget": "_programs.kept",
    "HostFunctionWarning": "_scipy.host",
    "OptionWarning": "_scipy.options",
    "hessian": "_solve.hessian",
    "Solution": "_solve.solution",
    "solve": "_solve.solve",
    "ReadError": "_stream.chunks",
    "Checkpoint": "_stream.checkpoint",
    "CheckpointError": "_stream.checkpoint",
    "StreamFit": "_stream.fit_stream",
    "fit_stream": "_stream.fit_stream",
    "SourceChangedError": "_stream.mapped",
    "MemoryProfiler": "_basics.memory_profiler",
    "Plan": "_stream.plan",
    "plan": "_stream.plan",
    "ArraySource": "_stream.arrays",
    "Source": "_stream.source",
    "TableSource": "_stream.tables",
    "WarmUp": "_stream.warm_up",
    "Gram": "_trf.linearisation",
    "Triangle": "_trf.triangle",
    "History": "_trf.state",
    "State": "_trf.state",
    "TRF": "_solve.solver",
    "Bootstrap": "_uncertainty.bootstrap",
    "Jackknife": "_uncertainty.jackknife",
    "bootstrap": "_uncertainty.bootstrap",
    "jackknife": "_uncertainty.jackknife",
    "Covariance": "_uncertainty.covariance",
    "covariance": "_uncertainty.covariance",
    "Side": "_uncertainty.crossings",
    "Influence": "_uncertainty.influence",
    "influence": "_uncertainty.influence",
    "Contour": "_uncertainty.contour",
    "Profile": "_uncertainty.profile",
    "contour": "_uncertainty.contour",
    "profile": "_uncertainty.profile",
    "Propagated": "_uncertainty.propagation",
    "propagate": "_uncertainty.propagation",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    """The public name, from the module that defines it; kept, so asked for once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _import_module(f"{__name__}.{_HOMES[name]}")
    # `datasets` is a module itself.
    value = home if name == _HOMES[name] else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not, and what every module has."""
    return sorted({*__all__, *globals()})
