import pytest

from tests.page.fake_server import FakeServer, listening


# Not for the whole session: while Playwright runs, its loop is the one of this thread, and asyncio.run has no place.
@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright", reason="playwright is not installed (make installs it)")
    from tests.page.browser import chromium, find_chromium

    if find_chromium() is None:
        pytest.skip("no chromium on PATH: the page is not tried in a browser (apt-get install chromium)")
    with chromium() as launched:
        yield launched


@pytest.fixture
def fake():
    return FakeServer()


@pytest.fixture
def address(fake):
    with listening(fake) as found:
        yield found


@pytest.fixture
def page(browser, address):
    from tests.page.browser import visit

    with visit(browser, address) as visited:
        visited.wait_for_selector('#glance[data-tone="ready"]')
        yield visited
