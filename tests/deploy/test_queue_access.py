"""Who may do what in the Valkey of compose file and chart, tried on a real one with the rules that they write."""

import socket
import subprocess
import time
from contextlib import closing

import pytest
import yaml
from redis import Redis
from redis.exceptions import ConnectionError as NotThere
from redis.exceptions import NoPermissionError

from service.embedded import find_server_binary
from service.jobs import JobState
from service.queue import JobQueue
from service.queue_types import QueueLimits
from tests.deploy.support import ROOT
from tests.support.server import DONE, MODEL, make_job, make_worker


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Port and password of a server that runs with the compose file's own command."""
    folder = tmp_path_factory.mktemp("guarded")
    subprocess.run([ROOT / "deploy" / "make-secrets.sh", folder / "secrets"], check=True, capture_output=True)
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["valkey"]
    command = [part.replace("/run/secrets/", f"{folder}/secrets/") for part in service["command"][1:]]
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        port = held.getsockname()[1]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [find_server_binary(), *command, f"--port {port}", "--bind 127.0.0.1"], cwd=folder, stdout=log, stderr=log
        )
    try:
        wait_for_ping(port, folder / "log")
        yield port, (folder / "secrets" / "redis_password").read_text("utf-8")
    finally:
        server.terminate()
        server.wait(30)


def wait_for_ping(port, log, timeout_s=30):
    give_up_at_s = time.monotonic() + timeout_s
    while True:
        try:
            with Redis(port=port) as client:  # as the health check of the container: without a password
                assert client.ping()
            return
        except NotThere:
            assert time.monotonic() < give_up_at_s, log.read_text("utf-8")
            time.sleep(0.05)


@pytest.mark.anyio
async def test_a_job_goes_from_its_client_to_its_end_under_the_services_user(guarded):
    port, password = guarded
    url = f"redis://emmdit:{password}@127.0.0.1:{port}/0"
    queue = JobQueue.connect(url, model=MODEL, limits=QueueLimits(capacity=10))
    try:
        job = make_job()
        await queue.submit(job)
        await queue.heartbeat(make_worker(), [])
        (claimed,) = await queue.claim("w1", 8, 8, True)
        assert await queue.finish(claimed.id, claimed.attempt, DONE)
        await queue.reap()
        assert (await queue.stats()).num_waiting == 0
        assert (await queue.status(job.id, job.owner)).state is JobState.DONE
    finally:
        await queue.close()


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET maxmemory", "KEYS *", "SHUTDOWN NOSAVE", "ACL LIST"])
def test_the_services_user_does_not_administer_the_server(guarded, command):
    port, password = guarded
    with Redis(port=port, username="emmdit", password=password) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


@pytest.mark.parametrize("command", ["GET x", "INFO", "EVAL return 0", "CONFIG GET maxmemory", "ACL LIST"])
def test_without_a_password_one_can_only_ask_whether_it_is_there(guarded, command):
    port, _ = guarded
    with Redis(port=port) as client:
        assert client.ping()
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())
