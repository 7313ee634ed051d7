"""Headers that protect whoever looks at an answer in a browser: on every route there is, found in the route table."""

import pytest

from service.gateway.app import ROUTERS

ROUTES = sorted({(route.path, method) for router in ROUTERS for route in router.routes for method in route.methods})
PAGES = {"/", "/docs", "/openapi.json", "/page/{name}"}
ORIGIN = {"Origin": "https://evil.example"}


def address(path, gateway):
    return path.format(job_id="0" * 32, index="0", name="index.html", model_id=gateway.model, model=gateway.model)


def check(headers, *, is_page):
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == ("'self'" if is_page else "'none'")
    assert policy["frame-ancestors"] == "'none'"
    assert not any("unsafe" in sources or "*" in sources or "http" in sources for sources in policy.values())
    assert headers["cache-control"] == ("no-cache" if is_page else "no-store")
    assert not [name for name in headers if name.startswith("access-control-")]
    assert "server" not in headers
    assert "x-powered-by" not in headers


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_route_answers_with_the_security_headers_and_to_no_other_origin(gateway, path, method):
    response = gateway.client.request(method, address(path, gateway), headers=ORIGIN, json={"prompt": "a red apple"})
    assert response.status_code < 500
    check(response.headers, is_page=path in PAGES)
    if response.headers["content-type"].startswith("text/html"):
        assert path in PAGES


@pytest.mark.parametrize("path", sorted({path for path, _ in ROUTES}))
def test_no_route_lets_a_page_of_another_origin_ask(gateway, path):
    """Without an answer to this, a browser sends no JSON, no DELETE and no key from there."""
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    response = gateway.client.options(address(path, gateway), headers=ORIGIN | wanted)
    assert response.status_code == 405
    check(response.headers, is_page=False)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_may_send_without_asking_is_not_read(gateway, content_type):
    body = b'{"prompt": "a red apple"}'
    for path in ("/v1/generate", "/v1/images/generations"):
        response = gateway.client.post(path, content=body, headers=ORIGIN | {"Content-Type": content_type})
        assert response.status_code == 415


def test_a_picture_is_no_page_whatever_it_is_called(gateway):
    job_id = gateway.submit()
    gateway.wait_for_state(job_id, "done")
    response = gateway.client.get(f"/v1/jobs/{job_id}/images/0", headers=ORIGIN)
    assert response.headers["content-type"] == "image/png"
    check(response.headers, is_page=False)
