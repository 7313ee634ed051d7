import errno
import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from service.blobs import DirectoryBlobs, blob_key
from service.errors import BlobCorrupt, JobNotReady, ServerOverloaded

PNG = b"\x89PNG" + bytes(range(256)) * 50
KEY = blob_key("0" * 32, 1, 0)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def blobs(tmp_path):
    return DirectoryBlobs(tmp_path / "blobs")


def files(tmp_path):
    return sorted(str(path.relative_to(tmp_path / "blobs")) for path in tmp_path.rglob("*") if path.is_file())


def test_a_picture_comes_back_as_it_was(blobs, tmp_path):
    blobs.put(KEY, PNG)
    assert blobs.get(KEY, sha256(PNG)) == PNG
    assert files(tmp_path) == [KEY]


def test_another_attempt_does_not_touch_the_first_ones_picture(blobs):
    second = blob_key("0" * 32, 2, 0)
    blobs.put(KEY, PNG)
    blobs.put(second, b"other")
    assert blobs.get(KEY, sha256(PNG)) == PNG
    assert blobs.get(second, sha256(b"other")) == b"other"


def test_a_picture_written_again_is_replaced_whole(blobs, tmp_path):
    blobs.put(KEY, PNG)
    blobs.put(KEY, b"new")
    assert blobs.get(KEY, sha256(b"new")) == b"new"
    assert files(tmp_path) == [KEY]


@pytest.mark.parametrize("damage", [PNG[:-1], PNG + b"\0", b"", b"X" + PNG[1:]])
def test_a_damaged_picture_is_an_error_and_never_a_picture(blobs, tmp_path, damage):
    blobs.put(KEY, PNG)
    (tmp_path / "blobs" / KEY).write_bytes(damage)
    with pytest.raises(BlobCorrupt):
        blobs.get(KEY, sha256(PNG))


def test_a_missing_picture_is_not_ready(blobs):
    with pytest.raises(JobNotReady):
        blobs.get(KEY, sha256(PNG))


def test_deleting_a_job_removes_all_its_attempts_and_nothing_else(blobs, tmp_path):
    other = blob_key("1" * 32, 1, 0)
    for key in (KEY, blob_key("0" * 32, 2, 3), other):
        blobs.put(key, PNG)
    blobs.delete_job("0" * 32)
    blobs.delete_job("2" * 32)
    assert files(tmp_path) == [other]


def test_a_sweep_removes_old_pictures_and_abandoned_temporaries_and_keeps_young_ones(blobs, tmp_path):
    young = blob_key("1" * 32, 1, 0)
    blobs.put(KEY, PNG)
    blobs.put(young, PNG)
    abandoned = tmp_path / "blobs" / ("0" * 32) / "1" / ".half.part"
    abandoned.write_bytes(b"half")
    folder = abandoned.parent
    for path in (abandoned, tmp_path / "blobs" / KEY):
        os.utime(path, (time.time() - 100, time.time() - 100))

    assert blobs.sweep(older_than_s=50) == 1
    assert files(tmp_path) == [young]
    assert folder.exists(), "emptied just now: a writer may be about to fill it"

    for path in (folder, folder.parent):
        os.utime(path, (time.time() - 100, time.time() - 100))
    assert blobs.sweep(older_than_s=50) == 0
    assert not folder.exists()
    assert (tmp_path / "blobs").exists()


def test_a_full_disk_is_overload_and_leaves_no_half_written_file(blobs, tmp_path, monkeypatch):
    def no_room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ServerOverloaded) as refusal:
        blobs.put(KEY, PNG)
    assert refusal.value.retry_after_s
    assert files(tmp_path) == []

    monkeypatch.undo()
    blobs.put(KEY, PNG)
    assert blobs.get(KEY, sha256(PNG)) == PNG


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_write_into_a_really_full_device_is_overload(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (os.open("/dev/full", os.O_WRONLY), str(tmp_path / "none")))
    with pytest.raises(ServerOverloaded):
        blobs.put(KEY, PNG)


@pytest.mark.parametrize("key", ["../a.png", "a/../b", "/etc/passwd", "a//b", "", ".", "a/.hidden", "a b", "a\0b"])
def test_a_key_cannot_leave_the_directory(blobs, key):
    with pytest.raises(ValueError, match="blob key"):
        blobs.put(key, PNG)
    with pytest.raises(ValueError, match="blob key"):
        blobs.get(key, sha256(PNG))
    with pytest.raises(ValueError, match="blob key"):
        blobs.delete_job(key)


def test_a_reader_never_sees_half_a_picture(blobs):
    pictures = [bytes([i]) * 200_000 for i in range(2)]
    blobs.put(KEY, pictures[0])
    allowed = {sha256(picture) for picture in pictures}
    is_over = threading.Event()

    def write():
        for i in range(30):
            blobs.put(KEY, pictures[i % 2])
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    num_reads = 0
    while not is_over.is_set():
        outcomes = set()
        for digest in allowed:
            with suppress(BlobCorrupt):  # the other picture
                outcomes.add(sha256(blobs.get(KEY, digest)))
        assert outcomes <= allowed
        num_reads += 1
    writer.join()
    assert num_reads > 0
    assert sha256((blobs._root / KEY).read_bytes()) in allowed


def test_the_store_is_for_its_owner_only(blobs, tmp_path):
    blobs.put(KEY, PNG)
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0
    assert (tmp_path / "blobs" / KEY).stat().st_mode & 0o077 == 0
