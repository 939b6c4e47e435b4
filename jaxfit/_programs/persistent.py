"""Compiled programs kept in a folder, from process to process: JAX's persistent cache.

JAX looks there for a program before it compiles it, by a key of the lowered program,
the versions of JAX and XLA, their flags and the processor. Of itself it keeps what took
a second or more to compile. Most programs of a fit take less: here it keeps all.
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from .._basics.checks import outside


VARIABLE = "JAXFIT_CACHE"

# The folder that was set here; what JAX has besides is somebody else's.
_OURS: Path | None = None


def cache_programs(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, so that the next process need not compile them.

    Switches JAX's persistent compilation cache on, for all that this process compiles
    from here on, jaxfit's programs and yours, however small. Without this call, or the
    environment variable `JAXFIT_CACHE`, nothing is written. The variable is read at the
    first fit: a folder, `1` for the default one, `0` or nothing for none.

    What a program is found by is what it computes, so a changed model is another
    program, and so is one for another release of JAX or another processor. Programs
    that call functions on the host are kept by newer releases of JAX only, not by 0.10.
    Many processes may use one folder at once: what one of them is just writing the
    others compile themselves, and JAX may say so in a warning. The folder
    grows; it may be removed at any time.

    **Arguments:** `folder`, made if it does not exist; None is `jaxfit` in the user's
    cache directory (`XDG_CACHE_HOME`, or `~/.cache`, `~/Library/Caches`,
    `%LOCALAPPDATA%`). Only you should be able to write to it: what it holds is run.

    **Returns:** the folder in use. None where JAX keeps nothing.

    **Raises:** `TypeError` for what is no path, `ValueError` for an empty one,
    `OSError` for a folder that cannot be made or written to.

    **Warns:** `UserWarning` where JAX's own cache is set already, or forbidden
    (`jax_compilation_cache_dir`, `jax_enable_compilation_cache`): it is left as it is.
    """
    return _switch_on(folder, "folder")


def follow_environment() -> None:
    """`cache_programs` with what the environment says, unless it was called before.

    **Raises:** `OSError` for a folder that cannot be made or written to.
    """
    value = os.environ.get(VARIABLE, "")
    if _OURS is None and value not in ("", "0"):
        _switch_on(None if value == "1" else value, VARIABLE)


def _switch_on(folder: str | os.PathLike[str] | None, name: str) -> Path | None:
    global _OURS
    path = _path(folder, name)
    jaxs = jax.config.values
    if not jaxs["jax_enable_compilation_cache"]:
        _leave("switched off (jax_enable_compilation_cache)", name)
        return None
    theirs = jaxs["jax_compilation_cache_dir"]
    if theirs and Path(theirs) != _OURS:
        least = jaxs["jax_persistent_cache_min_compile_time_secs"]
        _leave(
            f"set to {theirs} (jax_compilation_cache_dir), for what takes {least:g} s "
            "to compile (jax_persistent_cache_min_compile_time_secs)",
            name,
        )
        return Path(theirs)
    if path != _OURS:
        _check_writable(path, name)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_compilation_cache_dir", str(path))
        compilation_cache.reset_cache()  # or JAX stays with the folder of before
        _OURS = path
    return path


def _leave(how: str, name: str) -> None:
    warnings.warn(
        f"JAX's compilation cache is {how}, and left so: `{name}` has no effect.",
        stacklevel=outside(),
    )


def _path(folder: str | os.PathLike[str] | None, name: str) -> Path:
    if folder is None:
        return _of_user() / "jaxfit"
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path or None, got {folder!r}.")
    if not os.fspath(folder):
        raise ValueError(f"`{name}` must be a path or None, got an empty one.")
    return Path(folder).expanduser().absolute()


def _of_user() -> Path:
    """The directory of a user's caches."""
    if sys.platform == "win32":
        usual = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        usual = Path.home() / "Library" / "Caches"
    else:
        usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(usual)


def _check_writable(path: Path, name: str) -> None:
    """Make the folder if need be, for this user alone, and write to it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as err:
        raise OSError(
            f"`{name}`: programs cannot be kept in {path}, which cannot be made or "
            f"written to ({err.strerror or err}). Choose another folder."
        ) from err
