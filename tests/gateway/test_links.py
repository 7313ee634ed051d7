"""Signed links: the picture for whoever has one, until it expires, and nothing else for anybody."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from service.gateway.formats import Encoding, PictureFormat
from service.gateway.signing import signed_url
from service.jobs import new_job_id
from service.settings import load_settings


class Asked:
    """As much of a request as a link is made from."""

    base_url = "http://asked.example:8000/"


def link(gateway, job_id=None, encoding=None):
    job_id = job_id or gateway.generate().json()["id"]
    path = f"/v1/jobs/{job_id}/images/0"
    return gateway.call(signed_url(Asked(), gateway.gateway, path, encoding or Encoding()))


def fetch(gateway, url, **changes):
    """What the gateway says to this link, with parameters changed (None: left out)."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | changes
    return gateway.client.get(parts.path, params={name: value for name, value in query.items() if value is not None})


def code_of(response):
    return response.status_code, response.json()["error"]["code"], response.json()["error"]["type"]


INVALID = (403, "link_invalid", "permission_error")
EXPIRED = (403, "link_expired", "permission_error")


def test_a_link_brings_the_picture_in_its_format(gateway):
    for name in ("png", "webp"):
        response = fetch(gateway, link(gateway, encoding=Encoding.of(PictureFormat(name))))
        assert response.status_code == 200
        assert response.headers["content-type"] == f"image/{name}"


def test_a_link_needs_no_owner(gateway):
    url = link(gateway)
    with gateway.as_somebody_else():
        assert fetch(gateway, url).status_code == 200
        assert gateway.client.get(urlsplit(url).path).status_code == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": "0" * 64},
        {"signature": ""},
        {"signature": "é"},
        {"signature": None},
        {"expires": "9999999999"},
        {"expires": "soon"},
        {"expires": None},
        {"format": "jpeg"},
        {"format": None},
        {"compression": "5"},
    ],
)
def test_a_link_that_was_changed_is_403(gateway, changes):
    assert code_of(fetch(gateway, link(gateway), **changes)) == INVALID


def test_a_link_is_good_for_its_own_picture_only(gateway):
    url = link(gateway)
    other = gateway.generate().json()["data"][0]["url"]
    assert code_of(gateway.client.get(f"{other}?{urlsplit(url).query}")) == INVALID
    assert code_of(fetch(gateway, url.replace("/images/0", "/images/1"))) == INVALID


def test_a_link_expires(gateway, monkeypatch):
    url = link(gateway)
    expires = int(dict(parse_qsl(urlsplit(url).query))["expires"])
    monkeypatch.setattr("service.gateway.signing.time.time", lambda: expires - 1)
    assert fetch(gateway, url).status_code == 200
    monkeypatch.setattr("service.gateway.signing.time.time", lambda: expires + 1)
    assert code_of(fetch(gateway, url)) == EXPIRED
    assert code_of(fetch(gateway, url, expires=str(expires + 60))) == INVALID


def test_a_link_to_no_job_is_404_after_its_signature(gateway):
    assert fetch(gateway, link(gateway, job_id=new_job_id())).status_code == 404


def test_gateways_share_a_secret_that_one_of_them_made(gateway, start_gateway):
    # Another model's gateway, and so another job: what counts is that it takes the signature for its own.
    url = link(gateway, job_id=new_job_id())
    with start_gateway() as other:
        assert fetch(other, url).json()["error"]["code"] == "job_not_found"
        assert code_of(fetch(other, url, expires="1")) == INVALID


def test_a_secret_of_the_operators_counts_instead(gateway, start_gateway):
    url = link(gateway)
    with start_gateway(url_secret="s" * 32) as other:
        assert code_of(fetch(other, url)) == INVALID
        assert fetch(other, link(other)).status_code == 200


@pytest.mark.parametrize(
    ("public_url", "beginning"),
    [
        (None, "http://asked.example:8000/v1/jobs/"),
        ("https://pictures.example/ai/", "https://pictures.example/ai/v1/jobs/"),
    ],
)
def test_a_link_begins_with_the_public_address(start_gateway, public_url, beginning):
    with start_gateway(public_url=public_url) as gateway:
        url = link(gateway)
        assert url.startswith(beginning)
        ours = url.replace("/ai/", "/")  # what a proxy in front of the service takes away
        assert fetch(gateway, ours).status_code == 200


def test_the_lifetime_is_a_setting(start_gateway):
    with start_gateway(url_ttl_s=10) as gateway:
        expires = int(dict(parse_qsl(urlsplit(link(gateway)).query))["expires"])
        created = gateway.job(gateway.submit())["created"]
        assert abs(expires - created - 10) < 5


def test_a_secret_is_never_shown():
    assert "s" * 32 not in repr(load_settings(url_secret="s" * 32))
