"""The description of the interface and the page that is made of it: complete, true, and its examples run."""

import contextlib
import gc
import html
import io
import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import jsonschema
import pytest

from service.gateway.app import ROUTERS
from service.gateway.health import router as health_router
from service.gateway.openapi.document import Document
from service.gateway.openapi.examples import ADDRESS, CURL, PYTHON
from service.gateway.openapi.faults import EXAMPLE_ID
from service.gateway.openapi.operations import OPERATIONS
from service.gateway.reference import POLICY, render_page
from service.gateway.validation import Validator
from service.settings import Settings
from tests.gateway.harness import card_named
from tests.support.curl import parse_curl

NOT_DESCRIBED = {"/", "/docs", "/openapi.json", "/page/{name}"}
EXAMPLES = [(operation, one) for operation in OPERATIONS for one in operation.examples]
VOID = {"meta", "link", "img", "br"}


def document_of(*cards, **settings):
    return Document(Validator({card.name: card for card in cards}, Settings(**settings))).body


def request_schema(document, name="GenerateRequest"):
    return document["components"]["schemas"][name]


def is_allowed(schema, **fields):
    return jsonschema.Draft202012Validator(schema).is_valid({"prompt": "a red apple"} | fields)


class Outline(HTMLParser):
    """Tags that open and close as they should; ids, addresses and headings on the way."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def outline(gateway):
    found = Outline()
    found.feed(gateway.client.get("/docs").text)
    return found


def test_every_route_is_described_and_no_other():
    described = {(operation.method.upper(), operation.path) for operation in OPERATIONS}
    routes = {(method, route.path) for router in ROUTERS for route in router.routes for method in route.methods}
    assert described == {(method, path) for method, path in routes if path not in NOT_DESCRIBED}
    assert health_router in ROUTERS


def test_names_of_operations_are_unique_and_links_lead_to_them():
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    for operation in OPERATIONS:
        assert all(link in names for answer in operation.answers.values() for link in answer.links)


def test_every_field_and_parameter_says_what_it_is_for(gateway):
    document = gateway.client.get("/openapi.json").json()
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, one in schema["properties"].items():
            if name.endswith("Request"):
                assert one["description"], (name, field)
    for parameter in document["components"]["parameters"].values():
        assert parameter["description"]
        assert parameter["schema"]


def test_limits_are_those_of_the_settings_and_of_the_model():
    fields = request_schema(document_of(card_named("a"), max_images=3, max_prompt_chars=40))["properties"]
    assert fields["n"]["maximum"] == 3
    assert fields["prompt"]["maxLength"] == 40
    assert fields["size"] == {
        "description": fields["size"]["description"],
        "type": ["string", "null"],
        "enum": ["64x64", "32x48", None],
        "default": "64x64",
    }
    assert (fields["num_inference_steps"]["maximum"], fields["num_inference_steps"]["default"]) == (50, 4)


def test_models_that_differ_are_told_apart():
    small, large = card_named("small"), replace(card_named("large"), sizes=("512x512",), max_steps=80, default_steps=20)
    schema = request_schema(document_of(small, large))
    steps = schema["properties"]["num_inference_steps"]
    assert steps["maximum"] == 80
    assert "default" not in steps
    assert "`small`: an integer from 1 to 50" in steps["description"]
    assert "20 (`large`)" in steps["description"]
    assert is_allowed(schema, model="large", num_inference_steps=80, size="512x512")
    assert is_allowed(schema, model="small", num_inference_steps=50, size=None)
    assert not is_allowed(schema, model="small", num_inference_steps=51)
    assert not is_allowed(schema, num_inference_steps=51), "the default model draws"
    assert not is_allowed(schema, size="512x512")
    assert not is_allowed(schema, model="large", size="64x64")


@pytest.mark.parametrize(
    ("name", "fields", "allowed"),
    [
        ("GenerateRequest", {"output_compression": 80, "output_format": "webp"}, True),
        ("GenerateRequest", {"output_compression": 80}, False),
        ("GenerateRequest", {"prompt": "\u200b \n"}, False),
        ("GenerateRequest", {"prompt": "a\x07"}, False),
        ("GenerateRequest", {"prompt": "日本\n🍎"}, True),
        ("GenerateRequest", {"seed": None, "model": None}, True),
        ("GenerateRequest", {"seed": 2**32}, False),
        ("GenerateRequest", {"colour": "red"}, False),
        ("ImagesRequest", {"output_compression": 100}, True),
        ("ImagesRequest", {"output_compression": 99}, False),
        ("ImagesRequest", {"partial_images": 1}, False),
        ("ImagesRequest", {"partial_images": 1, "stream": True}, True),
        ("ImagesRequest", {"response_format": "url", "stream": True}, False),
        ("ImagesRequest", {"num_inference_steps": 4, "quality": "high"}, False),
        ("ImagesRequest", {"size": "auto", "quality": "hd", "svg": None}, True),
        ("ImagesRequest", {"background": "transparent"}, False),
    ],
)
def test_the_service_agrees_with_what_its_schemas_say_of_a_body(gateway, name, fields, allowed):
    schema = request_schema(gateway.client.get("/openapi.json").json(), name)
    path = {"GenerateRequest": "/v1/generate", "ImagesRequest": "/v1/images/generations"}[name]
    assert is_allowed(schema, **fields) == allowed
    response = gateway.client.post(path, json={"prompt": "a red apple"} | fields)
    assert (response.status_code < 400) == allowed, response.text


@pytest.mark.parametrize(("operation", "example"), EXAMPLES, ids=[f"{o.name}-{e.title}" for o, e in EXAMPLES])
def test_an_example_does_what_it_says(gateway, operation, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job_id = gateway.submit(output_format="jpeg")
    gateway.wait_for_state(job_id, "done")
    source = example.at(ADDRESS, gateway.model).replace(EXAMPLE_ID, job_id)
    assert ADDRESS in source
    source = source.replace(ADDRESS, gateway.base_url)
    if example.language == CURL:
        response = parse_curl(source).send(gateway.client)
        assert response.status_code == example.status, response.text
        assert example.status in operation.answers or example.status in {fault.status for fault in operation.faults}
        return
    assert example.language == PYTHON
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # examples close nothing: they end soon
        names = {}
        exec(compile(source, example.title, "exec"), names)
        if "client" in names:
            names["client"].close()
        names.clear()
        gc.collect()  # now, not in the middle of another test


def test_the_page_holds_all_of_it(gateway):
    page = html.unescape(gateway.client.get("/docs").text)
    document = gateway.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert path in page
            assert operation["summary"] in page
            assert all(sample["source"] in page for sample in operation["x-codeSamples"])
    for schema in document["components"]["schemas"].values():
        assert all(f"<code>{name}</code>" in page for name in schema["properties"])
    for operation in OPERATIONS:
        assert all(f"<code>{fault.code}</code>" in page for fault in operation.faults)


def test_the_page_is_sound_and_leads_nowhere_else(outline):
    assert not outline.open
    assert len(set(outline.ids)) == len(outline.ids)
    assert outline.tags.count("h1") == outline.tags.count("main") == 1
    for link in outline.links:
        assert (
            link[1:] in outline.ids
            if link.startswith("#")
            else link
            in {
                "/",
                "/openapi.json",
                "/page/icon.svg",
                "/page/reference.css",
                "/page/reference.js",
                "/page/theme.css",
            }
        ), link


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_both_come_under_a_strict_policy_and_are_not_sent_twice(gateway, path):
    response = gateway.client.get(path)
    assert response.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert response.headers["cache-control"] == "no-cache"
    again = gateway.client.get(path, headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


def test_nothing_that_an_operator_says_can_break_the_page():
    evil = replace(card_named("<script>alert(1)</script>"), sizes=('64x64"><img src=x>',))
    page = render_page(document_of(evil, public_url="https://a.example/<b>"))
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>/" not in page
    assert re.search(r"&lt;script&gt;", page)
    Outline().feed(page)


def test_a_public_address_is_the_one_in_the_examples():
    document = document_of(card_named("a"), public_url="https://pictures.example/")
    assert document["servers"] == [{"url": "https://pictures.example/"}]
    assert ADDRESS not in json.dumps(document)
    assert "curl -s https://pictures.example/v1/models" in json.dumps(document)
