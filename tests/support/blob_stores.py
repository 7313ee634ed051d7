"""Every kind of blob store on a real server of its kind, each test's pictures apart from the others'."""

import copy
import json
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from service.blobs import DirectoryBlobs
from service.redis_blobs import RedisBlobs
from service.s3_blobs import S3Blobs
from tests.support.swift_process import ACCESS_KEY, SECRET_KEY

KINDS = ("directory", "redis", "s3")
BUCKET = "pictures"


@contextmanager
def running_s3(folder):
    """A real S3-compatible server on loopback. Gives its address."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("swift_process.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            yield url
        finally:
            process.kill()


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory):
    with running_s3(tmp_path_factory.mktemp("s3") / "server") as url:
        yield url


@pytest.fixture(scope="session")
def s3_store(s3_url):
    """A store in an empty bucket. Making one takes half a second, so those of the tests are copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        store = S3Blobs(BUCKET, "", keep_s=3600.0, endpoint_url=s3_url, region="us-east-1")
        store._client.create_bucket(Bucket=BUCKET)
    yield store
    store.close()


@pytest.fixture
def open_store(request, tmp_path):
    """Makes a store of a kind, with a place of its own; closes what it has opened."""
    stores = []

    def open_one(kind, *, keep_s=3600.0, max_bytes=64 * 1024**2):
        if kind == "directory":
            store = DirectoryBlobs(tmp_path / "blobs", keep_s=keep_s)
        elif kind == "redis":
            store = RedisBlobs(request.getfixturevalue("redis_url"), keep_s=keep_s, max_bytes=max_bytes)
            stores.append(store)
        else:
            store = copy.copy(request.getfixturevalue("s3_store"))
            store._prefix, store._keep = f"{tmp_path.name}/", timedelta(seconds=keep_s)
        return store

    yield open_one
    for store in stores:
        store.close()
