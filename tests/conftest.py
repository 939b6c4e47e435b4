"""Settings that every test shares; jaxfit itself never sets any of these."""

import gc
import os
from importlib.metadata import version

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
            }.items()
            if version("jaxlib").startswith(since)
            and os.environ.get("JAXFIT_TESTS_OPTIMISED", "0") == "0"
        ),
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import jax
import jaxtyping

import jaxfit


jax.config.update("jax_enable_x64", True)
# Compile times and trace counts are asserted, so no run may profit from an earlier one.
jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Each program maps some hundred pieces of memory, and Linux allows 65,530.

    Beyond that the compiler crashes, after some 500 programs of whole fits.
    """
    yield
    jaxfit.clear_caches()
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def without_type_checks():
    """A user has no type checker at run time: it would speak before jaxfit does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
