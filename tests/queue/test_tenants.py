"""API keys and tenants' own quotas, on a real server."""

import hashlib

import pytest

from service.api_keys import ApiKey, id_in, new_key, parse_key, without_keys
from service.errors import InvalidValue, TooManyKeys
from service.keys import TenantKeys
from service.queue_server import QueueServer
from service.tenants import Tenants
from tests.support.server import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def tenants(redis_url, anyio_backend):
    tenants = Tenants(QueueServer.connect(redis_url))
    yield tenants
    await tenants.close()


def test_a_key_is_read_as_it_was_written_and_nothing_else_is_one():
    key = new_key()
    assert parse_key(key.text) == key
    assert len(key.secret) == 43  # 256 bits
    assert key.secret not in repr(key)
    for text in ("", "unused", key.id, key.text[:-1], key.text + "a", key.text.upper(), f" {key.text}", "sk-123"):
        assert parse_key(text) is None
    for text in (key.id, f"emmdit_{key.id}", key.text):
        assert id_in(text) == key.id
    assert id_in("emmdit_../..") is None


def test_a_text_loses_the_secrets_of_keys_and_of_pieces_of_keys():
    key = new_key()
    text = without_keys(f"a {key.text} b {key.text[:40]} c emmdit_model demo.v1")
    assert key.secret[:10] not in text
    assert text == f"a emmdit_{key.id}.*** b emmdit_{key.id}.*** c emmdit_model demo.v1"


async def test_a_key_is_found_by_its_id_and_only_its_secrets_digest_is_stored(tenants, raw):
    key = await tenants.create("ada", label="laptop")
    known = await tenants.find(key.id)
    assert (known.record.tenant, known.record.label, known.left_s) == ("ada", "laptop", float("inf"))
    assert known.record.digest == hashlib.sha256(key.secret.encode()).hexdigest()
    for name in await raw.keys("*"):
        kind = await raw.type(name)
        values = await raw.hgetall(name) if kind == "hash" else await raw.zrange(name, 0, -1)
        assert key.secret not in str(values) + name


async def test_an_unknown_id_finds_a_stand_in_that_no_secret_fits(tenants):
    known = await tenants.find("0" * 16)
    assert len(known.record.digest) == 64
    assert known.record.digest not in {ApiKey("0" * 16, secret).digest for secret in ("", "-", "0" * 43)}


async def test_a_tenant_has_two_keys_at_most_and_a_revoked_one_makes_room(tenants):
    first, second = [await tenants.create("ada") for _ in range(2)]
    with pytest.raises(TooManyKeys, match="2 active keys"):
        await tenants.create("ada")
    await tenants.create("bob")
    assert (await tenants.revoke(first.id)).tenant == "ada"
    assert await tenants.revoke(first.id) is None
    third = await tenants.create("ada")
    assert {one.id for one in await tenants.all_keys() if one.record.tenant == "ada"} == {second.id, third.id}
    assert (await tenants.find(first.id)).record.tenant != "ada"


async def test_a_key_that_expires_holds_no_more_and_makes_room(tenants):
    short = await tenants.create("ada", expires_in_s=1)
    await tenants.create("ada")

    async def is_over():
        return (await tenants.find(short.id)).left_s <= 0

    await eventually(is_over)
    assert sorted(one.left_s > 0 for one in await tenants.all_keys()) == [False, True]
    await tenants.create("ada")
    assert len(await tenants.all_keys()) == 2


async def test_the_day_of_a_keys_last_use_is_kept(tenants):
    key = await tenants.create("ada")
    known = await tenants.find(key.id)
    assert known.last_used_day is None
    await tenants.note_use(known)
    assert (await tenants.find(key.id)).last_used_day == known.today > 20_000


async def test_a_tenants_own_quotas_come_with_its_keys(tenants):
    key = await tenants.create("ada")
    await tenants.set_quotas("ada", {"max_jobs": 3})
    assert (await tenants.find(key.id)).quotas == await tenants.quotas_of("ada") == {"max_jobs": 3}
    await tenants.set_quotas("ada", {})
    assert (await tenants.find(key.id)).quotas == {}


@pytest.mark.parametrize("tenant", ["", "anonymous", "a b", "a/b", "a:b", "-a", "a" * 65, "ä", "a\n"])
async def test_names_that_could_be_mistaken_are_refused(tenants, tenant):
    with pytest.raises(InvalidValue, match="tenant"):
        await tenants.create(tenant)


def test_no_model_can_have_the_tenants_hash_tag():
    assert "{:" in TenantKeys.api_keys
    assert TenantKeys.usage("ada") != TenantKeys.reserved("ada") != TenantKeys.keys_of("ada")
