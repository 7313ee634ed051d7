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


def test_a_sweep_removes_old_pictures_and_abandoned_temporaries_and_nothing_else(tmp_path):
    blobs = DirectoryBlobs(tmp_path / "blobs", keep_s=50)
    young = blob_key("1" * 32, 1, 0)
    blobs.put(KEY, PNG)
    blobs.put(young, PNG)
    abandoned = tmp_path / "blobs" / ".half.part"
    abandoned.write_bytes(b"half")
    foreign = tmp_path / "blobs" / "holidays.png"
    foreign.write_bytes(PNG)
    for path in (abandoned, foreign, tmp_path / "blobs" / KEY):
        os.utime(path, (time.time() - 100, time.time() - 100))

    assert blobs.sweep() == 1
    assert files(tmp_path) == [young, "holidays.png"]


def test_a_disk_with_too_little_room_left_counts_as_full(tmp_path):
    blobs = DirectoryBlobs(tmp_path / "blobs", min_free_bytes=2**62)
    with pytest.raises(ServerOverloaded, match="nearly full"):
        blobs.put(KEY, PNG)
    assert files(tmp_path) == []


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
    really_open = os.open

    def open_full(path, flags, mode=0o777):
        really_open(path, flags, mode)
        return really_open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", open_full)
    with pytest.raises(ServerOverloaded):
        blobs.put(KEY, PNG)


@pytest.mark.parametrize(
    "key", ["../a.png", "a/../b", "/etc/passwd", "a//b", "", ".", "a/.hidden", "a b", "a\0b", "a/b.png", "a" * 201]
)
def test_a_key_cannot_leave_the_directory(blobs, key):
    with pytest.raises(ValueError, match="blob key"):
        blobs.put(key, PNG)
    with pytest.raises(ValueError, match="blob key"):
        blobs.get(key, sha256(PNG))
    with pytest.raises(ValueError, match="blob key"):
        blobs.delete([key])


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


def test_a_picture_is_flushed_under_its_name_and_its_directory_after_it(blobs, tmp_path, monkeypatch):
    flushed = []
    really_fsync = os.fsync

    def note(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        really_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    blobs.put(KEY, PNG)
    assert flushed == [tmp_path / "blobs" / KEY, tmp_path / "blobs"]


def test_writers_share_a_flush_of_the_directory_only_if_it_began_after_their_own_rename(blobs, tmp_path, monkeypatch):
    covered = set()
    is_first_out, may_go_on = threading.Event(), threading.Event()
    num_flushes = 0
    really_fsync = os.fsync

    def note(descriptor):
        nonlocal num_flushes
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path / "blobs":
            num_flushes += 1
            present = set(files(tmp_path))
            if num_flushes == 1:
                is_first_out.set()
                assert may_go_on.wait(10)
            covered.update(present)
        really_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    keys = [blob_key("0" * 32, 1, index) for index in range(6)]
    promised = []

    def write(key):
        blobs.put(key, PNG)
        promised.append(key in covered)

    threads = [threading.Thread(target=write, args=(key,)) for key in keys]
    threads[0].start()
    assert is_first_out.wait(10)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: blobs._num_entered == len(keys))
    assert promised == []
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert promised == [True] * 6
    assert num_flushes == 2


def test_a_directory_that_was_removed_is_made_again(blobs, tmp_path):
    (tmp_path / "blobs").rmdir()
    blobs.put(KEY, PNG)
    assert blobs.get(KEY, sha256(PNG)) == PNG
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.005)
