"""Content negotiation and body parsing, as pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway.accept import MediaType, choose_media_type, wants_async
from service.gateway.body import parse_json_object
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
    ],
)
def test_the_best_offer_wins(accept, num_images, expected):
    assert choose_media_type(accept, num_images) is expected


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "image/png;q=x", "image/png;q=nan", "png", ";"])
def test_what_cannot_be_served_is_406(accept):
    with pytest.raises(RequestRefused) as caught:
        choose_media_type(accept, 1)
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
    refusal = refusal_of(choose_media_type, accept.decode("latin-1"), 1)
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
