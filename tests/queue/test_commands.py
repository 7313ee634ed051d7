"""Rule 10: only commands that Redis has had since 6.2, and Valkey; and a user who may call those and no other."""

import re
from pathlib import Path

import pytest
from redis import Redis

from service.keys import LINK_SECRET, QueueKeys
from service.redis_address import hash_tag
from service.scripts import load_scripts

SERVICE = Path(__file__).parents[2] / "service"
USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
OLDEST = (6, 2)
CALL = re.compile(r"\b(?:_?commands|blocking|pipe|client|_subscription)\.([a-z]+)\(")
# Methods of the client library that are no commands, and what subscribing sends.
NO_COMMANDS = {"pipeline", "execute", "aclose", "pubsub", "get_message", "items"}
OF_THE_LIBRARY = {"evalsha", "eval", "select", "unsubscribe", "cluster|slots"}  # sent for us, or by another name


def commands_of_scripts():
    texts = [script.text for script in load_scripts().values()]
    return {name.lower() for text in texts for name in re.findall(r"redis\.p?call\(\s*'([^']+)'", text)}


def commands_of_python():
    found = {name for path in SERVICE.glob("*.py") for name in CALL.findall(path.read_text("utf-8"))}
    return found - NO_COMMANDS


def allowed_commands():
    [line] = [line for line in USERS.read_text("utf-8").splitlines() if line.startswith("user emmdit ")]
    return {word.removeprefix("+") for word in line.split() if word.startswith("+")}


def test_the_documented_user_may_call_what_is_called_and_nothing_else():
    assert allowed_commands() == commands_of_scripts() | commands_of_python() | OF_THE_LIBRARY


def test_every_command_is_as_old_as_the_oldest_server(embedded_server):
    names = {name.partition("|")[0] for name in allowed_commands()}
    with Redis.from_url(embedded_server.url, decode_responses=True) as client:
        if int(client.info("server")["redis_version"].split(".")[0]) < 7:
            pytest.skip("a server before Redis 7 does not tell how old its commands are; it has no newer ones")
        documents = client.execute_command("COMMAND DOCS", *names)
    pairs = documents.items() if isinstance(documents, dict) else zip(documents[::2], documents[1::2], strict=True)
    since = {
        name.lower(): dict(facts if isinstance(facts, dict) else zip(facts[::2], facts[1::2], strict=True))["since"]
        for name, facts in pairs
    }
    assert set(since) == names
    assert {name for name, version in since.items() if tuple(map(int, version.split(".")[:2])) > OLDEST} == set()


@pytest.mark.parametrize("path", [*(SERVICE / "scripts").glob("*.lua")], ids=lambda path: path.stem)
def test_no_script_uses_an_option_that_came_later_or_a_key_that_was_not_declared(path):
    text = path.read_text("utf-8")
    assert not re.search(r"'P?EXPIRE(AT)?'[^\n]*'(NX|XX|GT|LT)'", text), "Redis 7"
    assert not re.search(r"redis\.call\('[A-Z]+',\s*'emmdit", text)
    assert "#!" not in text, "flags of scripts: Redis 7"


def test_on_a_cluster_every_key_of_a_model_has_its_tag_and_all_others_have_the_services():
    keys = QueueKeys("demo-1.5")
    names = [value for value in vars(keys).values() if isinstance(value, str) and value.startswith("emmdit:")]
    names += [key.decode() for key in keys.shared]
    names += [keys.job("1"), keys.events("1"), keys.inbox("a{b}"), keys.owner_jobs("{x}"), keys.idempotency("f")]
    assert {hash_tag(name) for name in names} == {"demo-1.5"}
    assert hash_tag(LINK_SECRET) == "service"
