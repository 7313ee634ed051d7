"""What every blob store promises, tried on all of them, and what only some can do wrong."""

import hashlib
import logging
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis as BlockingRedis

from service import s3_blobs
from service.blob_stores import open_blobs
from service.blobs import DirectoryBlobs, blob_key, progress_key, try_out
from service.errors import BlobCorrupt, ConfigurationError, JobNotReady, ServerOverloaded
from service.gateway import rendering
from service.redis_blobs import SUM, RedisBlobs
from service.s3_blobs import S3Blobs
from service.settings import Settings
from tests.gateway.harness import running_gateway
from tests.support.blob_stores import BUCKET, KINDS, open_store, s3_store, s3_url
from tests.support.swift_process import ACCESS_KEY, SECRET_KEY

__all__ = ["open_store", "s3_store", "s3_url"]

PNG = b"\x89PNG" + bytes(range(256)) * 1000
KEY = blob_key("0" * 32, 1, 0)
OTHER = blob_key("1" * 32, 1, 0)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(open_store, kind):
    return open_store(kind)


def test_what_was_put_comes_back_until_it_is_replaced_or_deleted(store):
    store.put(KEY, PNG)
    store.put(OTHER, b"other")
    assert store.get(KEY, sha256(PNG)) == PNG
    store.put(KEY, b"new")
    assert store.get(KEY, sha256(b"new")) == b"new"
    assert store.get(KEY, None) == b"new"
    store.delete([KEY, progress_key("2" * 32, 0)])
    store.delete([])
    with pytest.raises(JobNotReady):
        store.get(KEY, sha256(b"new"))
    assert store.get(OTHER, sha256(b"other")) == b"other"


def test_a_damaged_picture_is_an_error_and_never_a_picture(store):
    store.put(KEY, PNG[:-1] + b"\0")
    with pytest.raises(BlobCorrupt):
        store.get(KEY, sha256(PNG))


def test_a_large_picture_is_kept_whole(store):
    large = PNG * 40
    store.put(KEY, large)
    assert store.get(KEY, sha256(large)) == large


def test_a_key_cannot_leave_its_place(store):
    for key in ("../a.png", "a/b.png", "", "a b", "a{b}", "a\0b"):
        with pytest.raises(ValueError, match="blob key"):
            store.put(key, PNG)
        with pytest.raises(ValueError, match="blob key"):
            store.get(key, None)
        with pytest.raises(ValueError, match="blob key"):
            store.delete([key])


def test_trying_a_store_out_leaves_nothing_behind(store, kind, tmp_path, redis_url):
    try_out(store, 1000)
    if kind == "directory":
        assert list((tmp_path / "blobs").iterdir()) == []
    elif kind == "redis":
        with BlockingRedis.from_url(redis_url) as raw:
            assert raw.get(SUM) == b"0"
    else:
        assert "Contents" not in store._client.list_objects_v2(Bucket=BUCKET, Prefix=tmp_path.name)


def test_orphans_go_when_their_time_is_over_and_what_is_promised_stays(open_store, kind):
    lasting, passing = open_store(kind), open_store(kind, keep_s=1.0)
    passing.put(KEY, PNG)
    lasting.sweep()
    assert lasting.get(KEY, sha256(PNG)) == PNG

    def is_gone():
        passing.sweep()
        try:
            lasting.get(KEY, None)
        except JobNotReady:
            return True
        return False

    wait_until(is_gone)


# -- a store in Redis


def test_the_budget_is_kept_exactly_whoever_puts_at_once(open_store, redis_url, embedded_server):
    size, num_fitting = 10_000, 20
    store = open_store("redis", max_bytes=size * num_fitting + size // 2)

    def put(number):
        try:
            store.put(blob_key(f"{number:032x}", 1, 0), bytes(size))
        except ServerOverloaded:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        taken = list(threads.map(put, range(60)))
    assert sum(taken) <= num_fitting
    taken += [put(number) for number in range(60, 60 + num_fitting)]  # on a slow machine some were given up
    with BlockingRedis.from_url(redis_url) as raw:
        assert int(raw.get(SUM)) == size * num_fitting
    for number, is_taken in enumerate(taken):
        if is_taken:
            assert len(store.get(blob_key(f"{number:032x}", 1, 0), None)) == size
    put_again = next(number for number, is_taken in enumerate(taken) if is_taken)
    assert put(put_again)
    store.delete([blob_key(f"{number:032x}", 1, 0) for number in range(len(taken))])
    with BlockingRedis.from_url(embedded_server.url) as raw:
        assert raw.keys("emmdit:{blobs}:*") == [SUM.encode()]
        assert raw.get(SUM) == b"0"


def test_room_of_pictures_whose_time_is_over_is_used_again(open_store):
    store = open_store("redis", keep_s=0.2, max_bytes=1500)
    store.put(KEY, bytes(1000))
    with pytest.raises(ServerOverloaded) as refusal:
        store.put(OTHER, bytes(1000))
    assert refusal.value.retry_after_s

    def is_put():
        try:
            store.put(OTHER, bytes(1000))
        except ServerOverloaded:
            return False
        return True

    wait_until(is_put)


def test_a_server_without_memory_takes_no_picture_and_loses_none(open_store, embedded_server):
    store = open_store("redis")
    store.put(KEY, PNG)
    with BlockingRedis.from_url(embedded_server.url) as raw:
        before = raw.config_get("maxmemory")["maxmemory"]
        raw.config_set("maxmemory", 1024 * 1024)
        try:
            with pytest.raises(ServerOverloaded):
                store.put(OTHER, PNG)
        finally:
            raw.config_set("maxmemory", before)
        assert int(raw.get(SUM)) == len(PNG)
    assert store.get(KEY, sha256(PNG)) == PNG
    store.put(OTHER, PNG)


def test_a_redis_that_is_away_is_a_refusal_for_now():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = RedisBlobs(f"redis://:hush@127.0.0.1:{unused.getsockname()[1]}", keep_s=60, max_bytes=1000)
        for call in (lambda: store.put(KEY, b"x"), lambda: store.get(KEY, None), store.sweep):
            with pytest.raises(ServerOverloaded) as refusal:
                call()
            assert "hush" not in str(refusal.value)
        store.close()


def test_whoever_waits_while_the_store_is_closed_is_told_so():
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as threads:
        store = RedisBlobs(f"redis://127.0.0.1:{silent.getsockname()[1]}", keep_s=60, max_bytes=1000)
        putting = threads.submit(store.put, KEY, b"x")
        with silent.accept()[0]:  # nobody answers
            store.close()
            with pytest.raises(ServerOverloaded):
                putting.result(10)


# -- a store in S3


def test_a_sweep_touches_nobody_elses_objects(open_store, tmp_path):
    store = open_store("s3", keep_s=0.0)
    foreign = f"{tmp_path.name}/holidays.png"
    store._client.put_object(Bucket=BUCKET, Key=foreign, Body=b"sea")
    store.put(KEY, PNG)
    wait_until(lambda: store.sweep() == 1)
    assert store._client.get_object(Bucket=BUCKET, Key=foreign)["Body"].read() == b"sea"


def test_an_s3_that_hangs_is_a_refusal_within_bounds(monkeypatch):
    monkeypatch.setattr(s3_blobs, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = S3Blobs("pictures", "", keep_s=60, endpoint_url=url, region="us-east-1")
        for call in (lambda: store.put(KEY, PNG), lambda: store.get(KEY, None)):
            with pytest.raises(ServerOverloaded):
                call()
        store.close()


@pytest.mark.parametrize(("bucket", "secret"), [(BUCKET, "wrong-secret"), ("nobodys-bucket", SECRET_KEY)])
def test_what_s3_refuses_is_logged_without_a_secret_and_may_get_right_again(
    s3_url, bucket, secret, monkeypatch, caplog
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    store = S3Blobs(bucket, "", keep_s=60, endpoint_url=s3_url, region="us-east-1")
    with caplog.at_level(logging.WARNING), pytest.raises(ServerOverloaded):
        store.put(KEY, PNG)
    with pytest.raises(ServerOverloaded):
        store.get(KEY, None)
    store.close()
    assert "S3 refuses put_object" in caplog.text
    assert secret not in caplog.text


def test_without_credentials_s3_refuses(s3_url, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    store = S3Blobs(BUCKET, "", keep_s=60, endpoint_url=s3_url, region="us-east-1")
    with pytest.raises(ServerOverloaded):
        store.put(KEY, PNG)
    store.close()


# -- a gateway with any store


def test_a_gateway_sends_no_damaged_picture_whatever_the_store(store, embedded_server, tmp_path):
    with running_gateway(embedded_server.url, tmp_path, "painter-of-stores", store=store) as gateway:
        job_id = gateway.submit(num_inference_steps=2)
        gateway.wait_for_state(job_id, "done")
        path = f"/v1/jobs/{job_id}/images/0"
        picture = gateway.client.get(path)
        assert picture.status_code == 200
        key = blob_key(job_id, 1, 0)
        store.put(key, picture.content[:-1] + b"\0")
        damaged = gateway.client.get(path)
        assert damaged.status_code == 500
        assert damaged.json()["error"]["code"] == "image_corrupt"
        store.delete([key])
        assert gateway.client.get(path).status_code == 410


def test_a_store_that_hangs_holds_up_nothing_but_its_own_pictures(embedded_server, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "LOAD_TIMEOUT_S", 0.3)
    is_let_go = threading.Event()

    class HangingBlobs(DirectoryBlobs):
        def get(self, key, sha256):
            is_let_go.wait(20)
            return super().get(key, sha256)

    store = HangingBlobs(tmp_path / "blobs")
    with running_gateway(embedded_server.url, tmp_path, "painter-who-hangs", store=store) as gateway:
        job_id = gateway.submit(num_inference_steps=2)
        assert gateway.wait_for_state(job_id, "done")["state"] == "done"
        response = gateway.client.get(f"/v1/jobs/{job_id}/images/0")
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert gateway.client.get("/livez").status_code == 200
        is_let_go.set()
        wait_until(lambda: gateway.client.get(f"/v1/jobs/{job_id}/images/0").status_code == 200)


# -- the factory


def test_settings_name_the_store(tmp_path, redis_url):
    for url, kind in [
        (None, DirectoryBlobs),
        (str(tmp_path / "elsewhere"), DirectoryBlobs),
        ("redis", RedisBlobs),
        ("redis://:hush@127.0.0.1:1/0", RedisBlobs),
        ("s3://bucket/some/prefix", S3Blobs),
    ]:
        settings = Settings(data_dir=tmp_path, redis_url=redis_url, blob_url=url)
        store = open_blobs(settings)
        assert type(store) is kind
        assert "hush" not in repr(settings)
        store.close()
    assert (tmp_path / "images").is_dir()
    assert (tmp_path / "elsewhere").is_dir()


def test_a_store_that_can_never_work_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    for options in ({"blob_url": "redis"}, {"blob_url": str(tmp_path / "file" / "below")}):
        with pytest.raises(ConfigurationError, match="blob_url"):
            open_blobs(Settings(data_dir=tmp_path, **options))


def test_without_the_extra_s3_is_refused_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "service.s3_blobs")
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ConfigurationError, match=r"pip install emmdit\[s3\]"):
        open_blobs(Settings(data_dir=tmp_path, blob_url="s3://pictures"))


@pytest.mark.parametrize("url", ["", "s3://", "s3://A_bucket", "ftp://host/", "s3://bucket/pre fix", "http://host"])
def test_a_store_that_nobody_knows_is_refused(url):
    with pytest.raises(ValueError, match="blob_url"):
        Settings(blob_url=url)


def test_a_store_can_be_shared_by_threads_from_the_first_call_on(store):
    keys = [blob_key("0" * 32, 1, index) for index in range(8)]
    threads = [threading.Thread(target=store.put, args=(key, key.encode())) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get(key, None) for key in keys] == [key.encode() for key in keys]


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
