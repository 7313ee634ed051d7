"""Finished pictures on disk, one file each, written whole or not at all.

Blob first, fenced finish second: a file whose job never got to its finish is an orphan, and `sweep` collects it.
Methods block on the disk; async callers use a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from service.errors import BlobCorrupt, JobNotReady, ServerOverloaded

BLOBS_FOLDER = "images"  # below data_dir; gateways and workers of one machine agree on it
DISK_RETRY_AFTER_S = 10
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
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
    return f"{job_id}-{attempt}-{index}.png"


def partial_key(job_id: str, attempt: int, index: int, place: int) -> str:
    """Key of the `place`-th full-size estimate of a picture that is under way."""
    return f"{job_id}-{attempt}-{index}-partial{place}.png"


class DirectoryBlobs:
    """A `BlobStore` in one flat directory of this machine, made with mode 0700 if missing. Threads may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._counting = threading.Lock()
        self._flushing = threading.Lock()
        self._num_entered = 0  # names entered into the directory so far
        self._num_flushed = 0  # of those, how many a flush of the directory has certainly covered

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file beside the place, rename it into place, flush the file and the directory.

        Only then may the job be called done: both survive a power cut from here on. The rename comes before the
        flushes because a journalling file system then commits once and not twice; what a power cut may leave in place
        is a torn file of a picture that nobody was told of.
        """
        path = self._path(key)
        temporary = self._path(key, f".{secrets.token_hex(8)}.part")
        try:
            with self._create(temporary) as file:
                file.write(data)
                file.flush()
                os.rename(temporary, path)  # noqa: PTH104  (no Path objects here: they cost more than the call)
                temporary = path
                os.fsync(file.fileno())
            self._flush_directory()
        except OSError as error:
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108
            raise _refusal(error) from error

    def get(self, key: str, sha256: str) -> bytes:
        """Read and check: a damaged file is an error, never a wrong picture."""
        try:
            with open(self._path(key), "rb", buffering=0) as file:  # noqa: PTH123
                data = file.readall()
        except FileNotFoundError as error:
            raise JobNotReady("the picture is no longer stored") from error
        except OSError as error:
            raise _refusal(error) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BlobCorrupt("the stored picture is damaged: its checksum does not match")
        return data

    def delete_job(self, job_id: str) -> None:
        """Remove the pictures of all attempts. Reads the whole directory."""
        for path in self._root.glob(Path(self._path(job_id)).name + "-*.png"):
            path.unlink(missing_ok=True)

    def sweep(self, older_than_s: float) -> int:
        """Remove pictures and abandoned temporary files by age."""
        oldest = time.time() - older_than_s
        num_removed = 0
        for entry in os.scandir(self._root):
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)  # noqa: PTH108
                    num_removed += not entry.name.startswith(".")
        return num_removed

    def _create(self, path: str) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:  # somebody removed the directory
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        return os.fdopen(descriptor, "wb")

    def _flush_directory(self) -> None:
        """Return once the directory was flushed after this call began: by this thread, or by one for several."""
        with self._counting:
            self._num_entered += 1
            own = self._num_entered
        with self._flushing:
            if self._num_flushed >= own:
                return
            with self._counting:
                num_covered = self._num_entered
            descriptor = os.open(self._root, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._num_flushed = num_covered

    def _path(self, key: str, suffix: str = "") -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a blob key: {key!r}; it is a file name of letters, digits, '.', '_' and '-'")
        return f"{self._root}/{'.' if suffix else ''}{key}{suffix}"


def _refusal(error: OSError) -> Exception:
    if error.errno in _NO_ROOM:
        return ServerOverloaded(
            f"pictures cannot be stored for now: {error.strerror}", retry_after_s=DISK_RETRY_AFTER_S
        )
    return error
