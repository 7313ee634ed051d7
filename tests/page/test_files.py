"""The page's files as the gateway serves them, without a browser."""

import re
from pathlib import Path

import pytest

from service.gateway import webpage
from tests.gateway.conftest import gateway

__all__ = ["gateway"]

FOLDER = Path(webpage.__file__).with_name("page")
TEXTS = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def test_every_file_of_the_page_is_served_and_no_other():
    assert sorted(TEXTS) == sorted(webpage.FILES) == list(webpage.FILES)


@pytest.mark.parametrize("name", webpage.FILES)
def test_a_file_comes_with_its_type_and_a_policy_and_is_asked_for_anew(gateway, name):
    path = "/" if name == "index.html" else f"/page/{name}"
    response = gateway.client.get(path)
    assert response.status_code == 200
    assert response.text == TEXTS[name]
    assert response.headers["content-type"] == f"{webpage.FILES[name]}; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == webpage.POLICY


@pytest.mark.parametrize("mark", ["{}", "W/{}", '"other", {}', "*"])
def test_a_browser_that_has_a_file_is_not_sent_it_again(gateway, mark):
    etag = gateway.client.get("/page/style.css").headers["etag"]
    response = gateway.client.get("/page/style.css", headers={"If-None-Match": mark.format(etag)})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == etag


def test_an_older_file_is_replaced(gateway):
    assert gateway.client.get("/", headers={"If-None-Match": '"old"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "webpage.py", "..%2Fwebpage.py", "%2e%2e/app.py", "style.css%00"])
def test_nothing_else_can_be_had(gateway, name):
    response = gateway.client.get(f"/page/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_the_policy_allows_nothing_inline_and_nothing_of_others():
    assert "unsafe" not in webpage.POLICY
    sources = re.findall(r"(\S+-src) ([^;]+)", webpage.POLICY)
    assert dict(sources) == {"default-src": "'self'", "img-src": "'self' blob: data:", "object-src": "'none'"}
    html = TEXTS["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert not re.search(r"<script(?![^>]*\ssrc=)", html)


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_refers_to_nothing_outside(name):
    text = TEXTS[name].replace(SVG_NAMESPACE, "")
    assert not re.search(r"https?://|[\"'(]//|\bimportScripts|@import|\beval\(", text)
    for path in re.findall(r"(?:src|href)=\"([^\"#]+)\"", text):
        assert path == "/docs" or path.removeprefix("/page/") in TEXTS, path
    for path in re.findall(r"from \"([^\"]+)\"", text):
        assert path.removeprefix("./") in TEXTS, path


def test_no_file_outgrows_the_house():
    for name, text in TEXTS.items():
        assert len(text.splitlines()) <= 300, name
