# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Names of files that outlive a loss of power."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Rename a file or a folder so that it outlives a loss of power; both are in one folder."""
    old.rename(new)
    sync_folder(new.parent)
