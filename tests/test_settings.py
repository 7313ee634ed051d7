"""Settings: read once, checked at once, documented by themselves."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import ConfigurationError
from service.settings import Settings, load_settings, settings_environment
from service.settings_page import settings_page

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("EMMDIT_"):
            monkeypatch.delenv(name)


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == settings_page(), "run: python -m service.settings_page > docs/settings.md"


def test_every_setting_is_described():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default(monkeypatch):
    assert load_settings().port == 8000
    monkeypatch.setenv("EMMDIT_PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings(port=9001, host=None).port == 9001
    assert load_settings(host=None).host == "127.0.0.1"


def test_paths_know_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_settings().models_dir == Path("/home/ada/.cache/emmdit/models")
    assert load_settings(data_dir="~/x").data_dir == Path("/home/ada/x")


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        load_settings().port = 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EMMDIT_PROT", "did you mean EMMDIT_PORT?"),
        ("EMMDIT_MODEL", "did you mean EMMDIT_MODELS?"),
        ("EMMDIT_MAX_BATCH_ROW", "did you mean EMMDIT_MAX_BATCH_ROWS?"),
        ("EMMDIT_SERVICE_HOST", "enableServiceLinks: false"),
        ("EMMDIT_PORT_8000_TCP", "enableServiceLinks: false"),
    ],
)
def test_an_unknown_variable_is_refused_with_a_hint(monkeypatch, name, hint):
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert name in caught.value.message
    assert hint in caught.value.message


def test_an_unknown_flag_is_refused_with_a_hint():
    with pytest.raises(ConfigurationError, match="unknown setting prot; did you mean port"):
        load_settings(prot=1)


@pytest.mark.parametrize(
    ("flags", "pieces"),
    [
        ({"port": "x"}, ["port: 'x'", "integer"]),
        ({"port": 70000}, ["port: 70000", "65535"]),
        ({"dtype": "fp8"}, ["dtype: 'fp8'", "bfloat16"]),
        ({"device": "tpu"}, ["device: 'tpu'", "cuda"]),
        ({"lease_s": "inf"}, ["lease_s: 'inf'", "finite"]),
        ({"lease_s": "nan"}, ["lease_s: 'nan'"]),
        ({"max_images": 0}, ["max_images: 0", "greater than or equal to 1"]),
        ({"heartbeat_s": 9}, ["heartbeat_s (9)", "lease_s (15)"]),
        ({"default_timeout_s": 5000}, ["default_timeout_s (5000)", "max_timeout_s"]),
        ({"metadata": "some"}, ["metadata: 'some'", "minimal"]),
        ({"url_ttl_s": 4000}, ["url_ttl_s (4000)", "result_ttl_s (3600)"]),
        ({"url_secret": "short"}, ["url_secret: its value", "32"]),
        ({"public_url": "pictures.example"}, ["public_url: 'pictures.example'", "https?"]),
        ({"public_url": "https://pictures.example?a=b"}, ["public_url"]),
    ],
)
def test_an_impossible_value_is_refused_by_name(flags, pieces):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**flags)
    for piece in pieces:
        assert piece in caught.value.message


def test_a_variables_value_is_named_like_a_flags(monkeypatch):
    monkeypatch.setenv("EMMDIT_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ConfigurationError, match=r"EMMDIT_PORT: 'tcp://10\.0\.0\.1:8000' is not allowed"):
        load_settings()


def test_a_password_is_never_shown(monkeypatch):
    assert "swordfish" not in repr(load_settings(redis_url="redis://:swordfish@host"))
    monkeypatch.setenv("EMMDIT_REDIS_URL", "http://:swordfish@host")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "swordfish" not in caught.value.message
    assert "redis://" in caught.value.message


@pytest.mark.parametrize(
    "given",
    ["demo, demo-dist ,/models/mine", ["demo", "demo-dist,/models/mine"], ("demo", "demo-dist", "/models/mine")],
)
def test_several_models_are_named_with_commas_or_one_by_one(given, monkeypatch):
    settings = load_settings(models=given)
    assert settings.models == ("demo", "demo-dist", "/models/mine")
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


@pytest.mark.parametrize(
    ("given", "said"), [("demo,other,demo", "demo is named twice"), ("demo,", "a name is missing"), ("", "missing")]
)
def test_a_list_of_models_that_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        load_settings(models=given)
    assert f"models: {given!r}" in caught.value.message


def test_a_secret_may_lie_in_a_file_and_a_variable_wins(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("swordfish\n")
    monkeypatch.setenv("EMMDIT_REDIS_URL", "redis://ada@host")
    monkeypatch.setenv("EMMDIT_REDIS_PASSWORD_FILE", str(file))
    settings = load_settings()
    assert settings.queue_url() == "redis://ada:swordfish@host"
    assert "swordfish" not in repr(settings)
    monkeypatch.setenv("EMMDIT_REDIS_PASSWORD", "other")
    assert load_settings().queue_url() == "redis://ada:other@host"


def test_a_secrets_file_that_cannot_be_read_is_named_and_so_is_an_unknown_one(monkeypatch, tmp_path):
    monkeypatch.setenv("EMMDIT_URL_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"EMMDIT_URL_SECRET_FILE: cannot read '.*none': No such file"):
        load_settings()
    monkeypatch.delenv("EMMDIT_URL_SECRET_FILE")
    monkeypatch.setenv("EMMDIT_PORT_FILE", "/port")
    with pytest.raises(ConfigurationError, match="unknown environment variable EMMDIT_PORT_FILE"):
        load_settings()


def test_what_belongs_to_redis_needs_its_address_and_files_must_be_there(tmp_path):
    with pytest.raises(ConfigurationError, match="redis_password is for the Redis of redis_url"):
        load_settings(redis_password="swordfish")
    settings = load_settings(redis_url="rediss://host", redis_ca_file=tmp_path / "none.crt")
    with pytest.raises(ConfigurationError, match="redis_ca_file: there is no file"):
        settings.queue_url()
    (tmp_path / "ca.crt").touch()
    settings = load_settings(redis_url="rediss://host", redis_ca_file=tmp_path / "ca.crt")
    assert settings.queue_url() == f"rediss://host?ssl_ca_certs={str(tmp_path).replace('/', '%2F')}%2Fca.crt"
    assert load_settings().queue_url() is None
