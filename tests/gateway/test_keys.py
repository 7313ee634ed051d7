"""Who may ask: keys in headers, what is open without one, what happens while Redis is away, and what is never told."""

import asyncio
import itertools
import json
import logging
import time

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from service.api_keys import new_key
from service.embedded import EmbeddedServer
from service.errors import ServerOverloaded
from service.gateway import keyring
from service.gateway.keyring import Keyring
from service.quotas import Quotas
from service.tenants import KeyRecord, KnownKey
from tests.gateway.harness import running_gateway, wait_until

_numbers = itertools.count()
NEEDED = {"require_keys": "always"}
PNG = {"Accept": "image/png"}


def tenant():
    """A name that no other test has."""
    return f"keys-{next(_numbers)}"


@pytest.fixture(scope="module")
def locked(embedded_server, tmp_path_factory):
    """A gateway where everybody needs a key."""
    with running_gateway(embedded_server.url, tmp_path_factory.mktemp("locked"), "locked", **NEEDED) as harness:
        yield harness


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def error_of(response):
    return response.json()["error"]


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_opens_the_door_in_either_header(locked, header):
    key = locked.key_of(tenant())
    value = f"bearer  {key}" if header == "Authorization" else key
    assert locked.generate(headers={header: value} | PNG).status_code == 200
    assert locked.worker.seen[-1].owner.startswith("keys-")


def test_the_openai_sdk_needs_nothing_but_its_api_key(locked):
    with OpenAI(base_url=f"{locked.base_url}/v1", api_key=locked.key_of(tenant()), max_retries=0) as client:
        assert client.images.generate(prompt="a red apple").data[0].b64_json
    with OpenAI(base_url=f"{locked.base_url}/v1", api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(AuthenticationError) as caught:
            client.images.generate(prompt="a red apple")
        assert caught.value.code == "invalid_api_key"


def test_without_a_key_one_is_asked_for(locked):
    for headers in ({}, {"Authorization": "Basic YTpi"}):
        response = locked.generate(headers=headers)
        assert response.status_code == 401
        assert error_of(response)["type"] == "authentication_error"
        assert error_of(response)["code"] == "missing_api_key"
        assert response.headers["www-authenticate"] == 'Bearer realm="emmdit"'
        assert response.headers["x-request-id"]


def test_wrong_keys_are_refused_in_the_same_words_whatever_is_wrong_with_them(locked):
    key = locked.key_of(tenant())
    key_id = key.partition(".")[0]
    revoked = locked.key_of(tenant())
    locked.call(locked.gateway.keyring.tenants.revoke(revoked.removeprefix("emmdit_").partition(".")[0]))
    wrong = [new_key().text, f"{key_id}.{new_key().secret}", revoked, "unused", key[:-1], key + "x", f"{key} {key}"]
    answers = set()
    for text in wrong:
        response = locked.generate(headers=bearer(text))
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="emmdit", error="invalid_token"'
        answers.add(json.dumps(response.json()))
    assert len(answers) == 1
    assert locked.generate(headers=bearer(key) | {"X-API-Key": new_key().text}).status_code == 401  # which one counts?
    assert locked.generate(headers=bearer(key) | {"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize("where", ["?api_key={}", "?key={}", "?access_token={}"])
def test_a_key_in_the_address_is_no_key_and_is_not_repeated(locked, where):
    key = locked.key_of(tenant())
    response = locked.client.get("/v1/jobs" + where.format(key))
    assert response.status_code == 401
    response = locked.client.get("/v1/jobs" + where.format(key), headers=bearer(key))
    assert response.status_code == 400
    assert key.partition(".")[2] not in response.text


def test_refusals_are_counted_by_their_reason(locked):
    before = [locked.value("rejections_total", reason=code) for code in ("missing_api_key", "invalid_api_key")]
    locked.client.get("/v1/models")
    locked.client.get("/v1/models", headers=bearer("x"))
    after = [locked.value("rejections_total", reason=code) for code in ("missing_api_key", "invalid_api_key")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


def test_where_no_key_is_needed_one_counts_all_the_same(gateway):
    assert gateway.generate(headers=bearer("unused") | PNG).status_code == 200
    assert gateway.worker.seen[-1].owner == "anonymous"
    name = tenant()
    assert gateway.generate(headers=bearer(gateway.key_of(name)) | PNG).status_code == 200
    assert gateway.worker.seen[-1].owner == name
    assert gateway.generate(headers=bearer(new_key().text)).status_code == 401  # not quietly somebody else


def test_an_expired_key_is_refused_and_a_revoked_one_within_seconds(locked, monkeypatch):
    monkeypatch.setattr(keyring, "KNOWN_S", 0.2)
    name = tenant()
    tenants = locked.gateway.keyring.tenants
    short = locked.call(tenants.create(name, expires_in_s=1.5))
    other = locked.call(tenants.create(name))
    for key in (short, other):
        assert locked.client.get("/v1/models", headers=bearer(key.text)).status_code == 200
    locked.call(tenants.revoke(other.id))
    for key in (other, short):
        wait_until(lambda key=key: locked.client.get("/v1/models", headers=bearer(key.text)).status_code == 401)


def test_the_day_of_last_use_is_noted(locked):
    name = tenant()
    key = locked.key_of(name)
    locked.client.get("/v1/models", headers=bearer(key))
    (known,) = [one for one in locked.call(locked.gateway.keyring.tenants.all_keys()) if one.record.tenant == name]
    assert known.last_used_day == known.today


def test_while_redis_is_away_known_keys_go_on_and_strangers_stay_outside(tmp_path):
    with (
        EmbeddedServer(tmp_path / "server") as server,
        running_gateway(server.url, tmp_path, "locked", **NEEDED) as gateway,
    ):
        known, unseen = [gateway.key_of(name) for name in ("ada", "bob")]
        assert gateway.client.get("/v1/models", headers=bearer(known)).status_code == 200
        server.close()
        for held in gateway.gateway.keyring._held.values():
            held.fresh_until_s = 0.0
        assert gateway.client.get("/v1/models", headers=bearer(known)).status_code == 200
        for key in (unseen, new_key().text):
            response = gateway.client.get("/v1/models", headers=bearer(key))
            assert response.status_code == 503
            assert response.headers["retry-after"]
        assert gateway.client.get("/v1/models").status_code == 401


class FakeTenants:
    """Counts how often it is asked."""

    def __init__(self, key):
        self.known = KnownKey(key.id, KeyRecord("ada", key.digest, 0), 0, 0, {})
        self.num_asked = 0
        self.is_away = False

    async def find(self, _):
        self.num_asked += 1
        if self.is_away:
            raise ServerOverloaded("away")
        return self.known


def test_the_keyring_asks_once_in_a_while_and_forgets_the_oldest():
    key, clock = new_key(), [100.0]
    tenants = FakeTenants(key)
    ring = Keyring(tenants, Quotas(), now_s=lambda: clock[0])

    async def walk():
        for _ in range(3):
            assert (await ring.caller_with(key)).tenant == "ada"
        assert tenants.num_asked == 1
        clock[0] += keyring.KNOWN_S
        await ring.caller_with(key)
        assert tenants.num_asked == 2
        for _ in range(2):
            assert await ring.caller_with(wrong) is None
        assert tenants.num_asked == 3  # a refusal is remembered too
        for _ in range(keyring.MAX_ENTRIES + 10):
            await ring.caller_with(new_key())
        assert len(ring._refused) == keyring.MAX_ENTRIES
        before = tenants.num_asked
        await ring.caller_with(key)  # those who guess push out nobody who knows
        assert tenants.num_asked == before
        tenants.is_away = True
        clock[0] += keyring.GRACE_S - 1
        assert (await ring.caller_with(key)).tenant == "ada"
        clock[0] += 1
        with pytest.raises(ServerOverloaded):
            await ring.caller_with(key)

    wrong = new_key()
    asyncio.run(walk())


def test_an_unknown_id_and_a_wrong_secret_take_the_same_steps(locked, monkeypatch):
    key = locked.key_of(tenant())
    calls = []
    ring = locked.gateway.keyring
    run = ring.tenants._server.run

    async def noting(name, *arguments):
        calls.append(name)
        return await run(name, *arguments)

    monkeypatch.setattr(ring.tenants._server, "run", noting)
    steps = []
    for text in (new_key().text, f"{key.partition('.')[0]}.{new_key().secret}"):
        calls.clear()
        assert locked.client.get("/v1/models", headers=bearer(text)).status_code == 401
        steps.append([name for name in calls if name == "find_key"])
    assert steps == [["find_key"], ["find_key"]]


@pytest.fixture
def everything_logged(caplog):
    """Every logger at its most talkative, but for the client's own: that is not the service's."""
    for name in ("httpcore", "httpx"):
        caplog.set_level(logging.CRITICAL, logger=name)
    for name in ("", "asyncio", "uvicorn", "service"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def test_a_key_is_never_told_in_a_log_an_error_or_a_metric(start_gateway, everything_logged, monkeypatch):
    """Over every kind of failure: the key in its place, and where it does not belong."""
    with start_gateway(**NEEDED, max_body_bytes=2000) as gateway:
        key, stranger = gateway.key_of(tenant()), new_key().text
        texts = []

        def ask(method, path, **options):
            texts.append(gateway.client.request(method, path, **options).text)

        for text in (key, stranger):
            headers = bearer(text)
            body = {"json": {"prompt": "a red apple"}, "headers": headers}
            ask("POST", "/v1/generate", **body)
            ask("POST", "/v1/generate", json={"prompt": "", "api_key": text, text: 1}, headers=headers)
            ask("POST", "/v1/generate", json={"prompt": 1, "size": text, "seed": text}, headers=headers)
            ask("POST", "/v1/generate", json={"prompt": "x", "model": text}, headers=headers)
            ask("POST", "/v1/generate", content=f'{{"{text}": 1, "{text}": 1}}', headers=headers)
            ask("POST", "/v1/generate", content=text * 100, headers=headers | {"Content-Type": "application/json"})
            ask("POST", "/v1/generate", content="{}", headers=headers | {"Content-Type": text})
            ask("POST", "/v1/generate", json={"prompt": "x"}, headers=headers | {"Accept": text})
            ask("POST", "/v1/generate", json={"prompt": "x"}, headers=headers | {"Idempotency-Key": f"{text} {text}"})
            ask("POST", f"/v1/generate?key={text}", **body)
            ask("POST", "/v1/images/generations", json={"prompt": "x", "quality": text}, headers=headers)
            ask("GET", f"/v1/jobs/{text}", headers=headers)
            ask("GET", f"/v1/jobs?after={text}&limit={text}", headers=headers)
            ask("GET", f"/v1/models/{text}", headers=headers)
            ask("GET", f"/{text}", headers=headers)
            ask("GET", f"/page/{text}", headers=headers)
            ask("DELETE", "/v1/models", headers=headers)
            ask("GET", "/v1/jobs/" + "0" * 32 + "/events", headers=headers | {"Last-Event-ID": text})
            ask("GET", "/v1/models", headers={"Authorization": text})
            ask("GET", "/v1/models", headers={"X-Request-ID": text})
            ask("GET", "/v1/models", headers={"Authorization": f"Basic {text}", "X-API-Key": text[:-1]})
        with monkeypatch.context() as broken:

            async def fail(*_):
                raise RuntimeError("a fault of ours")

            broken.setattr(gateway.gateway.keyring.tenants, "find", fail)
            ask("GET", "/v1/models", headers=bearer(new_key().text))
            assert "internal_error" in texts[-1]
        for _ in range(2):
            texts.append(gateway.client.get("/metrics").text)
            time.sleep(0)
    assert any("unmatched" in text for text in texts)  # the page of metrics is among them
    logged = everything_logged.text
    assert "a fault of ours" in logged
    assert "route=/v1/generate" in logged
    for secret in (key.partition(".")[2], stranger.partition(".")[2]):
        for piece in (secret, secret[:12], secret[-12:]):
            assert piece not in logged
            assert not [text for text in texts if piece in text]


def test_a_service_beyond_loopback_asks_for_keys_by_itself(embedded_server, tmp_path):
    with running_gateway(embedded_server.url, tmp_path, "wide", has_worker=False, host="0.0.0.0") as gateway:
        assert httpx.get(f"{gateway.base_url}/v1/models").status_code == 401
        key = gateway.key_of(tenant())
        assert httpx.get(f"{gateway.base_url}/v1/models", headers=bearer(key)).status_code == 200
