"""Signed pictures: every one that is sent, valid, untouched in what it shows, and nothing of it without the option."""

import base64
import io
import json
import logging
import time
from email import message_from_bytes

import numpy as np
import pytest
from PIL import Image

from service.errors import EmmditError
from service.gateway.formats import Encoding, PictureFormat, encode_one
from service.gateway.provenance import PictureSigner, manifest_of, read_identity, signer_of
from service.job_events import Partial
from service.marks import TRAINED_ALGORITHMIC_MEDIA
from service.png import encode_png
from service.settings import Settings
from tests.gateway.harness import running_gateway, wait_until
from tests.support.certificates import is_signed, make_signing_files, verdict

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
TEXT = {"Software": "emmdit 1", "Model": "demo", "Model-Version": "3", "Seed": "7"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_signing_files(tmp_path_factory.mktemp("signing") / "files")


@pytest.fixture(scope="module")
def signer(files):
    return signer_of(Settings(**files.settings))


@pytest.fixture(scope="module")
def signing(embedded_server, tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(embedded_server.url, folder, "signing-painter", **files.settings) as harness:
        yield harness


def action_of(picture):
    state, manifest = verdict(picture)
    assert state == "Valid"
    (actions,) = [entry for entry in manifest["assertions"] if entry["label"].startswith("c2pa.actions")]
    (action,) = actions["data"]["actions"]
    return action


def pixels_of(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


@pytest.mark.parametrize("kind", PictureFormat)
def test_a_signed_picture_is_valid_and_shows_the_same(signer, files, kind):
    png = encode_png(PIXELS, TEXT)
    signed, plain = encode_one(png, Encoding.of(kind), signer), encode_one(png, Encoding.of(kind))
    assert verdict(signed, files.root)[0] == "Trusted"
    np.testing.assert_array_equal(pixels_of(signed), pixels_of(plain))
    action = action_of(signed)
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == TRAINED_ALGORITHMIC_MEDIA
    assert action["softwareAgent"] == {"name": "demo", "version": "3"}
    assert action["parameters"] == TEXT
    assert verdict(signed)[1]["claim_generator_info"][0]["name"] == "emmdit"
    assert not is_signed(plain)


def test_a_signed_png_keeps_its_text(signer):
    signed = encode_one(encode_png(PIXELS, TEXT), Encoding(), signer)
    assert Image.open(io.BytesIO(signed)).text == TEXT


@pytest.mark.parametrize("kind", PictureFormat)
def test_one_altered_byte_of_the_picture_is_noticed(signer, kind):
    signed = bytearray(encode_one(encode_png(PIXELS, TEXT), Encoding.of(kind), signer))
    start = {"png": b"IDAT", "jpeg": b"\xff\xda", "webp": b"VP8 "}[kind]
    signed[signed.rindex(start) + 60] ^= 1
    assert verdict(bytes(signed))[0] == "Invalid"


def test_a_signature_put_on_another_picture_is_noticed(signer):
    signed = encode_one(encode_png(PIXELS, TEXT), Encoding(), signer)
    other = encode_one(encode_png(255 - PIXELS, TEXT), Encoding(), signer)
    forged = signed[: signed.index(b"IDAT") - 4] + other[other.index(b"IDAT") - 4 :]
    assert verdict(forged)[0] == "Invalid"


def test_a_picture_that_says_nothing_of_itself_is_signed_as_made_by_a_machine_all_the_same(signer):
    action = action_of(encode_one(encode_png(PIXELS, {}), Encoding(), signer))
    assert action["digitalSourceType"] == TRAINED_ALGORITHMIC_MEDIA
    assert action["softwareAgent"]["name"] == "emmdit"
    assert "parameters" not in action


def test_the_prompt_is_signed_only_where_the_picture_has_it():
    def parameters(text):
        return manifest_of(text)["assertions"][0]["data"]["actions"][0]["parameters"]

    assert parameters(TEXT | {"Prompt": "a red apple"})["Prompt"] == "a red apple"
    assert "Prompt" not in parameters(TEXT)


def test_two_signatures_of_one_picture_are_two_files(signer):
    png = encode_png(PIXELS, TEXT)
    assert encode_one(png, Encoding(), signer) != encode_one(png, Encoding(), signer)


def sse_data(response, name):
    blocks = [block.split("\n") for block in response.text.replace("\r\n", "\n").split("\n\n")]
    found = [block for block in blocks if f"event: {name}" in block]
    return [json.loads(next(line for line in block if line.startswith("data:"))[5:]) for block in found]


def decoded(items):
    return [base64.b64decode(item["b64_json"]) for item in items]


def by_json(gateway, kind):
    return decoded(gateway.generate(n=2, output_format=kind).json()["data"])


def by_itself(gateway, kind):
    return [gateway.generate(headers={"Accept": f"image/{kind}"}).content]


def by_multipart(gateway, kind):
    response = gateway.generate(n=2, output_format=kind, headers={"Accept": "multipart/mixed"})
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + response.content).get_payload()
    return [part.get_payload(decode=True) for part in parts]


def by_events(gateway, kind):
    response = gateway.generate(n=2, output_format=kind, headers={"Accept": "text/event-stream"})
    return decoded(sse_data(response, "image"))


def by_openai(gateway, kind):
    body = {"prompt": "a red apple", "n": 2, "output_format": kind}
    return decoded(gateway.client.post("/v1/images/generations", json=body).json()["data"])


def by_openai_stream(gateway, kind):
    body = {"prompt": "a red apple", "n": 2, "output_format": kind, "stream": True}
    response = gateway.client.post("/v1/images/generations", json=body)
    return decoded(sse_data(response, "image_generation.completed"))


def by_link(gateway, kind):
    body = {"prompt": "a red apple", "output_format": kind, "response_format": "url"}
    answer = gateway.client.post("/v1/images/generations", json=body).json()
    return [gateway.client.get(answer["data"][0]["url"]).content]


def by_job(gateway, kind):
    job_id = gateway.submit(output_format=kind)
    gateway.wait_for_state(job_id, "done")
    response = gateway.client.get(f"/v1/jobs/{job_id}/images/0")
    assert response.headers["X-Provenance"] == gateway.gateway.provenance
    return [response.content]


WAYS = [by_json, by_itself, by_multipart, by_events, by_openai, by_openai_stream, by_link, by_job]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_way_a_picture_leaves_it_is_signed(signing, way, kind):
    pictures = way(signing, kind)
    assert pictures
    for picture in pictures:
        assert action_of(picture)["softwareAgent"]["name"] == "signing-painter"
        assert Image.open(io.BytesIO(picture)).format == kind.upper()


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/generate", {}, {"Accept": "text/event-stream"}),
        ("/v1/images/generations", {"stream": True, "output_format": "webp"}, {}),
    ],
    ids=["native", "openai"],
)
def test_a_picture_half_drawn_is_signed_too(start_gateway, files, path, body, headers):
    body = {"prompt": "a red apple", "partial_images": 1} | body
    with start_gateway(**files.settings) as gateway:
        gateway.worker.is_holding = True
        with gateway.client.stream("POST", path, json=body, headers=headers) as response:
            wait_until(lambda: gateway.worker.held)
            (job,) = gateway.worker.held.values()
            image = gateway.worker._draw(job).images[0]
            assert gateway.call(gateway.queue.events.report(job.id, 1, 2, [Partial(0, 0, 2, 4, image)]))
            wait_until(lambda: gateway.value("time_to_first_preview_seconds_count"))
            gateway.worker.is_holding = False
            text = "".join(response.iter_text())
    shown = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:") and "partial_image" in line]
    partial = next(event for event in shown if "partial_image_index" in event)
    assert is_signed(base64.b64decode(partial["b64_json"]))


def test_the_picture_that_a_live_view_ends_with_is_signed(signing):
    job_id = signing.submit()
    signing.wait_for_state(job_id, "done")
    response = signing.client.get(f"/v1/jobs/{job_id}/live")
    assert response.headers["X-Provenance"] == "c2pa"
    png = response.content[response.content.index(b"\x89PNG") :]
    assert is_signed(png[: png.index(b"IEND") + 8])


def test_a_repetition_is_the_same_picture_signed_anew(signing):
    headers = {"Idempotency-Key": "twice", "Accept": "image/png"}
    first, second = (signing.generate(headers=headers).content for _ in range(2))
    assert first != second
    np.testing.assert_array_equal(pixels_of(first), pixels_of(second))
    assert is_signed(second)


def test_signatures_show_themselves(signing):
    answer = signing.generate()
    assert answer.headers["X-Provenance"] == "c2pa"
    assert answer.json()["provenance"] == "c2pa"
    assert signing.client.get("/v1/models").json()["data"][0]["provenance"] == "c2pa"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_without_the_option_a_picture_is_sent_as_it_is_stored(gateway, way):
    pictures = way(gateway, "png")
    stored = [path.read_bytes() for path in gateway.gateway.settings.data_dir.rglob("*") if path.is_file()]
    assert all(picture in stored for picture in pictures)
    assert gateway.generate().headers["X-Provenance"] == "off"


def test_a_certificate_that_expires_later_stops_pictures_and_tells_why(files, caplog):
    identity = read_identity(files.certificate, files.key, time.time())
    expired = PictureSigner(identity, clock=lambda: identity.expires_at_s)
    with pytest.raises(EmmditError, match="expired"):
        encode_one(encode_png(PIXELS, TEXT), Encoding(), expired)
    assert "certificate has expired" in caplog.text


def test_a_picture_that_cannot_be_signed_is_not_sent(signing, monkeypatch, caplog):
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(signing.gateway.signer, "expires_at_s", 0.0)
    for headers in ({"Accept": "image/png"}, {"Accept": "image/webp"}, {}):
        response = signing.generate(headers=headers)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
    parts = signing.generate(n=2, headers={"Accept": "multipart/mixed"})
    assert b"PNG" not in parts.content
    assert b"internal_error" in parts.content
    events = signing.generate(headers={"Accept": "text/event-stream"})
    assert sse_data(events, "image") == []
    assert sse_data(events, "error")[0]["error"]["code"] == "internal_error"
    assert "certificate has expired" in caplog.text
