"""Which form of answer the client wants: the Accept and Prefer headers (RFC 9110, 12.5.1; RFC 7240). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.gateway.formats import PictureFormat
from service.gateway.refusals import RequestRefused, shorten


class MediaType(StrEnum):
    """What POST /v1/generate can answer with, the preferred one first.

    JSON comes first because it is what `*/*` (curl, most libraries) gets: effective values, warnings and errors then
    have one form, and a terminal is not flooded with binary. A picture is asked for by name.
    """

    JSON = "application/json"
    PNG = "image/png"
    MULTIPART = "multipart/mixed"
    JPEG = "image/jpeg"
    WEBP = "image/webp"
    EVENTS = "text/event-stream"


_FORMATS = {PictureFormat(offer.value.removeprefix("image/")): offer for offer in MediaType if "image/" in offer}


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What is sent, and how the pictures in it are written."""

    media_type: MediaType
    format: PictureFormat


def choose_form(accept: str | None, num_images: int, wanted: str | None = None) -> AnswerForm:
    """The offered type with the highest q; among equals the one named most precisely, then JSON.

    A format that the body wants (`output_format`) leaves only its own picture type on offer, so that the header and
    the field cannot disagree unnoticed. Without one the header names it, or it is PNG. Several pictures travel as
    multipart/mixed. Raises RequestRefused (406) where nothing fits.
    """
    picture = _FORMATS[PictureFormat(wanted or PictureFormat.PNG)]
    if accept is None or not accept.strip():
        return AnswerForm(MediaType.JSON, _format_of(picture))
    offers = [offer for offer in MediaType if wanted is None or offer is picture or offer not in _FORMATS.values()]
    ranges = [entry for part in accept.split(",") if (entry := _parse_range(part)) is not None]
    scored = [(*_quality(offer, ranges), offer) for offer in offers]
    quality, _, best = max(scored, key=lambda item: item[:2])  # max keeps the first of equals
    if quality <= 0:
        asked = f"Accept: {shorten(accept)}" + (f" with output_format {wanted!r}" if wanted else "")
        raise RequestRefused(406, "not_acceptable", f"{asked} cannot be served; allowed: {', '.join(offers)}")
    if best not in _FORMATS.values():
        return AnswerForm(best, _format_of(picture))
    return AnswerForm(MediaType.MULTIPART if num_images > 1 else best, _format_of(best))


def wants_async(prefer: str | None) -> bool:
    """Whether the Prefer header holds `respond-async`."""
    tokens = (part.split(";")[0].strip().lower() for part in (prefer or "").split(","))
    return "respond-async" in tokens


def _format_of(offer: MediaType) -> PictureFormat:
    return PictureFormat(offer.value.removeprefix("image/"))


def _parse_range(part: str) -> tuple[str, float] | None:
    """`image/png;q=0.5` -> ("image/png", 0.5). None for what is no media range; a broken q counts as 0."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    if name.count("/") != 1:
        return None
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
            if not 0 <= quality <= 1:  # NaN too
                quality = 0.0
    return name, quality


def _quality(offer: MediaType, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """(q, precision) of the most precise range that covers `offer`; (0, 0) if none does."""
    wildcard = offer.split("/")[0] + "/*"
    for precision, name in ((2, offer.value), (1, wildcard), (0, "*/*")):
        found = [quality for candidate, quality in ranges if candidate == name]
        if found:
            return max(found), precision
    return 0.0, 0
