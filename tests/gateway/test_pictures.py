"""Pictures in the format that was asked for: with the request, or when they are fetched."""

import base64
import io
import json
from email import message_from_bytes

import pytest
from PIL import Image


def format_of(data):
    return Image.open(io.BytesIO(data)).format


def refusal(response, status=400):
    assert response.status_code == status, response.text
    return response.json()["error"]


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_a_format_is_named_by_field_or_by_accept(gateway, name):
    body = gateway.generate(output_format=name).json()
    assert body["output_format"] == name
    assert format_of(base64.b64decode(body["data"][0]["b64_json"])) == name.upper()
    fetched = gateway.client.get(body["data"][0]["url"])
    assert (fetched.headers["content-type"], format_of(fetched.content)) == (f"image/{name}", name.upper())
    picture = gateway.generate(headers={"Accept": f"image/{name}"})
    assert (picture.headers["content-type"], format_of(picture.content)) == (f"image/{name}", name.upper())


def test_several_pictures_travel_in_the_format_too(gateway):
    answer = gateway.generate(n=2, headers={"Accept": "image/webp"})
    header = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n"
    parts = message_from_bytes(header + answer.content).get_payload()
    assert [part.get_content_type() for part in parts] == ["image/webp"] * 2
    assert {format_of(part.get_payload(decode=True)) for part in parts} == {"WEBP"}


def test_events_hold_pictures_in_the_format_too(gateway):
    body = {"prompt": "a red apple", "output_format": "webp"}
    answer = gateway.client.post("/v1/generate", json=body, headers={"Accept": "text/event-stream"})
    resumed = gateway.client.get(f"/v1/jobs/{answer.headers['x-job-id']}/events")
    for text in (answer.text, resumed.text):
        block = next(block for block in text.split("\n\n") if "event: image\n" in block)
        data = json.loads(block.partition("data: ")[2])
        assert data["content_type"] == "image/webp"
        assert format_of(base64.b64decode(data["b64_json"])) == "WEBP"
        assert format_of(gateway.client.get(data["url"]).content) == "WEBP"


def test_a_job_remembers_its_format(gateway):
    job_id = gateway.submit(output_format="jpeg", output_compression=40)
    assert gateway.wait_for_state(job_id, "done")["output_format"] == "jpeg"
    assert format_of(gateway.client.get(f"/v1/jobs/{job_id}/images/0").content) == "JPEG"


def test_a_picture_can_be_fetched_in_every_format(gateway):
    path = gateway.generate().json()["data"][0]["url"]
    assert path.endswith("/images/0")
    for name in ("png", "jpeg", "webp"):
        assert format_of(gateway.client.get(path, params={"format": name}).content) == name.upper()
    coarse, fine = (
        gateway.client.get(path, params={"format": "jpeg", "compression": quality}).content for quality in (1, 100)
    )
    assert Image.open(io.BytesIO(coarse)).quantization != Image.open(io.BytesIO(fine)).quantization


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"output_format": "gif"}, "output_format", "'gif' is not allowed; allowed: png, jpeg, webp"),
        ({"output_format": 3}, "output_format", "allowed: png, jpeg, webp"),
        ({"output_compression": 80}, "output_compression", "a png loses nothing"),
        ({"output_format": "png", "output_compression": 100}, "output_compression", "a png loses nothing"),
        ({"output_format": "webp", "output_compression": 101}, "output_compression", "from 0 to 100"),
        ({"output_format": "webp", "output_compression": -1}, "output_compression", "from 0 to 100"),
        ({"output_format": "webp", "output_compression": True}, "output_compression", "from 0 to 100"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(gateway, fields, param, said):
    error = refusal(gateway.generate(**fields))
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert said in error["message"]


def test_a_quality_may_go_with_a_format_that_accept_names(gateway):
    assert gateway.generate(output_compression=5, headers={"Accept": "image/webp"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("format=gif", "invalid_value", "png, jpeg, webp"),
        ("format=", "invalid_value", "png, jpeg, webp"),
        ("compression=5", "invalid_value", "with format jpeg or webp"),
        ("format=png&compression=5", "invalid_value", "with format jpeg or webp"),
        ("format=webp&compression=101", "invalid_value", "from 0 to 100"),
        ("format=webp&compression=-1", "invalid_value", "from 0 to 100"),
        ("format=webp&format=png", "duplicate_field", "twice"),
        (
            "fromat=webp",
            "unknown_field",
            "'fromat' = 'webp' is not a parameter",
        ),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_by_name(gateway, query, code, said):
    path = gateway.generate().json()["data"][0]["url"]
    error = refusal(gateway.client.get(f"{path}?{query}"))
    assert error["code"] == code
    assert said in error["message"]
