"""Finished pictures on disk, one file each, written whole or not at all.

Blob first, fenced finish second: a file whose job never got to its finish is an orphan, and `sweep` collects it.
Methods block on the disk; async callers use a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from service.errors import BlobCorrupt, JobNotReady, ServerOverloaded

BLOBS_FOLDER = "images"  # below data_dir; gateways and workers of one machine agree on it
DISK_RETRY_AFTER_S = 10
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


class BlobStore(Protocol):
    """Where pictures lie between the worker that drew them and the gateway that sends them."""

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, replacing what was there. ServerOverloaded where the store has no room."""

    def get(self, key: str, sha256: str) -> bytes:
        """The bytes. BlobCorrupt if their checksum (hex) differs, JobNotReady if they are gone."""

    def delete_job(self, job_id: str) -> None:
        """Remove every picture of a job; nothing happens if there is none."""

    def sweep(self, older_than_s: float) -> int:
        """Remove what was written longer ago than this; returns how many pictures."""


def blob_key(job_id: str, attempt: int, index: int) -> str:
    """Key of the index-th picture drawn by one attempt at a job: attempts never overwrite one another."""
    return f"{job_id}/{attempt}/{index}.png"


class DirectoryBlobs:
    """A `BlobStore` in one directory of this machine, made with mode 0700 if missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file beside the place, flush it, rename it into place, flush the directory.

        Only then may the job be called done: both survive a power cut from here on.
        """
        path = self._path(key)
        temporary: str | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            _sync_directory(path.parent)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise _refusal(error) from error

    def get(self, key: str, sha256: str) -> bytes:
        """Read and check: a damaged file is an error, never a wrong picture."""
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise JobNotReady("the picture is no longer stored") from error
        except OSError as error:
            raise _refusal(error) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BlobCorrupt("the stored picture is damaged: its checksum does not match")
        return data

    def delete_job(self, job_id: str) -> None:
        """Remove the job's directory with all attempts in it."""
        shutil.rmtree(self._path(job_id), ignore_errors=True)

    def sweep(self, older_than_s: float) -> int:
        """Remove pictures and abandoned temporary files by age, then directories left empty."""
        oldest = time.time() - older_than_s
        num_removed = 0
        for folder, _, names in os.walk(self._root, topdown=False):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()
                        num_removed += name.endswith(".png")
            # A directory younger than the limit may be one that `put` is about to fill.
            with suppress(OSError):
                if Path(folder) != self._root and Path(folder).stat().st_mtime < oldest:
                    Path(folder).rmdir()
        return num_removed

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(_PART.fullmatch(part) for part in parts):
            raise ValueError(f"not a blob key: {key!r}; parts are letters, digits, '.', '_' and '-'")
        return self._root.joinpath(*parts)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(error: OSError) -> Exception:
    if error.errno in _NO_ROOM:
        return ServerOverloaded(
            f"pictures cannot be stored for now: {error.strerror}", retry_after_s=DISK_RETRY_AFTER_S
        )
    return error
