"""What a hostile client can write on a socket: each gets a proper answer in the one shape, and the server lives on."""

import gzip
import json
import zlib

import pytest

from tests.edge.sockets import connect, error_in, read_to_end, request, send_raw, split

JSON = "Content-Type: application/json"
BODY = b'{"prompt": "a red apple", "n": 0}'  # refused by its field where everything before that is well
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
def unharmed(gateway):
    """The gateway, which afterwards serves as before."""
    yield gateway
    assert gateway.generate(num_inference_steps=1).status_code == 200


def post(*headers, body=BODY, target="/v1/generate", version="1.1"):
    return request("POST", target, JSON, "Connection: close", *headers, body=body, version=version)


MALFORMED = {
    "nonsense": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello, this is TLS\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "HTTP/3.0 of nobody": b"GET /livez HTTP/3.0\r\nHost: x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space before colon": b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "NUL in a header": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n\r\n",
    "NUL in the target": b"GET /li\x00vez HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes in the target": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": post("Content-Length: 5", LENGTH),
    "two lengths in one": post(f"Content-Length: 5, {len(BODY)}"),
    "negative length": post("Content-Length: -1"),
    "length with a sign": post(f"Content-Length: +{len(BODY)}"),
    "length in hex": post("Content-Length: 0x21"),
    "length of 40 digits": post("Content-Length: " + "9" * 40),
    "length beside chunks": post(LENGTH, CHUNKED, body=b"0\r\n\r\n" + BODY),
    "chunks beside length": post(CHUNKED, LENGTH, body=b"0\r\n\r\n" + BODY),
    "chunks twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "chunks, identity": post("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "gzip as transfer coding": post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "chunks with a tab": post("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": post(CHUNKED, body=b"0\r\n\r\n", version="1.0"),
    "a chunk's size in words": post(CHUNKED, body=b"five\r\n"),
    "a chunk's size of 40 digits": post(CHUNKED, body=b"f" * 40 + b"\r\n"),
    "a chunk longer than it says": post(CHUNKED, body=b"2\r\n{}{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_http_is_400_and_the_end_of_the_connection(gateway, name):
    answer = send_raw(gateway, MALFORMED[name])
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert split(answer)[1]["connection"] == "close"
    assert error_in(answer) == "malformed_request"
    assert gateway.client.get("/livez").status_code == 200


def test_a_body_that_breaks_off_in_the_middle_of_an_answer_ends_the_connection_alone(unharmed):
    """The answer to /nowhere has begun when its body turns out to be nonsense."""
    answer = send_raw(unharmed, request("POST", "/nowhere", CHUNKED, body=b"five\r\n"))
    assert b"Traceback" not in answer


LARGE = {
    "one line": request("GET", "/livez", "X-A: " + "a" * 20_000),
    "endless line": request("GET", "/livez", "X-A: " + "a" * 2_000_000),
    "long target": request("GET", "/livez?" + "a" * 20_000),
    "many headers": request("GET", "/livez", *(f"X-{number}: a" for number in range(200))),
    "many small headers": request("GET", "/livez", *(f"X-{number}: a" for number in range(20_000))),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_head_that_is_too_large_is_431_and_the_limit_is_named(unharmed, name):
    answer = send_raw(unharmed, LARGE[name])
    assert answer.startswith(b"HTTP/1.1 431")
    assert error_in(answer) == "headers_too_large"
    assert b"16384 bytes in 100 headers" in answer


def test_a_head_as_large_as_allowed_is_served(gateway):
    answer = send_raw(gateway, request("GET", "/livez", "Connection: close", "X-A: " + "a" * 15_000))
    assert split(answer)[0] == 200


def test_a_trailer_without_end_is_cut(unharmed):
    trailer = b"".join(b"X-%d: a\r\n" % number for number in range(20_000))
    answer = send_raw(unharmed, post(CHUNKED, body=b"2\r\n{}\r\n0\r\n" + trailer))
    assert error_in(answer) in ("headers_too_large", "missing_field")


BOMB = gzip.compress(b'{"prompt": "' + b"a" * 50_000_000 + b'"}')
COMPRESSED = {
    "gzip": BOMB,
    "x-gzip": BOMB,
    "deflate": zlib.compress(BODY),
    "br": b"\x0b\x02\x80{}\x03",
    "zstd": b"(\xb5/\xfd\x04\x00",
    "GZIP": BOMB,
    "gzip, identity": BOMB,
    "identity, gzip": BOMB,
    "unheard-of": BODY,
    "gzip;q=0": BODY,
}


@pytest.mark.parametrize("coding", COMPRESSED)
def test_a_compressed_body_is_refused_by_name_and_never_unpacked(unharmed, coding):
    body = COMPRESSED[coding]
    answer = send_raw(unharmed, post(f"Content-Encoding: {coding}", f"Content-Length: {len(body)}", body=body))
    assert answer.startswith(b"HTTP/1.1 415")
    assert error_in(answer) == "unsupported_media_type"
    assert coding in json.loads(split(answer)[2])["error"]["message"]


def test_a_second_content_encoding_is_not_overlooked(unharmed):
    codings = ("Content-Encoding: identity", "Content-Encoding: gzip")
    answer = send_raw(unharmed, post(*codings, f"Content-Length: {len(BOMB)}", body=BOMB))
    assert answer.startswith(b"HTTP/1.1 415")


TARGETS = {
    "absolute": ("http://evil.example/livez", "not_found"),
    "authority": ("evil.example:443", "not_found"),
    "asterisk": ("*", "not_found"),
    "dots": ("/v1/../livez", "not_found"),
    "encoded dots": ("/page/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "not_found"),
    "double slash": ("//livez", "not_found"),
    "encoded NUL": ("/page/index.html%00.js", "not_found"),
    "encoded line break": ("/page/a%0d%0aX-Evil:%201", "not_found"),
    "backslash": ("/page/..\\..\\etc", "not_found"),
    "half an escape": ("/%", "not_found"),
    "no UTF-8": ("/%ff%fe", "not_found"),
    "overlong": ("/%c0%ae%c0%ae/", "not_found"),
    "a job of no shape": ("/v1/jobs/..%2f..%2f", "not_found"),
    "a job in capitals": ("/v1/jobs/" + "A" * 32, "job_not_found"),
    "a job of Thai digits": ("/v1/jobs/" + "%E0%B9%97" * 32, "job_not_found"),
    "a picture of many digits": (f"/v1/jobs/{'0' * 32}/images/" + "9" * 5000, "job_not_found"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_an_odd_target_is_404_and_leads_nowhere(unharmed, name):
    target, code = TARGETS[name]
    answer = send_raw(unharmed, request("GET", target, "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 404"), answer
    assert error_in(answer) == code
    assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0]
    assert b"root:" not in answer


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "A" * 1000, "PRI"])
def test_an_odd_method_is_405(unharmed, method):
    answer = send_raw(unharmed, request(method, "/livez", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 405")
    assert error_in(answer) == "method_not_allowed"


def test_http_1_0_is_served_and_closed(gateway):
    assert split(send_raw(gateway, b"GET /livez HTTP/1.0\r\n\r\n"))[0] == 200


def test_an_upgrade_is_passed_over(gateway):
    upgrades = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert split(send_raw(gateway, request("GET", "/livez", *upgrades)))[0] == 200
    assert split(send_raw(gateway, request("GET", "/livez", "Connection: Upgrade, close", "Upgrade: h2c")))[0] == 200


def test_pipelined_requests_are_answered_in_order(gateway):
    with connect(gateway) as client:
        client.sendall(
            request("GET", "/livez")
            + request("POST", "/v1/generate", JSON, LENGTH, body=BODY)
            + request("GET", "/v1/nowhere", "Connection: close")
        )
        answer = read_to_end(client)
    assert [piece[:3] for piece in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"404"]


def test_what_a_body_hides_is_not_taken_for_a_request(gateway):
    """The classic: a request within a body, for whoever reads lengths otherwise."""
    inner = request("DELETE", "/v1/jobs/" + "0" * 32)
    answer = send_raw(gateway, post(f"Content-Length: {len(inner)}", body=inner))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert error_in(answer) == "invalid_json"


def test_a_hundred_pipelined_requests_wait_for_their_turn(unharmed):
    with connect(unharmed) as client:
        client.sendall(request("GET", "/livez") * 99 + request("GET", "/livez", "Connection: close"))
        assert read_to_end(client).count(b"HTTP/1.1 200 OK\r\n") == 100


def test_a_request_that_ends_in_the_middle_harms_nobody(unharmed):
    whole = post(LENGTH)
    for end in range(1, len(whole), 17):
        with connect(unharmed) as client:
            client.sendall(whole[:end])


def test_bodies_of_many_tiny_chunks_are_read(gateway):
    body = b"".join(b"1;ext=%d\r\n%c\r\n" % (number, byte) for number, byte in enumerate(BODY)) + b"0\r\n\r\n"
    assert error_in(send_raw(gateway, post(CHUNKED, body=body))) == "invalid_value"
