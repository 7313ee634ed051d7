"""What strangers' bytes reach, each as a function that takes bytes and raises AssertionError, or anything else
unforeseen, where something is wrong. Needs no fuzzer: the corpus is replayed with the other tests.
"""

import io
import json
import math
import re
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
from PIL import Image
from starlette.requests import Request

from model.params import GenerationParams
from service.client.errors import ApiError
from service.client.events import EventParser, typed
from service.errors import EmmditError
from service.gateway import pictures, signing, sse
from service.gateway.accept import MediaType, choose_form, wants_async
from service.gateway.body import parse_json_object
from service.gateway.envelope import _REQUEST_ID
from service.gateway.events import LAST_EVENT_PATTERN
from service.gateway.feed import _order
from service.gateway.formats import Encoding
from service.gateway.idempotency import key_of
from service.gateway.multipart import _framed
from service.gateway.openai_request import read_order
from service.gateway.query import read_flags, read_index, read_query
from service.gateway.rendering import clean_headers
from service.gateway.responses import error_response
from service.gateway.schemas import GenerateRequest
from service.gateway.validation import Validator
from service.job_events import decode_event
from service.jobs import decode_job, decode_result, encode_job, encode_result
from service.png import encode_png, png_text
from service.settings import Settings
from tests.fuzz.connection import serve
from tests.gateway.harness import card_named

SETTINGS = Settings(url_secret="s" * 32)
VALIDATOR = Validator({"painter": card_named("painter"), "etcher": card_named("etcher")}, SETTINGS)
GATEWAY = SimpleNamespace(settings=SETTINGS)
PIXELS = np.zeros((2, 3, 3), np.uint8)
PATH = f"/v1/jobs/{'0' * 32}/images/0"


def body(data):
    """Body -> fields -> checked request -> job, for both kinds of request."""
    with _refusals():
        fields = parse_json_object(data)
        with _refusals():
            job = VALIDATOR.to_job(VALIDATOR.parse(fields), owner="ada", inbox="gateway-1")
            assert 0 < job.timeout_s <= SETTINGS.max_timeout_s
            assert 1 <= job.num_images <= SETTINGS.max_images
            assert 1 <= len(job.params.prompt) <= SETTINGS.max_prompt_chars
            assert math.isfinite(job.params.guidance_scale)
            assert decode_job(encode_job(job), job.attempt, job.time_left_s) == job
        with _refusals():
            VALIDATOR.to_job(read_order(fields, VALIDATOR).generate, owner="ada", inbox="gateway-1")


def connection(data):
    """Bytes on a socket. The first says in how large pieces the rest comes."""
    if data and b"HEAD" not in data:  # whose answers say a length and have no body
        answers = serve(data[1:], piece_bytes=1 + data[0] ** 2 // 16)
        for status, headers, content in answers:
            assert headers[b"x-content-type-options"] == b"nosniff"
            assert headers[b"x-request-id"]
            if status >= 400:
                _check_error(content)


def png(data):
    """Text of clients in a picture's metadata comes out as it went in, and the picture can be read."""
    prompt, _, negative = data.decode("utf-8", "replace").partition("\n")
    params = GenerationParams(prompt, 3, 2, 4, 2.5, 7, negative_prompt=negative)
    text = png_text(params, model="painter", model_version="v1", prompt=prompt, mode="full")
    image = Image.open(io.BytesIO(encode_png(PIXELS, text)))
    image.load()
    assert (image.text["Prompt"], image.text["Negative-Prompt"]) == (prompt, negative)
    assert set(image.text) == set(text)


def events(data):
    """A stream of events as the client reads it, in one piece and byte by byte; and what was written is read again."""
    whole, pieces = [], []
    parser = EventParser()
    whole += list(parser.feed(data))
    parser = EventParser()
    for number in range(len(data)):
        pieces += list(parser.feed(data[number : number + 1]))
    assert whole == pieces
    for event in whole:
        with suppress(ApiError):
            typed(event)
    text = json.dumps(data.decode("utf-8", "replace"))
    (event,) = EventParser().feed(sse.sse_event(text, name="preview", event_id="1-0"))
    assert (event.name, event.data, event.id) == ("preview", text, "1-0")


def event_id(data):
    """A Last-Event-ID that passes can be put in order, and written into an answer."""
    given = data.decode("latin-1")
    if re.fullmatch(LAST_EVENT_PATTERN, given):
        assert given.isascii()
        assert "\n" not in given
        if given != "end":
            assert _order(given) >= (0, 0)


def stored(data):
    """What lies in Redis is read whole or refused with ValueError: jobs, results, events."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        job = decode_job(text)
        assert decode_job(encode_job(job)) == job
    with suppress(ValueError):
        result = decode_result(text)
        assert decode_result(encode_result(result)) == result
    for kind in ("preview", "partial", "drawn", "another"):
        with suppress(ValueError):
            decode_event(kind, text)


def multipart(data):
    """No value of a client's or a model's starts a header or a part of its own."""
    values = data.decode("latin-1").split("\x00", 2)
    headers = clean_headers({f"X-{number}": value for number, value in enumerate(values)})
    part = _framed(data, "b" * 32, headers)
    head, _, rest = part.partition(b"\r\n\r\n")
    assert len(head.split(b"\r\n")) == 2 + len(values)
    assert rest == data + b"\r\n"
    assert all(line.isascii() for line in head.split(b"\r\n"))


def headers(data):
    """Accept, Prefer, Idempotency-Key and X-Request-ID, a line each."""
    accept, prefer, key, request_id = (data.split(b"\n", 3) + [b""] * 4)[:4]
    for num_images, wanted in ((1, None), (3, None), (1, "jpeg")):
        with _refusals():
            form = choose_form(accept.decode("latin-1"), num_images, wanted)
            assert form.media_type in MediaType
    wants_async(prefer.decode("latin-1"))
    with _refusals():
        asked = GenerateRequest(prompt="a red apple")
        found = key_of(_request(headers=[(b"idempotency-key", key)]), "ada", asked)
        assert found is not None
        assert re.fullmatch("[0-9a-f]{64}", found.digest)
        other = key_of(_request(headers=[(b"idempotency-key", key)]), "bob", asked)
        assert other is not None
        assert other.digest != found.digest
    if _REQUEST_ID.fullmatch(request_id.decode("latin-1")):
        assert request_id.decode("ascii").isprintable()


def link(data):
    """Queries of links to pictures: what was not signed here is refused, and nothing else than refused."""
    request = _request(query=data)
    for read in (lambda: read_flags(request, "pictures", "previews"), lambda: read_index(request)):
        with _refusals():
            read()
    with _refusals():
        query = read_query(request, pictures.QUERY)
        with _refusals():
            pictures._encoding(query, SimpleNamespace(output_format="png", output_compression=None))
        signed = {"format": "png", "expires": "99999999999"}
        signed["signature"] = signing._signature("s" * 32, PATH, signed)
        try:
            _run(signing.check_signature(GATEWAY, PATH, signed | query))
        except EmmditError as error:
            _check_error(error_response(error, "id").body)
        else:
            assert signed | query == signed
        _run(signing.signed_url(_request(headers=[(b"host", data[:100])]), GATEWAY, PATH, Encoding()))


TARGETS = {
    target.__name__: target for target in (body, connection, png, events, event_id, stored, multipart, headers, link)
}


class _refusals(suppress):  # noqa: N801 (reads like suppress)
    """Suppresses what clients are refused with, after a look at how it would be told."""

    def __init__(self):
        super().__init__(EmmditError)

    def __exit__(self, kind, error, traceback):
        if isinstance(error, EmmditError):
            response = error_response(error, "id")
            assert 400 <= response.status_code < 500, error
            _check_error(response.body)
        return super().__exit__(kind, error, traceback)


def _check_error(content):
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].isprintable(), error
    assert len(error["message"]) < 1000, error


def _request(query=b"", headers=()):
    scope = {
        "type": "http",
        "method": "GET",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": query,
        "headers": [(b"host", b"x"), *headers],
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "root_path": "",
    }
    return Request(scope)


def _run(coroutine):
    """The outcome of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")
