"""Settings that every test shares; jaxfit itself never sets any of these."""

import gc
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest


# XLA reads its flags when JAX first starts a back end, hence before the import. Eight
# host devices, so that pmap and sharding are tested without any accelerator. Tests
# compile much and compute little, and LLVM's passes are more than half of it: they are
# left out unless JAXFIT_TESTS_OPTIMISED=1. What is set outside comes last, and wins.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        *(
            flag
            for flag, since in {
                "--xla_backend_optimization_level=0": "0.",
                "--xla_cpu_use_fusion_emitters=false": "0.10.",  # 0.12 refuses it
                # One LLVM module a program, not 32: a sixth of the back end's time.
                "--xla_cpu_parallel_codegen_split_count=1": "0.",
            }.items()
            if version("jaxlib").startswith(since)
            and os.environ.get("JAXFIT_TESTS_OPTIMISED", "0") == "0"
        ),
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import jax
import jaxtyping
from jax.experimental.compilation_cache import compilation_cache

import jaxfit


jax.config.update("jax_enable_x64", True)


def pytest_configure(config):
    """What several tests compile is compiled once: a folder for each run.

    All workers share it. It is empty at first, so that no run profits from another.
    """
    if hasattr(config, "workerinput"):
        folder = config.workerinput["programs"]
    else:
        kept = tempfile.TemporaryDirectory(prefix="jaxfit-tests-")
        config.add_cleanup(kept.cleanup)
        folder = config.programs = kept.name
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a worker of pytest-xdist where the programs are."""
    node.workerinput["programs"] = node.config.programs


MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Each program maps some hundred pieces of memory, and Linux allows 65,530.

    Beyond that the compiler crashes, after some 500 programs of whole fits. What JAX
    keeps goes at a quarter of it, for the small programs serve all modules.
    """
    yield
    jaxfit.clear_caches()
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > 16_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def without_type_checks():
    """A user has no type checker at run time: it would speak before jaxfit does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def without_kept_programs():
    """Everything is compiled: where a test asks how long compiling takes."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
