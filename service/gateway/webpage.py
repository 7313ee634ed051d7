"""The web page at `/` and the files that it consists of: hand-written, served as they lie in `page/`, nothing built.

Owns which files a browser can have (a sorted list, read once at start) and the one policy that lets scripts and
styles of our own run. Everything else about the page is in the files themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.gateway.refusals import RequestRefused, shorten

FILES: Mapping[str, str] = {
    "api.js": "text/javascript",
    "events.js": "text/javascript",
    "figure.js": "text/javascript",
    "follow.js": "text/javascript",
    "form.js": "text/javascript",
    "gallery.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "index.html": "text/html",
    "jobs.js": "text/javascript",
    "main.js": "text/javascript",
    "memory.js": "text/javascript",
    "notices.js": "text/javascript",
    "recipe.js": "text/javascript",
    "reference.css": "text/css",
    "reference.js": "text/javascript",
    "status.js": "text/javascript",
    "store.js": "text/javascript",
    "style.css": "text/css",
    "theme.css": "text/css",
    "viewer.js": "text/javascript",
    "words.js": "text/javascript",
}
# No inline script or style, nothing of another host; data: and blob: are the pictures, which come in events.
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "object-src 'none'"
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    content_type: str
    etag: str
    policy: str = POLICY

    @classmethod
    def of(cls, content: bytes, kind: str, policy: str = POLICY) -> PageFile:
        """A text in UTF-8."""
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, f"{kind}; charset=utf-8", etag, policy)


def read_files() -> dict[str, PageFile]:
    """Every file of the page by name. A missing one is an error now, not when a browser asks."""
    folder = resources.files(__package__).joinpath("page")
    return {name: PageFile.of(folder.joinpath(name).read_bytes(), kind) for name, kind in FILES.items()}


router = APIRouter()
_files = read_files()


@router.get("/")
async def index(request: Request) -> Response:
    """The page."""
    return answer(request, _files["index.html"])


@router.get("/page/{name}")
async def page_file(request: Request, name: str) -> Response:
    """A script, the style sheet or the icon."""
    if name not in _files:
        raise RequestRefused(404, "not_found", f"no file {shorten(name)} of the page; allowed: {', '.join(_files)}")
    return answer(request, _files[name])


def answer(request: Request, file: PageFile) -> Response:
    """The file, or 304 where the browser has it already: it asks each time, so that an update is seen at once."""
    headers = {"ETag": file.etag, "Cache-Control": "no-cache", "Content-Security-Policy": file.policy}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers | {"Content-Type": file.content_type})
