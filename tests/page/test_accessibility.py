"""The page for those who hear it, see it badly, touch it, or are made sick by motion."""

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed (make installs it)")

from playwright.sync_api import expect

from tests.page.browser import DESKTOP, PHONE, draw, finished, visit

pytestmark = [pytest.mark.system, pytest.mark.e2e]

AUDIT = Path(__file__).with_name("audit.js").read_text("utf-8")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_state_can_be_read(browser, fake, address, viewport, colours):
    with visit(browser, address, viewport=viewport, color_scheme=colours, reduced_motion="reduce") as page:
        page.wait_for_selector('#glance[data-tone="ready"]')
        page.get_by_text("It knows 12 words").click()
        page.get_by_text("Leave something out").click()
        assert page.evaluate(AUDIT) == [], "idle"
        draw(page, "a zeppelin over an aple")
        expect(finished(page)).to_have_count(1)
        draw(page, "a red apple", n=2)
        expect(finished(page)).to_have_count(3)
        assert page.evaluate(AUDIT) == [], "done"
        fake.behaviour.is_held = True
        draw(page, "a red apple", n=4)
        expect(page.locator(".says").first).to_contain_text("before it")
        fake.behaviour.num_refusals = 1
        fake.behaviour.retry_after_s = 60
        draw(page, "a zeppelin")
        expect(page.locator(".notice")).to_be_visible()
        page.fill("#steps", "0")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#settings-error")).to_be_visible()
        assert page.evaluate(AUDIT) == [], "busy"
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.locator("#earlier .frame").last.click()
        assert page.evaluate(AUDIT) == [], "looked at closely"
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_progress_is_announced_and_has_a_value(page, fake):
    fake.behaviour.step_s = 0.15
    draw(page, "a red apple", seed=7)
    bar = page.get_by_role("progressbar", name="a red apple, seed 7")
    expect(bar).to_have_attribute("max", "1")
    expect(page.get_by_role("status")).to_have_text("Accepted: a red apple.")
    expect(page.get_by_role("status")).to_have_text("Half drawn: a red apple.")
    expect(page.get_by_role("status")).to_have_text("Ready: a red apple.")
    expect(page.get_by_role("button", name="a red apple, seed 7: look closer")).to_be_visible()


def test_the_first_tab_leads_past_the_desk(page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the pictures")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


def test_one_picture_is_in_the_order_of_tab_however_many_there_are(page):
    draw(page, "a red apple", n=4)
    expect(finished(page)).to_have_count(4)
    assert page.locator('.frame[tabindex="0"]').count() == 1
    page.locator('.frame[tabindex="0"]').focus()
    page.keyboard.press("End")
    expect(page.locator(".frame").last).to_be_focused()
    assert page.locator('.frame[tabindex="0"]').count() == 1


def test_nothing_moves_for_those_who_asked_for_that(browser, address):
    with visit(browser, address, reduced_motion="reduce") as page:
        page.wait_for_selector('#glance[data-tone="ready"]')
        draw(page, "a red apple")
        expect(finished(page)).to_have_count(1)
        moving = "document.getAnimations().filter((one) => one.effect.getTiming().duration > 1).length"
        assert page.evaluate(moving) == 0


def test_the_audit_finds_what_is_planted(page):
    page.evaluate(
        """() => {
            const main = document.querySelector("main");
            main.append(Object.assign(document.createElement("input"), { id: "prompt" }));
            main.append(document.createElement("img"));
            const faint = Object.assign(document.createElement("p"), { textContent: "faint" });
            faint.style.color = "#ccc";
            main.append(faint);
            const tiny = Object.assign(document.createElement("button"), { textContent: "x" });
            tiny.style.cssText = "padding: 0; border: 0; width: 10px";
            tiny.setAttribute("aria-describedby", "nowhere");
            main.append(tiny);
        }"""
    )
    faults = "\n".join(page.evaluate(AUDIT))
    for expected in ("twice", "nowhere", "no name", "no alt", "contrast 1.", "finger"):
        assert expected in faults
