"""Every way we could think of to send nonsense: each a 4xx in the one shape, and none of it reaches a worker."""

import json

import pytest

CONTENT = {"Content-Type": "application/json"}
CONTROL = "no control characters"


def body(**fields):
    return json.dumps({"prompt": "a red apple"} | fields).encode()


def raw(text):
    return b'{"prompt": "a red apple", ' + text + b"}"


# name: (body, param, code, what the message must hold)
FIELDS = {
    "no prompt": (b"{}", "prompt", "missing_field", ["prompt", "missing", "1 to 2000"]),
    "null prompt": (body(prompt=None), "prompt", "invalid_value", ["None", "1 to 2000"]),
    "empty prompt": (body(prompt=""), "prompt", "invalid_value", ["''", "1 to 2000"]),
    "blank prompt": (body(prompt=" \n\t"), "prompt", "invalid_value", ["1 to 2000"]),
    "invisible prompt": (body(prompt="\u200b\u200b"), "prompt", "invalid_value", ["\\u200b", "1 to 2000"]),
    "long prompt": (body(prompt="a" * 10_000), "prompt", "invalid_value", ["10000 characters", "1 to 2000", "aaa..."]),
    "prompt one too long": (body(prompt="a" * 2001), "prompt", "invalid_value", ["2001 characters"]),
    "bell in prompt": (body(prompt="an\x07apple"), "prompt", "invalid_value", ["U+0007", "character 2", CONTROL]),
    "zero in prompt": (body(prompt="apple\x00"), "prompt", "invalid_value", ["U+0000", CONTROL]),
    "escape in prompt": (body(prompt="\x1b[31mapple"), "prompt", "invalid_value", ["U+001B", CONTROL]),
    "delete in prompt": (body(prompt="apple\x7f"), "prompt", "invalid_value", ["U+007F", CONTROL]),
    "C1 in prompt": (body(prompt="apple\x85"), "prompt", "invalid_value", ["U+0085", CONTROL]),
    "half surrogate": (raw(b'"negative_prompt": "\\ud83c"'), "negative_prompt", "invalid_value", ["\\ud83c", "half"]),
    "half surrogate prompt": (b'{"prompt": "a \\udfff"}', "prompt", "invalid_value", ["\\udfff", "half"]),
    "list for prompt": (body(prompt=["apple"]), "prompt", "invalid_value", ["['apple']", "text"]),
    "number for prompt": (body(prompt=7), "prompt", "invalid_value", ["7", "text"]),
    "bell in negative": (body(negative_prompt="\x07"), "negative_prompt", "invalid_value", ["U+0007", CONTROL]),
    "long negative": (body(negative_prompt="b" * 2001), "negative_prompt", "invalid_value", ["2001", "0 to 2000"]),
    "size 0x0": (body(size="0x0"), "size", "invalid_value", ["'0x0'", "64x64, 32x48"]),
    "size 513x511": (body(size="513x511"), "size", "invalid_value", ["'513x511'", "64x64, 32x48"]),
    "size turned": (body(size="48x32"), "size", "invalid_value", ["'48x32'", "64x64, 32x48"]),
    "size negative": (body(size="-64x64"), "size", "invalid_value", ["'-64x64'", "64x64"]),
    "size in words": (body(size="large"), "size", "invalid_value", ["'large'", "64x64"]),
    "size with space": (body(size="64x64 "), "size", "invalid_value", ["'64x64 '", "64x64"]),
    "size as number": (body(size=64), "size", "invalid_value", ["64", "64x64, 32x48"]),
    "steps 0": (body(num_inference_steps=0), "num_inference_steps", "invalid_value", ["0", "from 1 to 50"]),
    "steps -1": (body(num_inference_steps=-1), "num_inference_steps", "invalid_value", ["-1", "from 1 to 50"]),
    "steps 10^9": (
        body(num_inference_steps=10**9),
        "num_inference_steps",
        "invalid_value",
        ["1000000000", "from 1 to 50"],
    ),
    "steps many": (body(num_inference_steps="many"), "num_inference_steps", "invalid_value", ["'many'", "1 to 50"]),
    "steps '4'": (body(num_inference_steps="4"), "num_inference_steps", "invalid_value", ["'4'", "an integer"]),
    "steps true": (body(num_inference_steps=True), "num_inference_steps", "invalid_value", ["True", "an integer"]),
    "steps 4.5": (body(num_inference_steps=4.5), "num_inference_steps", "invalid_value", ["4.5", "an integer"]),
    "steps of 400 digits": (
        raw(b'"num_inference_steps": ' + b"9" * 400),
        "num_inference_steps",
        "invalid_value",
        ["999", "from 1 to 50"],
    ),
    "guidance NaN": (raw(b'"guidance_scale": NaN'), "guidance_scale", "invalid_value", ["nan", "0 to 10"]),
    "guidance Infinity": (raw(b'"guidance_scale": Infinity'), "guidance_scale", "invalid_value", ["inf", "0 to 10"]),
    "guidance 1e999": (raw(b'"guidance_scale": 1e999'), "guidance_scale", "invalid_value", ["inf", "0 to 10"]),
    "guidance of 400 digits": (
        raw(b'"guidance_scale": ' + b"9" * 400),
        "guidance_scale",
        "invalid_value",
        ["999", "0 to 10"],
    ),
    "guidance -1": (body(guidance_scale=-1), "guidance_scale", "invalid_value", ["-1", "0 to 10"]),
    "guidance 10.5": (body(guidance_scale=10.5), "guidance_scale", "invalid_value", ["10.5", "0 to 10"]),
    "guidance 'NaN'": (body(guidance_scale="NaN"), "guidance_scale", "invalid_value", ["'NaN'", "a number"]),
    "guidance true": (body(guidance_scale=True), "guidance_scale", "invalid_value", ["True", "a number"]),
    "n 0": (body(n=0), "n", "invalid_value", ["0", "from 1 to 10"]),
    "n 99": (body(n=99), "n", "invalid_value", ["99", "from 1 to 10"]),
    "n true": (body(n=True), "n", "invalid_value", ["True", "from 1 to 10"]),
    "n '2'": (body(n="2"), "n", "invalid_value", ["'2'", "from 1 to 10"]),
    "seed -1": (body(seed=-1), "seed", "invalid_value", ["-1", "from 0 to 4294967295"]),
    "seed 2^32": (body(seed=2**32), "seed", "invalid_value", ["4294967296", "from 0 to"]),
    "seed 1.5": (body(seed=1.5), "seed", "invalid_value", ["1.5", "an integer"]),
    "seed 'x'": (body(seed="x"), "seed", "invalid_value", ["'x'", "an integer"]),
    "priority urgent": (body(priority="urgent"), "priority", "invalid_value", ["'urgent'", "high, normal, low"]),
    "priority 0": (body(priority=0), "priority", "invalid_value", ["0", "high, normal, low"]),
    "timeout 0": (body(timeout_s=0), "timeout_s", "invalid_value", ["0", "above 0, up to 3600"]),
    "timeout -5": (body(timeout_s=-5), "timeout_s", "invalid_value", ["-5", "up to 3600"]),
    "timeout a year": (body(timeout_s=31536000), "timeout_s", "invalid_value", ["31536000", "up to 3600"]),
    "timeout NaN": (raw(b'"timeout_s": NaN'), "timeout_s", "invalid_value", ["nan", "up to 3600"]),
    "clean 'yes'": (body(clean_prompt="yes"), "clean_prompt", "invalid_value", ["'yes'", "true, false"]),
    "clean 1": (body(clean_prompt=1), "clean_prompt", "invalid_value", ["1", "true, false"]),
    "model as number": (body(model=5), "model", "invalid_value", ["5", "painter-"]),
    "unknown field": (body(colour="red"), "colour", "unknown_field", ["'colour'", "'red'", "guidance_scale"]),
    "misspelt field": (body(steps=4), "steps", "unknown_field", ["'steps'", "num_inference_steps"]),
    "strange field": (body(**{"a\r\nX-Evil: 1": 1}), None, "unknown_field", ["\\r\\n", "allowed"]),
    "endless field": (body(**{"z" * 5000: 1}), None, "unknown_field", ["zzz...", "allowed"]),
    "prompt twice": (raw(b'"prompt": "b"'), "prompt", "duplicate_field", ["'prompt'", "'b'", "once"]),
}

BODIES = {
    "not UTF-8": (b'{"prompt": "caf\xe9"}', "invalid_encoding", ["not UTF-8", "0xe9", "byte 15"]),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "invalid_encoding", ["not UTF-8"]),
    "byte order mark": (b'\xef\xbb\xbf{"prompt": "a"}', "invalid_json", ["not JSON"]),
    "broken": (b'{"prompt": "a red', "invalid_json", ["not JSON", "line 1"]),
    "empty": (b"", "invalid_json", ["not JSON"]),
    "trailing": (b'{"prompt": "a"} {}', "invalid_json", ["not JSON"]),
    "single quotes": (b"{'prompt': 'a'}", "invalid_json", ["not JSON"]),
    "raw line break in text": (b'{"prompt": "a\nb"}', "invalid_json", ["not JSON"]),
    "array": (b'["a red apple"]', "invalid_json", ["an array", "one JSON object"]),
    "string": (b'"a red apple"', "invalid_json", ["a string", "one JSON object"]),
    "null": (b"null", "invalid_json", ["null", "one JSON object"]),
    "deep": (b"[" * 200_000, "invalid_json", ["nested too deeply"]),
    "deep in a field": (raw(b'"x": ' + b"[" * 200_000), "invalid_json", ["nested too deeply"]),
    "number of 5000 digits": (raw(b'"seed": ' + b"9" * 5000), "invalid_json", ["too many digits"]),
}


@pytest.fixture
def untouched(gateway):
    """The gateway; afterwards neither its queue nor its worker has seen anything."""
    rejected = gateway.value("requests_total", model=gateway.model, status="rejected")
    unknown = gateway.value("requests_total", model="unknown", status="rejected")
    yield gateway
    stats = gateway.stats()
    assert (stats.num_waiting, stats.num_running) == (0, 0)
    assert gateway.worker.seen == []
    now = gateway.value("requests_total", model=gateway.model, status="rejected")
    assert now + gateway.value("requests_total", model="unknown", status="rejected") == rejected + unknown + 1


def assert_refused(response, status, code, param, pieces):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["code"], error["param"]) == (code, param)
    for piece in pieces:
        assert piece in error["message"]
    assert len(error["message"]) < 500
    assert error["message"].isprintable()


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(untouched, name):
    content, param, code, pieces = FIELDS[name]
    response = untouched.client.post("/v1/generate", content=content, headers=CONTENT)
    assert_refused(response, 400, code, param, pieces)


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_object_is_refused_with_the_place(untouched, name):
    content, code, pieces = BODIES[name]
    response = untouched.client.post("/v1/generate", content=content, headers=CONTENT)
    assert_refused(response, 400, code, None, pieces)


def test_fields_in_the_query_are_refused_and_not_overlooked(untouched):
    response = untouched.client.post("/v1/generate?num_inference_steps=4", content=body(), headers=CONTENT)
    assert_refused(response, 400, "unknown_field", None, ["num_inference_steps=4", "body"])


def test_an_unknown_model_is_404_and_the_known_one_is_named(untouched):
    response = untouched.generate(model="dall-e-3")
    assert_refused(response, 404, "model_not_found", "model", ["'dall-e-3'", untouched.model])


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "image/png", "json"],
)
def test_another_content_type_is_415_and_the_right_one_is_named(untouched, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = untouched.client.post("/v1/generate", content=body(), headers=headers)
    assert_refused(response, 415, "unsupported_media_type", None, ["Content-Type", "application/json"])


def test_a_compressed_body_is_415(untouched):
    response = untouched.client.post("/v1/generate", content=body(), headers=CONTENT | {"Content-Encoding": "gzip"})
    assert_refused(response, 415, "unsupported_media_type", None, ["'gzip'", "identity"])


def test_five_megabytes_are_413_and_the_limit_is_named(untouched):
    response = untouched.client.post("/v1/generate", content=body(prompt="a" * 5_000_000), headers=CONTENT)
    assert_refused(response, 413, "body_too_large", None, ["50000", "1048576 bytes"])


def test_five_megabytes_in_chunks_are_413_too(untouched):
    chunks = (b" " * 65536 for _ in range(80))
    response = untouched.client.post("/v1/generate", content=chunks, headers=CONTENT)
    assert_refused(response, 413, "body_too_large", None, ["more came", "1048576 bytes"])


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "image/png;q=0", "application/json;q=0, image/*;q=0"])
def test_an_answer_in_another_form_is_406_and_the_forms_are_named(untouched, accept):
    response = untouched.generate(headers={"Accept": accept})
    assert_refused(response, 406, "not_acceptable", None, [accept, "application/json, image/png, multipart/mixed"])


def test_a_whole_number_may_be_written_with_a_point(gateway):
    """JSON has one kind of number, and so have some of the languages that write it."""
    response = gateway.client.post("/v1/generate", content=raw(b'"seed": 7.0, "n": 1.0'), headers=CONTENT)
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["seed"] == 7
    gateway.worker.seen.clear()
