"""The progress bar of tqdm."""

from typing import Any


def progress_bar(**options: Any) -> Any:
    """A bar of tqdm.

    **Raises:** `ImportError` with the way to install it.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as err:
        raise ImportError(
            "progress=True needs tqdm: pip install 'jaxfit-kernel[progress]'."
        ) from err
    return tqdm(**options)
