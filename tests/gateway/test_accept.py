"""Content negotiation and body parsing, as pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.accept import AnswerForm, MediaType, choose_form, wants_async
from service.gateway.body import parse_json_object
from service.gateway.formats import PictureFormat
from service.gateway.refusals import RequestRefused


@pytest.mark.parametrize(
    ("accept", "num_images", "expected"),
    [
        (None, 1, MediaType.JSON),
        ("", 1, MediaType.JSON),
        ("*/*", 4, MediaType.JSON),
        ("image/png", 1, MediaType.PNG),
        ("IMAGE/PNG", 1, MediaType.PNG),
        ("image/png", 2, MediaType.MULTIPART),
        ("image/png, */*", 1, MediaType.PNG),
        ("image/png;q=0.9, */*", 1, MediaType.JSON),
        ("*/*;q=0.1, image/*;q=0.2", 1, MediaType.PNG),
        ("application/*, image/*", 1, MediaType.JSON),
        ("image/png;q=0, */*", 1, MediaType.JSON),
        ("application/json;q=0, */*", 1, MediaType.PNG),
        ("image/png; charset=x; q=0.3, application/json;q=0.2", 1, MediaType.PNG),
        ("multipart/*", 1, MediaType.MULTIPART),
        ("text/event-stream", 2, MediaType.EVENTS),
        ("nonsense, image/png", 1, MediaType.PNG),
        ("image/webp", 1, MediaType.WEBP),
        ("image/webp, image/jpeg;q=0.9", 1, MediaType.WEBP),
        ("image/avif, image/jpeg", 1, MediaType.JPEG),
    ],
)
def test_the_best_offer_wins(accept, num_images, expected):
    assert choose_form(accept, num_images).media_type is expected


@pytest.mark.parametrize(
    ("accept", "num_images", "wanted", "expected"),
    [
        (None, 1, "webp", (MediaType.JSON, "webp")),
        ("application/json", 1, "jpeg", (MediaType.JSON, "jpeg")),
        ("image/*", 1, "webp", (MediaType.WEBP, "webp")),
        ("image/png, image/webp", 1, "webp", (MediaType.WEBP, "webp")),
        ("image/png, */*", 1, "jpeg", (MediaType.JSON, "jpeg")),
        ("image/jpeg", 3, "jpeg", (MediaType.MULTIPART, "jpeg")),
        ("image/jpeg", 3, None, (MediaType.MULTIPART, "jpeg")),
        ("multipart/mixed", 3, "webp", (MediaType.MULTIPART, "webp")),
        ("multipart/mixed", 3, None, (MediaType.MULTIPART, "png")),
        (None, 1, None, (MediaType.JSON, "png")),
    ],
)
def test_the_field_names_the_format_and_the_header_the_form(accept, num_images, wanted, expected):
    media_type, name = expected
    assert choose_form(accept, num_images, wanted) == AnswerForm(media_type, PictureFormat(name))


def test_a_header_that_contradicts_the_field_is_refused_with_both():
    with pytest.raises(RequestRefused, match=r"image/png.*output_format 'webp'.*image/webp") as caught:
        choose_form("image/png", 1, "webp")
    assert caught.value.status == 406


@pytest.mark.parametrize("accept", ["text/html", "image/avif", "image/png;q=x", "image/png;q=nan", "png", ";"])
def test_what_cannot_be_served_is_406(accept):
    with pytest.raises(RequestRefused) as caught:
        choose_form(accept, 1)
    assert caught.value.status == 406


def refusal_of(function, *arguments):
    """The refusal that the call ends with, None if it returns."""
    try:
        function(*arguments)
    except RequestRefused as refusal:
        return refusal
    return None


@given(st.binary(max_size=60))
def test_no_accept_header_breaks_the_parser(accept):
    refusal = refusal_of(choose_form, accept.decode("latin-1"), 1)
    assert refusal is None or refusal.status == 406


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        (None, False),
        ("", False),
        ("respond-async", True),
        ("wait=10, Respond-Async", True),
        ("respond-async; foo=bar", True),
        ("respond-asynchronously", False),
        ("return=minimal", False),
    ],
)
def test_prefer_is_read_by_token(prefer, expected):
    assert wants_async(prefer) is expected


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_400(raw):
    refusal = refusal_of(parse_json_object, raw)
    assert refusal is None or (refusal.status == 400 and refusal.message.isprintable())
