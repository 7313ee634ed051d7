"""The page in a real browser before the real service, with the models that come with it."""

import subprocess
import sys
from contextlib import ExitStack

import httpx
import pytest

pytest.importorskip("playwright", reason="playwright is not installed (make installs it)")

from playwright.sync_api import expect

from tests.e2e.harness import Service, wait_for
from tests.gateway.harness import running_gateway
from tests.page.browser import PHONE, draw, finished, visit

pytestmark = [pytest.mark.system, pytest.mark.e2e, pytest.mark.timeout(300)]

SHELL = ["sh", "-c"]
READY = '#glance[data-tone="ready"]'


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service("demo-dist,demo", tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def page(browser, service):
    with visit(browser, service.address) as visited:
        visited.wait_for_selector(READY)
        yield visited


def choose(page, model):
    page.get_by_label("Model").select_option(model)


def remembered(page):
    """The id of the one job that the page has under way."""
    (note,) = page.evaluate("Object.values(JSON.parse(localStorage.getItem('emmdit.jobs')))")
    return note["id"]


def fetch_state(service, job_id):
    return httpx.get(f"{service.address}/v1/jobs/{job_id}").json()["state"]


def test_the_page_knows_what_the_models_know(page):
    expect(page.get_by_label("Model").locator("option")).to_have_text(["demo-dist", "demo"])
    expect(page.get_by_label("Steps")).to_have_value("5")
    choose(page, "demo")
    expect(page.get_by_label("Steps")).to_have_value("20")
    expect(page.locator("#starters button").first).to_be_visible()
    page.fill("#prompt", "a red apple and a spaceship")
    expect(page.locator("#words")).to_contain_text("spaceship")
    expect(page.locator("#words em")).to_have_count(1)


def test_a_picture_is_seen_forming(page):
    choose(page, "demo")
    draw(page, "a red apple on a blue background", seed=7, n=2, steps=40)
    expect(page.locator(".plate .preview").first).to_be_visible()
    expect(page.locator(".says").first).to_contain_text("of 39")
    expect(finished(page)).to_have_count(2)
    width = page.locator(".plate .final").first.evaluate("(image) => image.naturalWidth")
    assert width == 128


def test_what_is_copied_draws_the_same_picture(page, service, tmp_path):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    draw(page, "a photo of a teddy bear's donut", seed=11)
    expect(finished(page)).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    name = download.value.suggested_filename
    download.value.save_as(tmp_path / "seen.png")
    read = "navigator.clipboard.readText()"
    for label, begins, shell in (("Copy Python", "import json", [sys.executable, "-c"]), ("Copy curl", "curl", SHELL)):
        page.get_by_role("button", name=label).click()
        wait_for(lambda begins=begins: page.evaluate(read).startswith(begins), 10)
        subprocess.run([*shell, page.evaluate(read)], cwd=tmp_path, check=True, timeout=60)
        assert (tmp_path / name).read_bytes() == (tmp_path / "seen.png").read_bytes(), label
        (tmp_path / name).unlink()


def test_a_cancelled_picture_ends_on_the_server_too(page, service):
    choose(page, "demo")
    draw(page, "a donut", steps=100)
    expect(page.locator(".says")).to_contain_text("step")
    job_id = remembered(page)
    page.keyboard.press("Escape")
    expect(page.locator(".picture")).to_have_count(0)
    wait_for(lambda: fetch_state(service, job_id) == "cancelled", 20)


def test_a_reload_finds_the_picture_under_way(page):
    choose(page, "demo")
    draw(page, "a green car and a purple clock", seed=3, n=2, steps=60)
    expect(page.locator(".says").first).to_contain_text("step")
    page.reload()
    expect(page.locator(".plate .preview").first).to_be_visible()
    expect(finished(page)).to_have_count(2)
    page.reload()
    expect(finished(page)).to_have_count(2)


def test_a_picture_outlives_the_server_that_it_was_asked_of(browser, tmp_path):
    with ExitStack() as first:
        service = first.enter_context(Service("demo", tmp_path))
        port = service.address.rsplit(":", 1)[1]
        with visit(browser, service.address) as page:
            page.wait_for_selector(READY)
            draw(page, "a photo of four oranges", seed=5, steps=100)
            expect(page.locator(".plate .preview").first).to_be_visible()
            first.close()  # killed, everything at once
            expect(page.locator(".says")).to_have_text("waiting for the server")
            with Service("demo", tmp_path, port=port):
                expect(finished(page)).to_have_count(1, timeout=60_000)
                expect(page.locator(".notice")).to_have_count(0)


def test_it_works_on_a_phone(browser, service):
    with visit(browser, service.address, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        page.wait_for_selector(READY)
        page.locator("#starters button").first.tap()
        page.get_by_role("button", name="Draw").tap()
        expect(page.locator("#latest .frame")).to_be_in_viewport()
        expect(finished(page)).to_have_count(1)
        page.locator("#latest .frame").tap()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_where_the_service_needs_a_key_it_is_asked_for_and_used(browser, embedded_server, tmp_path):
    with running_gateway(embedded_server.url, tmp_path, "keyed", require_keys="always") as gateway:
        key = gateway.key_of("page")
        with visit(browser, gateway.base_url) as page:
            dialog = page.get_by_role("dialog", name="This server asks for a key")
            expect(dialog).to_contain_text("an API key is needed here")
            page.get_by_label("API key").fill("emmdit_wrong")
            page.keyboard.press("Enter")
            expect(dialog).to_contain_text("The key was not accepted.")
            page.get_by_label("API key").fill(key)
            page.keyboard.press("Enter")
            page.wait_for_selector(READY)
            draw(page, "a red apple", seed=7)
            expect(finished(page)).to_have_count(1)
            assert key not in page.evaluate("JSON.stringify(localStorage) + location.href + document.body.innerHTML")
            assert key in page.evaluate("JSON.stringify(sessionStorage)")
        assert {job.owner for job in gateway.worker.seen} == {"page"}
