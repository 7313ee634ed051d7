"""Pictures between the worker that drew them and the gateway that sends them: any store, and one in a directory.

Blob first, fenced finish second: a picture whose job never got to its finish is an orphan. Every store keeps what it
takes for a fixed time, longer than any job's result can be read, and no longer: so orphans go, and promises hold.
Methods block on disk or network, within bounds of time; async callers use a thread.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from service.errors import BlobCorrupt, JobNotReady, ServerOverloaded

BLOBS_FOLDER = "images"  # below data_dir, where settings name no other place
STORE_RETRY_AFTER_S = 10
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
_OURS = re.compile(r"[0-9a-f]{32}-\d+(-\d+(-partial\d+)?\.png|\.progress)|probe-[0-9a-f]{16}|\..*\.part")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


class BlobStore(Protocol):
    """Where pictures lie. Threads share one. All but `close` raise ServerOverloaded where the store refuses for now.

    `sweep_period_s` is how often `sweep` is worth its cost.
    """

    sweep_period_s: float

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, whole or not at all, replacing what was there."""

    def get(self, key: str, sha256: str | None) -> bytes:
        """The bytes. BlobCorrupt if their checksum (hex) differs, JobNotReady if they are gone.

        With None nothing is compared: for what carries a checksum of its own.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Remove these; nothing happens for one that is not there."""

    def sweep(self) -> int:
        """Remove what has been kept for as long as was promised; returns how many."""

    def close(self) -> None:
        """Let connections and threads go."""


def blob_key(job_id: str, attempt: int, index: int) -> str:
    """Key of the index-th picture drawn by one attempt at a job: attempts never overwrite one another."""
    return f"{job_id}-{attempt}-{index}.png"


def partial_key(job_id: str, attempt: int, index: int, place: int) -> str:
    """Key of the `place`-th full-size estimate of a picture that is under way."""
    return f"{job_id}-{attempt}-{index}-partial{place}.png"


def progress_key(job_id: str, index: int) -> str:
    """Key of how far the index-th picture of a job has come. Attempts share it: they take the same steps."""
    return f"{job_id}-{index}.progress"


def check_key(key: str) -> str:
    """The key. Raises ValueError for one that could leave its place."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a blob key: {key!r}; it is a file name of letters, digits, '.', '_' and '-'")
    return key


def is_ours(name: str) -> bool:
    """Whether a sweep may remove it: folders and buckets can hold what is somebody else's."""
    return _OURS.fullmatch(name) is not None


def checked(data: bytes, sha256: str | None) -> bytes:
    """The data. Raises BlobCorrupt where their checksum (hex) is another: an error, never a wrong picture."""
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BlobCorrupt("the stored picture is damaged: its checksum does not match")
    return data


def not_stored() -> JobNotReady:
    """What to raise for a picture that is not there."""
    return JobNotReady("the picture is no longer stored")


def try_out(blobs: BlobStore, num_bytes: int) -> None:
    """Write, read and remove a probe of this size. Raises what the store raises."""
    key = f"probe-{secrets.token_hex(8)}"
    data = secrets.token_bytes(num_bytes)
    blobs.put(key, data)
    try:
        blobs.get(key, hashlib.sha256(data).hexdigest())
    finally:
        blobs.delete([key])


class DirectoryBlobs:
    """A `BlobStore` in one flat directory of this machine, made with mode 0700 if missing.

    Pictures are kept for `keep_s`. Where the disk would have less than `min_free_bytes` left, it counts as full.
    """

    sweep_period_s = 60.0

    def __init__(self, root: Path, *, keep_s: float = math.inf, min_free_bytes: int = 0) -> None:
        self._root = root
        self._keep_s = keep_s
        self._min_free_bytes = min_free_bytes
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in _NO_ROOM:  # else it is made with the first file, once there is room
                raise
        self._counting = threading.Lock()
        self._flushing = threading.Lock()
        self._num_entered = 0  # names entered into the directory so far
        self._num_flushed = 0  # of those, how many a flush of the directory has certainly covered

    @property
    def root(self) -> Path:
        """The directory."""
        return self._root

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file beside the place, rename it into place, flush the file and the directory.

        Only then may the job be called done: both survive a power cut from here on. The rename comes before the
        flushes because a journalling file system then commits once and not twice; what a power cut may leave in place
        is a torn file of a picture that nobody was told of.
        """
        path = self._path(key)
        self._refuse_if_full(len(data))
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

    def get(self, key: str, sha256: str | None) -> bytes:
        """Read and check."""
        try:
            with open(self._path(key), "rb", buffering=0) as file:  # noqa: PTH123
                data = file.readall()
        except FileNotFoundError as error:
            raise not_stored() from error
        except OSError as error:
            raise _refusal(error) from error
        return checked(data, sha256)

    def delete(self, keys: Sequence[str]) -> None:
        """Unlink."""
        try:
            for key in keys:
                Path(self._path(key)).unlink(missing_ok=True)
        except OSError as error:
            raise _refusal(error) from error

    def sweep(self) -> int:
        """Remove pictures and abandoned temporary files by age."""
        oldest = time.time() - self._keep_s
        num_removed = 0
        for entry in os.scandir(self._root):
            with suppress(FileNotFoundError):
                if is_ours(entry.name) and entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)  # noqa: PTH108
                    num_removed += not entry.name.startswith(".")
        return num_removed

    def close(self) -> None:
        """Nothing is held open."""

    def _refuse_if_full(self, num_bytes: int) -> None:
        if not self._min_free_bytes:
            return
        try:
            disk = os.statvfs(self._root)
        except OSError:  # gone: it is made again where the file is
            return
        if disk.f_bavail * disk.f_frsize - num_bytes < self._min_free_bytes:
            raise ServerOverloaded(
                "pictures cannot be stored for now: the disk is nearly full", retry_after_s=STORE_RETRY_AFTER_S
            )

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
        return f"{self._root}/{'.' if suffix else ''}{check_key(key)}{suffix}"


def _refusal(error: OSError) -> Exception:
    if error.errno in _NO_ROOM:
        return ServerOverloaded(
            f"pictures cannot be stored for now: {error.strerror}", retry_after_s=STORE_RETRY_AFTER_S
        )
    return error
