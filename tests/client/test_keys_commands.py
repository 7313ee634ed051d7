"""`emmdit keys` on a real server: one whose address is given, one that `emmdit serve` runs, one that nobody runs."""

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from service.api_keys import parse_key
from service.cli.app import app
from service.embedded import SERVER_FOLDER, EmbeddedServer, running_url
from service.errors import ConfigurationError

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


@pytest.fixture
def keys(redis_url, monkeypatch):
    """Runs `emmdit keys ...` on the tests' server."""
    monkeypatch.setenv("EMMDIT_REDIS_URL", redis_url)
    return run


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["keys", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def listed(*arguments):
    return [json.loads(line) for line in run("list", "--json", *arguments).stdout.splitlines()]


def test_a_key_is_shown_once_and_listed_without_its_secret(keys):
    created = keys("create", "ada", "--label", "laptop", "--expires-in", "90d")
    key = parse_key(created.stdout.strip())
    assert created.stdout == f"{key.text}\n"  # so that a shell can take it
    assert key.secret not in created.stderr
    table = keys("list").output
    assert key.secret not in table
    assert key.id in table
    (row,) = listed()
    assert (row["id"], row["tenant"], row["label"], row["last_used_on"]) == (key.id, "ada", "laptop", None)
    assert row["expires_at"][:10] > row["created_at"][:10]
    assert json.loads(keys("create", "bob", "--json").stdout).keys() == {"id", "tenant", "key"}
    assert [row["tenant"] for row in listed("--tenant", "bob")] == ["bob"]


def test_a_third_key_is_refused_until_one_is_revoked(keys):
    ids = [parse_key(keys("create", "ada").stdout.strip()).id for _ in range(2)]
    refused = keys("create", "ada", code=1)
    assert "2 are allowed: revoke one first" in refused.stderr
    assert refused.stdout == ""
    assert "revoked, a key of ada" in keys("revoke", ids[0], f"emmdit_{ids[1]}").stdout
    assert keys("list").output == "no keys\n"
    assert f"there is no key {ids[0]}" in keys("revoke", ids[0], code=1).stderr
    keys("create", "ada")


def test_quotas_are_given_changed_shown_and_taken_back(keys, monkeypatch):
    monkeypatch.setenv("EMMDIT_TENANT_MAX_JOBS", "7")
    keys("create", "ada", "--rate-per-min", 60, "--daily-megapixels", "0.5")
    assert listed()[0]["quotas"] == {"rate_per_min": 60, "daily_megapixels": 0.5}
    values = json.loads(keys("quota", "ada", "--burst", 90, "--json").stdout)
    assert values == {
        "max_jobs": 7,
        "max_queued_jobs": 0,
        "rate_per_min": 60,
        "burst": 90,
        "daily_megapixels": 0.5,
    }
    shown = keys("quota", "ada").output
    assert re.search(r"max_jobs +7  of the settings", shown)
    assert re.search(r"burst +90  its own", shown)
    assert re.search(r"max_queued_jobs +no limit", shown)
    assert json.loads(keys("quota", "ada", "--reset", "--json").stdout)["burst"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "anonymous"], "tenant: 'anonymous' is not allowed"),
        (["create", "a b"], "tenant: 'a b' is not allowed"),
        (["create", "ada", "--label", "x" * 65], "label: "),
        (["create", "ada", "--expires-in", "3"], "--expires-in: '3' is not allowed"),
        (["create", "ada", "--expires-in", "0d"], "--expires-in: '0d' is not allowed"),
        (["create", "ada", "--max-jobs", "-1"], "max_jobs: -1 is not allowed"),
        (["quota", "ada", "--burst", "5"], "burst: 5.0 is not allowed"),
        (["quota", "ada", "--reset", "--burst", "5"], "--reset: not together with a quota"),
        (["revoke", "laptop"], "ID: 'laptop' is not allowed"),
    ],
)
def test_what_makes_no_sense_is_named_and_changes_nothing(keys, arguments, words):
    assert words in keys(*arguments, code=2).stderr
    assert listed() == []


def test_a_server_that_does_not_answer_is_another_exit_code(monkeypatch, tmp_path):
    monkeypatch.setenv("EMMDIT_REDIS_URL", f"unix://{tmp_path}/none.sock")
    assert "does not answer" in run("list", code=3).stderr


def test_without_an_address_it_is_the_server_of_emmdit_serve_running_or_not(monkeypatch, tmp_path):
    monkeypatch.delenv("EMMDIT_REDIS_URL", raising=False)
    place = ["--data-dir", tmp_path]
    run("create", "ada", *place)
    assert running_url(tmp_path / SERVER_FOLDER) is None
    with EmbeddedServer(tmp_path / SERVER_FOLDER) as server:
        assert running_url(tmp_path / SERVER_FOLDER) == server.url
        assert [row["tenant"] for row in listed(*place)] == ["ada"]
        run("create", "bob", *place)
    assert [row["tenant"] for row in listed(*place)] == ["ada", "bob"]


def test_a_server_whose_path_is_too_long_for_a_socket_is_found_too(tmp_path):
    folder = tmp_path / ("long" * 30)
    with EmbeddedServer(folder) as server:
        assert not server.url.startswith(f"unix://{folder}")
        assert running_url(folder) == server.url


def test_a_data_directory_that_cannot_be_used_is_said_to_be(monkeypatch, tmp_path):
    monkeypatch.delenv("EMMDIT_REDIS_URL", raising=False)
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["keys", "list", "--data-dir", str(tmp_path / "file")])
    assert isinstance(result.exception, ConfigurationError)


def test_every_command_and_option_that_the_page_names_exists():
    group = get_command(app).commands["keys"]
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    lines = re.findall(r"emmdit keys ([^|\n]*)", shell)
    assert {line.split()[0] for line in lines} == set(group.commands)
    for line in lines:
        known = {option for parameter in group.commands[line.split()[0]].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", line)) <= known, line
