"""Which Redis or Valkey the queue is on, read from one URL. Pure.

redis:// and unix:// name one server, redis+sentinel:// the Sentinels that know its address, redis+cluster:// some nodes
of a Cluster; rediss instead of redis speaks TLS. No message here quotes a URL: it may hold a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from service.errors import ConfigurationError

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
ALLOWED_SCHEMES = "redis://, redis+sentinel:// or redis+cluster://, the same with rediss for TLS, or unix://"
REDIS_PORT = 6379
SENTINEL_PORT = 26379
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


class Kind(Enum):
    """What stands at the address."""

    SERVER = auto()
    SENTINELS = auto()
    CLUSTER = auto()


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`url` is for the client library where one SERVER is named; the rest is for the other kinds.

    `options` are the library's own, user and password among them; `asking` those for the Sentinels themselves.
    """

    kind: Kind
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    has_tls: bool = False
    database: int = 0
    options: dict[str, str] = field(default_factory=dict, repr=False)
    asking: dict[str, str] = field(default_factory=dict, repr=False)


def parse_address(url: str) -> RedisAddress:
    """Raises ConfigurationError, which says what is missing, for a URL that cannot be used."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if parts.scheme not in SCHEMES:
            raise ConfigurationError(f"not a Redis URL: give {ALLOWED_SCHEMES}, and an address")
        has_tls = scheme == "rediss"
        if not kind:
            return RedisAddress(Kind.SERVER, url, has_tls=has_tls, options=_credentials(parts.netloc))
        hosts = _hosts(parts.netloc, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT)
    except ValueError:
        raise ConfigurationError("not a Redis URL: its hosts are written host:port, with commas between them") from None
    query = dict(parse_qsl(parts.query))
    options = _credentials(parts.netloc) | {name: query.pop(name) for name in _TLS_FILES if name in query}
    if kind == "cluster":
        if query or parts.path.strip("/"):
            raise ConfigurationError(
                f"redis+cluster:// takes no path (a Cluster has the database 0 alone) and only {', '.join(_TLS_FILES)}"
            )
        return RedisAddress(Kind.CLUSTER, url, hosts, has_tls=has_tls, options=options)
    service = unquote(parts.path.strip("/"))
    if not service or "/" in service:
        raise ConfigurationError("redis+sentinel:// names its service in the path: redis+sentinel://host,host/mymaster")
    asking = {name.removeprefix("sentinel_"): query.pop(name) for name in _SENTINEL_OPTIONS if name in query}
    database = query.pop("db", "0")
    if query or not database.isdecimal():
        allowed = ", ".join(("db (a number)", *_SENTINEL_OPTIONS, *_TLS_FILES))
        raise ConfigurationError(f"redis+sentinel:// takes only these after the question mark: {allowed}")
    return RedisAddress(Kind.SENTINELS, url, hosts, service, has_tls, int(database), options, asking)


def completed_url(
    url: str, *, password: str | None, ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> str:
    """The URL with what was given beside it. Raises ConfigurationError where that does not go together."""
    address = parse_address(url)
    parts = urlsplit(url)
    netloc = parts.netloc
    if password:
        if "password" in address.options:
            raise ConfigurationError("the password of Redis is given twice: in redis_url and as redis_password")
        user, _, hosts = netloc.rpartition("@")
        netloc = f"{user.rstrip(':')}:{quote(password, safe='')}@{hosts}"
    given = zip(_TLS_FILES, (ca_file, cert_file, key_file), strict=True)
    files = {name: str(path) for name, path in given if path is not None}
    if files and not address.has_tls:
        raise ConfigurationError("redis_ca_file, redis_cert_file and redis_key_file need TLS: a redis_url with rediss")
    if (cert_file is None) != (key_file is None):
        raise ConfigurationError("redis_cert_file and redis_key_file go together: one of them is missing")
    query = "&".join(filter(None, (parts.query, urlencode(files))))
    return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{query}" if query else "")


def hash_tag(key: str | bytes) -> str:
    """What a Cluster chooses a key's node by."""
    text = key.decode() if isinstance(key, bytes) else key
    start = text.find("{")
    end = text.find("}", start + 1)
    return text[start + 1 : end] if 0 <= start < end - 1 else text


def _credentials(netloc: str) -> dict[str, str]:
    user, has_password, password = netloc.rpartition("@")[0].partition(":")
    found = {"username": unquote(user)} if user else {}
    return found | ({"password": unquote(password)} if has_password and password else {})


def _hosts(netloc: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in netloc.rpartition("@")[2].split(","):
        place = urlsplit(f"//{part}")
        if not place.hostname:
            raise ValueError("a host is missing")
        hosts.append((place.hostname, place.port or default_port))
    return tuple(hosts)
