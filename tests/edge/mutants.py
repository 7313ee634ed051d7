"""Valid requests of every route, spoilt: deterministic from a seed."""

import json
import random
from dataclasses import dataclass, field, replace

JSON = ("Content-Type", "application/json")
NASTY_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -0.0, 1e-9, 1e308, float("nan"), float("inf"), "", " ",
    "0", "64x64", "99999x99999", "a" * 3000, "\x00", "\r\n", "\u202e", "\ud83c", "🍎" * 50, "../../etc/passwd",
    "${jndi:ldap://x}", "' OR 1=1 --", "<script>alert(1)</script>", "{{7*7}}", "%s%n", [], {}, [[]], {"a": {"b": []}},
    ["a"] * 300, {"$ne": 1}, "null", "true", "NaN", "high", "png", "url",
)  # fmt: skip
NASTY_TEXTS = (
    "", " ", "\t", "a" * 300, "a" * 5000, "0", "-1", "99999999999999999999", "*/*", ",", ";", "=", '"', "'", "\\",
    "image/png;q=nan", "image/*;q=1e9", "text/event-stream", "respond-async", "gzip", "chunked", "identity",
    "100-continue", "%00", "%0d%0a", "..%2f", "\xff\xfe", "end", "1-1", "0-0", "99999999999999999999-1",
    "application/json; charset=utf-8", "application/json; charset=\"", "Basic YTpi", "Bearer x", "bytes=0-", "true",
)  # fmt: skip
NAMES = (
    "Accept", "Prefer", "Content-Type", "Content-Length", "Transfer-Encoding", "Content-Encoding", "Expect", "Host",
    "Connection", "Idempotency-Key", "Last-Event-ID", "X-Request-ID", "Authorization", "If-None-Match", "Range",
    "Cookie", "X-Forwarded-For", "Forwarded", "Upgrade", "TE", "Trailer", "traceparent", "Origin", "x y", "", "a" * 300,
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "get", "", "A B", "\x00")


@dataclass(frozen=True)
class Valid:
    """One request as it should be. `fields` is the body's."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    fields: dict | None = field(default=None, hash=False)
    version: str = "HTTP/1.1"

    def to_bytes(self, body=None):
        if body is None:
            body = b"" if self.fields is None else json.dumps(self.fields).encode()
        headers = [("Host", "x"), *self.headers, ("Connection", "close")]
        if self.fields is not None:
            headers.append(("Content-Length", str(len(body))))
        lines = [f"{self.method} {self.target} {self.version}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join((*lines, "", "")).encode("latin-1", "replace") + body


def valid_requests(model, job_id, secrets):
    """At least one for each route; `secrets` go where clients put theirs: prompts, keys, queries."""
    prompt, key, query = secrets
    generate = {"prompt": prompt, "negative_prompt": prompt, "model": model, "size": "32x48", "n": 1, "seed": 7}
    generate |= {"num_inference_steps": 2, "guidance_scale": 2.5, "priority": "low", "timeout_s": 5, "previews": True}
    images = {"prompt": prompt, "model": model, "size": "32x48", "n": 1, "quality": "low", "response_format": "url"}
    keyed = (JSON, ("Authorization", f"Bearer {key}"))
    job = f"/v1/jobs/{job_id}"
    get = [
        "/", "/docs", "/openapi.json", "/page/main.js", "/livez", "/readyz", "/startupz", "/metrics", "/v1/models",
        f"/v1/models/{model}", f"/v1/jobs?limit=2&state=done&after={query}", job, f"{job}/images/0",
        f"{job}/images/0?format=jpeg&compression=50",
        f"{job}/images/0?format=png&expires=99999999999&signature={query}",
        f"{job}/live?index=0",
    ]  # fmt: skip
    return [
        *(Valid("GET", target, keyed[1:]) for target in get),
        Valid("GET", f"{job}/events?pictures=false&previews=true", (("Last-Event-ID", "1-0"),)),
        Valid("DELETE", job),
        Valid("POST", "/v1/generate", keyed, generate),
        Valid("POST", "/v1/generate", (*keyed, ("Accept", "image/png")), generate),
        Valid("POST", "/v1/generate", (*keyed, ("Accept", "multipart/mixed")), generate | {"n": 2}),
        Valid("POST", "/v1/generate", (*keyed, ("Accept", "text/event-stream")), generate),
        Valid("POST", "/v1/generate", (*keyed, ("Prefer", "respond-async"), ("Idempotency-Key", key)), generate),
        Valid("POST", "/v1/images/generations", keyed, images),
        Valid("POST", "/v1/images/generations", keyed, images | {"stream": True, "response_format": "b64_json"}),
    ]


def mutants(seed, num, valid):
    """`num` requests as bytes."""
    chance = random.Random(seed)
    for _ in range(num):
        request = chance.choice(valid)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            request = chance.choice((_other_field, _other_header, _other_target, _other_line))(chance, request)
        raw = request.to_bytes()
        yield _other_bytes(chance, raw) if chance.random() < 0.4 else raw


def _other_field(chance, request):
    if not request.fields:
        return _other_target(chance, request)
    fields = dict(request.fields)
    name = chance.choice(list(fields))
    match chance.randrange(4):
        case 0:
            del fields[name]
        case 1:
            fields[chance.choice(("stream", "Prompt", "", "\ud83c", "a" * 500, "__proto__"))] = fields[name]
        case _:
            fields[name] = chance.choice(NASTY_VALUES)
    return replace(request, fields=fields)


def _other_header(chance, request):
    headers = list(request.headers)
    if headers and chance.random() < 0.4:
        name, value = headers.pop(chance.randrange(len(headers)))
        if chance.random() < 0.5:
            headers += [(name, value)] * 2
    headers.append((chance.choice(NAMES), chance.choice(NASTY_TEXTS)))
    return replace(request, headers=tuple(headers))


def _other_target(chance, request):
    path, _, query = request.target.partition("?")
    pieces = path.split("/")
    if chance.random() < 0.5:
        pieces[chance.randrange(len(pieces))] = chance.choice(NASTY_TEXTS)
    else:
        query += "&" + chance.choice(NASTY_TEXTS) + "=" + chance.choice(NASTY_TEXTS)
    target = "/".join(pieces) + (f"?{query}" if query else "")
    return replace(request, target=target.replace(" ", "%20").replace("\t", "%09"))


def _other_line(chance, request):
    if chance.random() < 0.8:
        return replace(request, method=chance.choice(METHODS))
    return replace(request, version=chance.choice(("HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/9.9", "", "http/1.1")))


def _other_bytes(chance, raw):
    found = bytearray(raw)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(4):
            case 0:
                found[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                found[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 20)))
            case 2:
                del found[place : place + chance.randint(1, 20)]
            case 3:
                found[place:place] = found[place : place + chance.randint(1, 200)]
    return bytes(found)
