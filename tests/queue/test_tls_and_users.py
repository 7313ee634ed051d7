"""TLS, certificates on both sides, users with few rights. TLS on Debian's Redis: the embedded server has none."""

import pytest

from service.errors import ConfigurationError, ServerOverloaded
from service.queue import JobQueue
from service.queue_types import QueueLimits
from service.redis_address import completed_url
from tests.support.redis_servers import (
    HOST,
    ClusterOfThree,
    Sentinels,
    ServerProcess,
    debian_server,
    make_certificates,
    running,
)
from tests.support.server import DONE, MODEL, SERVICE_PASSWORD, USERS, make_job

pytestmark = pytest.mark.anyio
TLS = pytest.mark.system
UNNAMED_HOST = "127.0.0.2"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(certificates, tmp_path_factory):
    """It lets nobody in whose certificate its authority has not signed. Its own does not name its second address."""
    options = [f"bind {HOST} {UNNAMED_HOST}", "tls-auth-clients yes"]
    folder = tmp_path_factory.mktemp("tls")
    with running(ServerProcess(folder, options, binary=debian_server(), certificates=certificates)) as (server,):
        yield server


def url_of(server, certificates, *, scheme="rediss", host="localhost", ca="ca.crt", client="client", password=None):
    return completed_url(
        f"{scheme}://{host}:{server.port}",
        password=password,
        ca_file=certificates / ca if ca else None,
        cert_file=certificates / f"{client}.crt" if client else None,
        key_file=certificates / f"{client}.key" if client else None,
    )


async def draw_one(url):
    queue = JobQueue.connect(url, model=MODEL, limits=QueueLimits())
    try:
        job = make_job()
        await queue.submit(job)
        await queue.wait_for_work(1.0)
        [claimed] = await queue.claim("w1", 1, 1, True)
        assert await queue.finish(claimed.id, claimed.attempt, DONE)
        assert (await queue.status(job.id, "ada")).result == DONE
    finally:
        await queue.close()


@TLS
@pytest.mark.parametrize("host", ["localhost", HOST])
async def test_both_sides_trust_each_others_certificates(tls_server, certificates, host):
    await draw_one(url_of(tls_server, certificates, host=host))


@TLS
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": None}, "cannot be trusted"),
        ({"ca": "client.crt"}, "cannot be trusted"),
        ({"host": UNNAMED_HOST}, "cannot be trusted"),
    ],
    ids=["no authority", "the wrong authority", "another host's certificate"],
)
async def test_a_certificate_that_proves_nothing_is_a_configuration_error(tls_server, certificates, changes, words):
    with pytest.raises(ConfigurationError, match=words):
        await draw_one(url_of(tls_server, certificates, **changes))


@TLS
async def test_without_a_certificate_nobody_is_let_in(tls_server, certificates):
    """TLS 1.3 refuses after the handshake: the reason may or may not arrive before the end of the connection."""
    with pytest.raises((ConfigurationError, ServerOverloaded), match=r"refuses this client's certificate|not answer"):
        await draw_one(url_of(tls_server, certificates, client=None))


@TLS
@pytest.mark.e2e
@pytest.mark.parametrize("kind", [Sentinels, ClusterOfThree])
async def test_sentinels_and_clusters_may_speak_tls(certificates, tmp_path, kind):
    with kind(tmp_path, debian_server(), certificates).running() as servers:
        nothing = {"password": None, "cert_file": certificates / "client.crt", "key_file": certificates / "client.key"}
        await draw_one(completed_url(servers.url, ca_file=certificates / "ca.crt", **nothing))
        with pytest.raises(ConfigurationError, match="cannot be trusted"):
            await draw_one(completed_url(servers.url, ca_file=None, **nothing))


@pytest.fixture
def server_with_users(tmp_path):
    """The documented file of users, with a password of its own. The default user is off."""
    users = tmp_path / "users.acl"
    users.write_text(USERS.read_text("utf-8").replace(">change-this-password", f">{SERVICE_PASSWORD}"), "utf-8")
    with running(
        ServerProcess(tmp_path / "server", [f"aclfile {users}"]), username="emmdit", password=SERVICE_PASSWORD
    ) as (server,):
        yield server


async def test_the_documented_user_does_all_work(server_with_users):
    await draw_one(f"redis://emmdit:{SERVICE_PASSWORD}@{HOST}:{server_with_users.port}")


@pytest.mark.parametrize("user", ["", "emmdit:not-the-password@", "ada:not-the-password@"])
async def test_a_wrong_user_or_password_is_a_configuration_error_without_it(server_with_users, user):
    with pytest.raises(ConfigurationError, match="user or password") as refusal:
        await draw_one(f"redis://{user}{HOST}:{server_with_users.port}")
    assert "not-the-password" not in refusal.value.message


@pytest.mark.parametrize("missing", ["-zadd", "-evalsha", "-info", "-blpop", "resetkeys"])
async def test_a_right_that_is_missing_is_named(tmp_path, missing):
    users = tmp_path / "users.acl"
    [line] = [line for line in USERS.read_text("utf-8").splitlines() if line.startswith("user emmdit ")]
    users.write_text(line.replace(">change-this-password", f">{SERVICE_PASSWORD}") + f" {missing}\n", "utf-8")
    options = {"username": "emmdit", "password": SERVICE_PASSWORD}
    with (
        running(ServerProcess(tmp_path / "server", [f"aclfile {users}"]), **options) as (server,),
        pytest.raises(ConfigurationError, match="does not let this user") as refusal,
    ):
        await draw_one(f"redis://emmdit:{SERVICE_PASSWORD}@{HOST}:{server.port}")
    # Redis 6.2 does not say which command of a script it was.
    assert any(words in refusal.value.message for words in (missing.removeprefix("-"), "this command", "a key", "keys"))
    assert SERVICE_PASSWORD not in refusal.value.message
