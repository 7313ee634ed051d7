from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.queue_server import QueueServer
from service.redis_address import Kind, completed_url, hash_tag, parse_address

SECRET = "swordfish"


@pytest.mark.parametrize(
    ("url", "kind", "has_tls"),
    [
        ("redis://host:6379/0", Kind.SERVER, False),
        ("rediss://ada:pw@host", Kind.SERVER, True),
        ("unix:///run/redis.sock", Kind.SERVER, False),
        ("redis+sentinel://a,b/main", Kind.SENTINELS, False),
        ("rediss+sentinel://a,b/main", Kind.SENTINELS, True),
        ("redis+cluster://a", Kind.CLUSTER, False),
        ("rediss+cluster://a", Kind.CLUSTER, True),
    ],
)
def test_a_url_says_what_stands_at_its_address(url, kind, has_tls):
    address = parse_address(url)
    assert (address.kind, address.has_tls) == (kind, has_tls)


def test_a_sentinel_url_has_hosts_a_service_a_user_a_database_and_what_the_sentinels_ask_for():
    address = parse_address(
        "rediss+sentinel://ada:p%40ss@one:1,two,[::1]:3/main?db=2&sentinel_password=s%2F&ssl_ca_certs=/ca.crt"
    )
    assert address.hosts == (("one", 1), ("two", 26379), ("::1", 3))
    assert (address.service, address.database) == ("main", 2)
    assert address.options == {"username": "ada", "password": "p@ss", "ssl_ca_certs": "/ca.crt"}
    assert address.asking == {"password": "s/"}


def test_a_cluster_url_has_hosts_and_a_user():
    address = parse_address("redis+cluster://:pw@one,two:7001")
    assert address.hosts == (("one", 6379), ("two", 7001))
    assert address.options == {"password": "pw"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://ada:{SECRET}@host", "redis+sentinel://"),
        (f"redis+sentinel://ada:{SECRET}@host", "names its service"),
        (f"redis+sentinel://ada:{SECRET}@host/a/b", "names its service"),
        (f"redis+sentinel://ada:{SECRET}@host/main?db=x", "db (a number)"),
        (f"redis+sentinel://ada:{SECRET}@host/main?colour={SECRET}", "takes only these"),
        (f"redis+sentinel://ada:{SECRET}@host:x/main", "host:port"),
        (f"redis+cluster://ada:{SECRET}@a,,b", "host:port"),
        (f"redis+cluster://ada:{SECRET}@a/1", "no path"),
        (f"redis+cluster://ada:{SECRET}@a?db=1", "no path"),
        (f"redis://ada:{SECRET}@host:x", "cannot read it"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_its_password(url, words):
    with pytest.raises(ConfigurationError) as refusal:
        QueueServer.connect(url)
    assert words in refusal.value.message
    assert SECRET not in refusal.value.message


def test_passwords_and_files_that_were_given_beside_the_url_are_put_into_it():
    url = completed_url(
        "rediss://ada@host:1/0?x=1", password="p@/s", ca_file=Path("/a b/ca"), cert_file=Path("/c"), key_file=Path("/k")
    )
    assert url == "rediss://ada:p%40%2Fs@host:1/0?x=1&ssl_ca_certs=%2Fa+b%2Fca&ssl_certfile=%2Fc&ssl_keyfile=%2Fk"
    nothing = {"password": None, "ca_file": None, "cert_file": None, "key_file": None}
    for same in ("redis://host", "unix:///run/redis.sock?db=1", "redis+sentinel://a,b:1/main?db=2"):
        assert completed_url(same, **nothing) == same
    assert completed_url("redis+cluster://a,b", **nothing | {"password": "x"}) == "redis+cluster://:x@a,b"
    assert completed_url("unix:///run/s", **nothing | {"password": "x"}) == "unix://:x@/run/s"


@pytest.mark.parametrize(
    ("url", "given", "words"),
    [
        (f"redis://:{SECRET}@host", {"password": SECRET}, "given twice"),
        ("redis://host", {"ca_file": Path("/ca")}, "need TLS"),
        ("rediss://host", {"cert_file": Path("/c")}, "go together"),
    ],
)
def test_what_does_not_go_together_is_refused(url, given, words):
    nothing = {"password": None, "ca_file": None, "cert_file": None, "key_file": None}
    with pytest.raises(ConfigurationError, match=words) as refusal:
        completed_url(url, **nothing | given)
    assert SECRET not in refusal.value.message


@pytest.mark.parametrize(
    ("key", "tag"), [("a{b}c", "b"), (b"emmdit:{m}:{n}", "m"), ("ab", "ab"), ("a{}b", "a{}b"), ("a{b", "a{b"), ("", "")]
)
def test_a_cluster_reads_the_first_tag_of_a_key(key, tag):
    assert hash_tag(key) == tag
