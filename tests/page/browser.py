"""A headless Chromium that asks nobody but the page's own server, and what every visit to the page must keep to."""

import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Several of these keep it from calling home; a container has neither a sandbox nor a GPU for it.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
DESKTOP = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}
TIMEOUT_MS = 20_000


def find_chromium():
    """The system's own Chromium; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def chromium():
    """The browser, with a profile that is made for it and deleted with it."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser, address, **options):
    """The page in a browser that has never seen it. Afterwards nothing may have gone wrong or anywhere else."""
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    errors, hosts = [], set()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
    # Chromium says this of every answer that is no success, expected or not.
    unexpected = [error for error in errors if not error.startswith("Failed to load resource")]
    assert not unexpected, unexpected
    assert hosts <= {urlsplit(address).netloc, ""}, hosts  # "" are pictures that are data or blobs


def draw(page, prompt, *, seed="", n=1, steps=None):
    """Ask for pictures by the keyboard."""
    page.fill("#seed", str(seed))
    page.fill("#n", str(n))
    if steps is not None:
        page.fill("#steps", str(steps))
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")


def finished(page):
    """The pictures on the wall that are done."""
    return page.locator('.picture[data-state="done"]')
