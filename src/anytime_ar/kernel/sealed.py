"""Kernel files that are known to be whole: their names end with a digest of their bytes.

A library that was cut off, by a full disk or a power failure, ends the process that loads it
(SIGBUS), so it has to be noticed before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def checksummed_path(path: Path, content: bytes) -> Path:
    """Return the name for a file of this content: `path` with a digest before the suffix."""
    return path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}")


def find_intact(path: Path) -> Path | None:
    """Return the file that `checksummed_path` named, if there is one and it is as it was written."""
    for found in sorted(path.parent.glob(f"{path.stem}-*{path.suffix}")):
        try:
            if found.is_file() and checksummed_path(path, found.read_bytes()) == found:
                return found
        except OSError:  # of another user, or on a disk that fails: as good as damaged
            continue
    return None
