"""The doctor finds what is wrong, says how to mend it, and shows no secret."""

import asyncio
import json
import socket

import pytest
from typer.testing import CliRunner

from model.torch_build import DeviceFacts, TorchBuild
from service.cli import checks, part_checks
from service.cli.app import app
from service.cli.checks import Level, check_disk, check_packages, check_port, check_service, check_settings, masked
from service.cli.part_checks import (
    check_content_filter,
    check_keys,
    check_models,
    check_provenance,
    check_queue,
    check_store,
    check_torch,
)
from service.queue_facts import ServerFacts
from service.settings import Settings
from service.tenants import Tenants
from tests.client.scripted_server import Reply, ScriptedServer
from tests.support.certificates import make_signing_files

GIB = 1024**3


def levels(findings):
    return [(finding.name, finding.level) for finding in findings]


def test_what_is_needed_is_installed():
    assert levels(check_packages()) == [("packages", Level.OK)]


def test_a_misspelt_variable_is_named_and_costs_the_exit_code(monkeypatch):
    monkeypatch.setenv("EMMDIT_MODLES", "demo")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["is_sound"]
    assert report["findings"][-1]["level"] == "FAIL"
    assert "did you mean EMMDIT_MODELS?" in report["findings"][-1]["found"]


def test_strangers_who_could_get_in_are_a_fault():
    findings = list(check_settings(Settings(host="0.0.0.0", require_keys="never")))
    assert levels(findings) == [("settings", Level.OK), ("address", Level.FAIL)]
    assert "allow_remote_without_keys" in findings[1].remedy


def test_a_port_is_free_ours_or_anothers():
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Settings(port=other.getsockname()[1])
        other.settimeout(0)
        other.close()
        assert levels(check_port(taken)) == [("port", Level.OK)]
    for headers, level in (({"x-request-id": "1"}, Level.OK), ({}, Level.FAIL)):
        with ScriptedServer(Reply(200, headers)) as server:
            (finding,) = check_port(Settings(port=int(server.url.rpartition(":")[2])))
            assert finding.level is level
            assert (finding.remedy != "") == (level is Level.FAIL)


def test_a_full_disk_and_a_foreign_folder_are_faults(tmp_path, monkeypatch):
    settings = Settings(data_dir=tmp_path / "new", compiled_dir=tmp_path)
    for free_bytes, level in ((9 * GIB, Level.OK), (GIB, Level.WARN), (1000, Level.FAIL)):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, free=free_bytes: type("Usage", (), {"free": free}))
        assert levels(check_disk(settings)) == [("data folder", level), ("compiled folder", level)]
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    (finding, _) = check_disk(settings)
    assert (finding.level, finding.remedy) == (Level.FAIL, "choose a folder of yours with EMMDIT_DATA_DIR")


def test_a_service_is_asked_as_its_clients_ask_it():
    (finding,) = check_service("http://ada:geheim@127.0.0.1:1")
    assert finding.level is Level.FAIL
    assert "geheim" not in finding.found


def test_the_queue_is_asked_for_its_version(redis_url):
    (finding,) = check_queue(Settings(redis_url=redis_url))
    assert finding.level is Level.OK
    assert " ms away" in finding.found
    (embedded,) = check_queue(Settings())
    assert embedded.level is Level.OK


def test_where_keys_are_needed_there_should_be_one(redis_url):
    assert list(check_keys(Settings(redis_url=redis_url))) == []
    locked = Settings(redis_url=redis_url, host="0.0.0.0")
    assert levels(check_keys(locked)) == [("keys", Level.WARN)]

    async def create():
        tenants = Tenants.connect(redis_url)
        await tenants.create("ada")
        await tenants.close()

    asyncio.run(create())
    assert levels(check_keys(locked)) == [("keys", Level.OK)]


def test_a_queue_that_does_not_answer_is_named_without_its_password():
    (finding,) = check_queue(Settings(redis_url="redis://ada:geheim@127.0.0.1:1/0"))
    assert finding.level is Level.FAIL
    assert "redis://ada:***@127.0.0.1:1/0: the queue's server does not answer" in finding.found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("queue", Level.OK)]),
        ({"version": "5.0.7"}, [("queue", Level.FAIL)]),
        ({"round_trip_s": 0.05}, [("queue", Level.WARN)]),
        ({"max_bytes": 100, "eviction": "allkeys-lru"}, [("queue", Level.OK), ("queue memory", Level.FAIL)]),
        ({"max_bytes": 100, "used_bytes": 90}, [("queue", Level.OK), ("queue memory", Level.FAIL)]),
        ({"is_persistent": False}, [("queue", Level.OK), ("queue disk", Level.WARN)]),
    ],
)
def test_what_a_queue_lacks_is_said(monkeypatch, changes, expected):
    sound = {"version": "7.2.4", "used_bytes": 10, "max_bytes": 0, "eviction": "noeviction"}
    values = sound | {"name": "valkey", "is_persistent": True, "round_trip_s": 0.001} | changes

    async def look(url):
        return ServerFacts(**values)

    monkeypatch.setattr(part_checks, "look_at", look)
    findings = list(check_queue(Settings(redis_url="redis://queue")))
    assert levels(findings) == expected
    assert all(finding.remedy for finding in findings if finding.level is not Level.OK)


def test_the_store_of_pictures_is_written_to_and_read(tmp_path, redis_url):
    for options, place in (
        ({"blob_url": str(tmp_path)}, str(tmp_path)),
        ({"blob_url": "redis", "redis_url": redis_url}, "redis"),
        ({"blob_url": "redis"}, "emmdit serve"),
        ({"data_dir": tmp_path / "new"}, "first start"),
    ):
        (finding,) = check_store(Settings(**options))
        assert finding.level is Level.OK
        assert place in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_takes_nothing_is_named_without_its_password(tmp_path):
    for options in (
        {"blob_url": "redis://ada:geheim@127.0.0.1:1/0"},
        {"blob_url": str(tmp_path), "min_free_bytes": 2**62},
        {"blob_url": "s3://pictures", "s3_endpoint_url": "http://127.0.0.1:1", "s3_region": "here"},
    ):
        (finding,) = check_store(Settings(**options))
        assert finding.level is Level.FAIL
        assert "storage.md" in finding.remedy
        assert "geheim" not in finding.found


GPU = DeviceFacts("Radeon", 16 * GIB, 12 * GIB, "")


@pytest.mark.parametrize(
    ("build", "device", "expected"),
    [
        ({}, "auto", [Level.OK]),
        ({"unused": "AMD"}, "auto", [Level.WARN, Level.OK]),
        ({}, "cuda", [Level.FAIL]),
        ({"devices": (GPU,)}, "cuda:0", [Level.OK]),
        ({"devices": (GPU,)}, "cuda:1", [Level.OK, Level.FAIL]),
        ({"devices": (DeviceFacts("Old", 0, 0, "no kernel image"),)}, "auto", [Level.FAIL]),
    ],
)
def test_devices_are_what_torch_can_use_of_what_is_there(monkeypatch, build, device, expected):
    values = {"version": "2.13.0", "backend": "cpu", "devices": (), "num_threads": 2, "unused": ""} | build
    monkeypatch.setattr("model.torch_build.inspect_torch", lambda: TorchBuild(**values))
    torch, *devices = check_torch(Settings(device=device))
    assert torch.level is Level.OK
    assert [finding.level for finding in devices] == expected
    assert all(finding.name == "device" for finding in devices)


def test_the_build_that_is_installed_can_be_looked_at():
    from model.torch_build import inspect_torch

    assert inspect_torch().version


def test_weights_are_sound_missing_or_not_the_published_ones(tmp_path, monkeypatch):
    findings = list(check_models(Settings(models="demo-dist,nitro-e-512", models_dir=tmp_path)))
    assert levels(findings)[:2] == [("model", Level.OK), ("model", Level.FAIL)]
    assert "emmdit models fetch nitro-e-512" in findings[1].remedy
    monkeypatch.setattr(part_checks, "KNOWN_SHA256", {"transformer.safetensors": "0" * 64})
    monkeypatch.setattr(part_checks, "available_memory_bytes", lambda: 1000)
    found, memory = check_models(Settings(models="demo-dist"))
    assert found.level is Level.FAIL
    assert "is not the published file" in found.found
    assert (memory.name, memory.level) == ("memory", Level.WARN)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/1", "redis://host:6379/1"),
        ("rediss://ada:geheim@host:6380", "rediss://ada:***@host:6380"),
        ("redis://:geheim@host", "redis://:***@host"),
        ("redis://host?password=geheim", "redis://host?***"),
        ("redis://[::1:geheim@", "an address that cannot be read"),
    ],
)
def test_no_password_is_shown(url, shown):
    assert masked(url) == shown


def test_a_word_list_is_counted_and_a_broken_one_is_a_fault(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("gore\nblack metal\n")
    assert list(check_content_filter(Settings())) == []
    (finding,) = check_content_filter(Settings(blocked_words_file=path))
    assert finding.level is Level.OK
    assert "2 words" in finding.found
    path.write_text("")
    assert levels(check_content_filter(Settings(blocked_words_file=path))) == [("content filter", Level.FAIL)]


@pytest.mark.parametrize(("days", "level"), [((-1, 90), Level.OK), ((-1, 20), Level.WARN), ((-2, -1), Level.FAIL)])
def test_a_certificate_is_tried_and_its_end_is_announced(tmp_path, days, level):
    assert list(check_provenance(Settings())) == []
    (finding,) = check_provenance(Settings(**make_signing_files(tmp_path, days=days).settings))
    assert (finding.name, finding.level) == ("provenance", level)
