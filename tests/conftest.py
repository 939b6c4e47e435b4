"""Settings that every test shares; jaxfit itself never sets any of these."""

import gc
import os

import pytest


# Eight host devices, so that pmap and sharding are tested without any accelerator.
# XLA reads the flag when JAX first starts a back end, hence before the import.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    ]
).strip()

import jax


jax.config.update("jax_enable_x64", True)
# Compile times and trace counts are asserted, so no run may profit from an earlier one.
jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Each program maps some hundred pieces of memory, and Linux allows 65,530.

    Beyond that the compiler crashes, after some 500 programs of whole fits.
    """
    yield
    jax.clear_caches()
    gc.collect()
