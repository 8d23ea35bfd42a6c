"""Importing MLflow without looking for garbage meanwhile: there is none, and looking takes a quarter of the time."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def in_one_go() -> Iterator[None]:
    """Collect no garbage while the block imports, and leave what it has imported out of later collections.

    Source: https://docs.python.org/3/library/gc.html#gc.freeze. What is imported stays as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
