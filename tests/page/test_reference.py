"""The reference at /docs in a real browser: to be read by day and by night, on a phone, without scripts."""

from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed (make installs it)")

from playwright.sync_api import expect

from tests.gateway.conftest import gateway
from tests.page.browser import DESKTOP, PHONE, visit

__all__ = ["gateway"]

pytestmark = [pytest.mark.system, pytest.mark.e2e]

AUDIT = Path(__file__).with_name("audit.js").read_text("utf-8")
OPEN_ALL = "document.querySelectorAll('details').forEach((one) => (one.open = true))"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_can_be_read(browser, gateway, viewport, colours):
    with visit(browser, f"{gateway.base_url}/docs", viewport=viewport, color_scheme=colours) as page:
        page.evaluate(OPEN_ALL)
        assert page.evaluate(AUDIT) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_headings_leave_no_level_out(browser, gateway):
    with visit(browser, f"{gateway.base_url}/docs") as page:
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_contents_lead_to_every_route(browser, gateway):
    with visit(browser, f"{gateway.base_url}/docs") as page:
        page.get_by_role("navigation", name="Contents").get_by_role("link", name="Cancel a job").click()
        expect(page.get_by_role("heading", name="Cancel a job")).to_be_in_viewport()


def test_an_example_is_copied(browser, gateway):
    with visit(browser, f"{gateway.base_url}/docs", permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_role("button", name="Copy: Cancel (curl)").click()
        expect(page.get_by_text("Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()").startswith("curl -s -X DELETE")


def test_without_scripts_only_the_buttons_are_missing(browser, gateway):
    with visit(browser, f"{gateway.base_url}/docs", java_script_enabled=False) as page:
        expect(page.get_by_role("heading", name="Watch a job")).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)
