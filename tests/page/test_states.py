"""The page in a real browser, before a server that does what the test says."""

import re
from contextlib import ExitStack

import pytest

pytest.importorskip("playwright", reason="playwright is not installed (make installs it)")

from playwright.sync_api import expect

from tests.page.browser import draw, finished, visit
from tests.page.fake_server import listening, paint

pytestmark = [pytest.mark.system, pytest.mark.e2e]


def test_a_picture_forms_from_previews_and_stays_with_its_settings(page, fake):
    fake.behaviour.step_s = 0.15
    draw(page, "a red apple", seed=7)
    expect(page.locator(".plate .preview").first).to_be_visible()
    expect(page.locator(".says")).to_contain_text("step ")
    expect(page.locator(".says")).to_contain_text("of 8")
    expect(page.locator("progress")).to_have_attribute("value", re.compile(r"0\.\d+"))
    expect(finished(page)).to_have_count(1)
    expect(page.locator(".plate img")).to_have_count(1)  # the previews have faded into the picture
    expect(page.locator(".latest .facts")).to_have_text("painter · 64 × 64 · 8 steps · guidance 2.5 · seed 7")
    expect(page.locator("#announce")).to_contain_text("Ready: a red apple.")
    (job,) = fake.jobs.values()
    assert job.body == {
        "prompt": "a red apple",
        "model": "painter",
        "size": "64x64",
        "num_inference_steps": 8,
        "guidance_scale": 2.5,
        "seed": 7,
        "n": 1,
        "previews": True,
    }


def test_several_pictures_have_each_their_own_frame_and_seed(page):
    draw(page, "a donut", seed=41, n=3)
    expect(finished(page)).to_have_count(3)
    for place, seed in enumerate((41, 42, 43)):
        expect(page.locator(".latest .facts").nth(place)).to_contain_text(f"seed {seed}")


def test_a_place_in_the_queue_is_told(page, fake):
    fake.behaviour.is_held = True
    draw(page, "a red apple")
    expect(page.locator(".says")).to_have_text("2 before it · about 4.0 s left")
    expect(page.locator("#glance-text")).to_contain_text("1 waiting")
    fake.behaviour.is_held = False
    expect(finished(page)).to_have_count(1)


def test_escape_cancels_what_was_asked_for_last(page, fake):
    fake.behaviour.step_s = 0.2
    draw(page, "a red apple", n=2)
    expect(page.locator(".says").first).to_contain_text("step")
    page.keyboard.press("Escape")
    expect(page.locator(".picture")).to_have_count(0)
    expect(page.locator("#announce")).to_have_text("Cancelled.")
    assert [job.state for job in fake.jobs.values()] == ["cancelled"]


def test_what_is_cancelled_on_its_way_is_cancelled_on_the_server(page, fake):
    fake.behaviour.accept_s = 0.5
    draw(page, "a red apple")
    page.keyboard.press("Escape")
    expect(page.locator(".says")).to_have_text("cancelling")
    expect(page.locator(".picture")).to_have_count(0)
    assert [job.state for job in fake.jobs.values()] == ["cancelled"]


def test_a_busy_server_is_waited_for_as_long_as_it_says(page, fake):
    fake.behaviour.num_refusals = 1
    draw(page, "a red apple")
    notice = page.locator(".notice")
    expect(notice).to_contain_text("The server is busy.")
    expect(notice).to_contain_text("the queue is full: 64 of 64 jobs")
    expect(notice.locator(".countdown")).to_have_text("Trying again in 1 s.")
    expect(finished(page)).to_have_count(1)
    expect(notice).to_have_count(0)


def test_a_quota_that_is_used_up_is_not_called_a_busy_server(page, fake):
    fake.behaviour.num_refusals = 1
    fake.behaviour.refusal_code = "tenant_rate_exceeded"
    draw(page, "a red apple")
    expect(page.locator(".notice")).to_contain_text("You have asked for as much as you may for now.")
    expect(finished(page)).to_have_count(1)


def test_a_busy_server_can_be_tried_at_once_or_given_up(page, fake):
    fake.behaviour.num_refusals = 2
    fake.behaviour.retry_after_s = 90
    draw(page, "a red apple")
    page.get_by_role("button", name="Try now").click()
    expect(page.locator(".countdown")).to_have_text("Trying again in 90 s.")
    page.get_by_role("button", name="Give up").click()
    expect(page.locator(".picture, .notice")).to_have_count(0)
    assert not fake.jobs


def test_a_server_that_is_gone_is_found_again(browser, fake):
    fake.behaviour.is_held = True
    with ExitStack() as first:
        address = first.enter_context(listening(fake))
        with visit(browser, address) as page:
            page.wait_for_selector('#glance[data-tone="ready"]')
            draw(page, "a red apple")
            expect(page.locator(".says")).to_contain_text("before it")
            first.close()
            expect(page.locator("#glance-text")).to_have_text("No answer; looking again by itself")
            expect(page.locator(".says")).to_have_text("waiting for the server")
            draw(page, "a blue banana")
            expect(page.locator(".notice")).to_contain_text("The server does not answer.")
            fake.behaviour.is_held = False
            with listening(fake, int(address.rsplit(":", 1)[1])):
                expect(finished(page)).to_have_count(2)
                expect(page.locator(".notice")).to_have_count(0)
                expect(page.locator("#glance")).to_have_attribute("data-tone", "ready")
    assert sorted(job.body["prompt"] for job in fake.jobs.values()) == ["a blue banana", "a red apple"]


def test_a_stream_that_breaks_is_taken_up_where_it_broke(page, fake):
    fake.behaviour.cut_after = 4
    draw(page, "a red apple", n=2)
    expect(finished(page)).to_have_count(2)
    (job,) = fake.jobs.values()
    places = [place for place in fake.resumed_after if place]
    assert places == sorted(set(places)), "an event was sent twice"
    assert len(job.events) > 4 * 3


def test_a_server_without_a_stream_is_polled(page, fake):
    fake.behaviour.has_events = False
    draw(page, "a red apple", n=2)
    expect(finished(page)).to_have_count(2)
    draw(page, "a blue banana")
    expect(finished(page)).to_have_count(3)
    assert sum(call.endswith("/events") for call in fake.calls) == 1, "it went on asking for what is not there"


def test_a_reload_loses_nothing(page, fake):
    draw(page, "a red apple", seed=5)
    expect(finished(page)).to_have_count(1)
    fake.behaviour.is_held = True
    draw(page, "a blue banana", seed=6, n=2)
    expect(page.locator(".says").first).to_contain_text("before it")
    page.reload()
    expect(page.locator(".says").first).to_contain_text("before it")
    expect(page.locator("#prompt")).to_have_value("a blue banana")
    expect(page.locator("#n")).to_have_value("2")
    expect(page.locator(".earlier .title")).to_have_text("a red apple")
    fake.behaviour.is_held = False
    expect(finished(page)).to_have_count(3)
    page.reload()
    expect(finished(page)).to_have_count(3)
    expect(page.locator("#keeping-text")).to_contain_text("3 pictures, kept in this browser alone")
    assert len(fake.jobs) == 2


def test_a_job_that_the_server_has_forgotten_is_told_of_and_can_be_drawn_anew(page, fake):
    fake.behaviour.is_held = True
    draw(page, "a red apple", seed=5)
    expect(page.locator(".says")).to_contain_text("before it")
    fake.jobs.clear()
    page.reload()
    expect(page.locator(".notice")).to_contain_text("no longer knows")
    fake.behaviour.is_held = False
    page.get_by_role("button", name="Try again").click()
    expect(finished(page)).to_have_count(1)


def test_a_key_is_asked_for_only_where_the_server_asks_and_travels_in_a_header(browser, fake, address):
    fake.behaviour.key = "emk_1.secret"
    with visit(browser, address) as page:
        dialog = page.get_by_role("dialog", name="This server asks for a key")
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The key was not accepted.")
        page.get_by_label("API key").fill("emk_1.secret")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#glance")).to_have_attribute("data-tone", "ready")
        expect(dialog).to_have_count(0)
        draw(page, "a red apple")
        expect(finished(page)).to_have_count(1)
        assert page.evaluate("Object.values(localStorage).join()").count("secret") == 0
    assert not any("secret" in call for call in fake.calls)


def test_who_gives_no_key_is_asked_no_more_until_he_wants_to_give_one(browser, fake, address):
    fake.behaviour.key = "emk_1.secret"
    with visit(browser, address) as page:
        page.get_by_role("button", name="Not now").click()
        expect(page.locator("#glance-text")).to_have_text("Asks for a key")
        calls = len(fake.calls)
        expect(page.locator(".notice")).to_contain_text("a key is needed here")
        page.get_by_role("button", name="Give a key").click()
        page.get_by_label("API key").fill("emk_1.secret")
        page.keyboard.press("Enter")
        expect(page.locator("#glance")).to_have_attribute("data-tone", "ready")
        expect(page.locator(".notice")).to_have_count(0)
        assert fake.calls[calls : calls + 2] == ["GET /v1/models"] * 2, "it asked while nobody had a key"


def test_two_tabs_do_not_forget_each_others_pictures(page, fake, address):
    fake.behaviour.is_held = True
    draw(page, "a red apple")
    expect(page.locator(".says")).to_contain_text("before it")
    other = page.context.new_page()
    other.goto(address)
    expect(other.locator(".picture")).to_have_count(1)
    draw(other, "a blue banana")
    expect(other.locator(".says").first).to_contain_text("before it")
    draw(page, "a donut")
    expect(page.locator(".picture")).to_have_count(2)
    expect(page.locator(".says").first).to_contain_text("before it")
    page.reload()
    expect(page.locator(".picture")).to_have_count(3)
    fake.behaviour.is_held = False
    expect(finished(page)).to_have_count(3)
    expect(finished(other)).to_have_count(2)


def test_what_lies_in_the_browser_does_no_harm(page):
    page.evaluate("['emmdit.jobs', 'emmdit.form'].forEach((name) => localStorage.setItem(name, '{broken'))")
    page.reload()
    draw(page, "a red apple")
    expect(finished(page)).to_have_count(1)


def test_words_that_the_model_does_not_know_are_pointed_out(page):
    page.fill("#prompt", "a red aple on a zeppelin")
    expect(page.locator("#marks mark")).to_have_text(["aple", "zeppelin"])
    expect(page.locator("#words")).to_have_text("This model does not know aple (apple?) and zeppelin.")
    page.get_by_role("button", name="apple", exact=True).click()
    expect(page.locator("#prompt")).to_have_value("a red apple on a zeppelin")
    page.get_by_role("button", name="three yellow umbrellas").click()
    expect(page.locator("#prompt")).to_have_value("three yellow umbrellas")
    expect(page.locator("#words")).to_be_empty()
    page.get_by_text("It knows 12 words").click()
    expect(page.locator("#vocabulary li")).to_have_count(12)


def test_what_the_server_refuses_is_said_at_the_field(page):
    draw(page, "refused")
    expect(page.locator("#settings-error")).to_have_text("guidance_scale: 9 is not allowed")
    expect(page.locator("#guidance")).to_be_focused()
    expect(page.locator("#guidance")).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".picture")).to_have_count(0)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", " ", "Write what shall be drawn."),
        ("n", "5", "Pictures: 1 to 4."),
        ("steps", "0", "Steps: 1 to 50."),
        ("guidance", "", "Guidance: 0 to 10."),
        ("seed", "4294967296", "Seed: 0 to 4294967295, or nothing for a new one each time."),
        ("seed", "-1", "Seed: 0 to 4294967295, or nothing for a new one each time."),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(page, fake, field, value, says):
    page.fill("#prompt", "a red apple")
    page.fill(f"#{field}", value)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator(".error:visible")).to_have_text(says)
    expect(page.locator(f"#{field}")).to_be_focused()
    assert "POST /v1/generate" not in fake.calls


def test_everything_can_be_done_with_the_keyboard(page, fake):
    page.keyboard.press("/")
    page.keyboard.type("a red apple")
    page.keyboard.press("Control+Enter")
    expect(finished(page)).to_have_count(1)
    page.keyboard.press("Control+a")
    page.keyboard.type("a blue banana")
    page.keyboard.press("Control+Enter")
    expect(finished(page)).to_have_count(2)
    page.locator("#latest .frame").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#earlier .frame")).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("a red apple")
    page.keyboard.press("ArrowLeft")
    expect(dialog).to_contain_text("a blue banana")
    page.keyboard.press("Escape")
    expect(page.locator("#latest .frame")).to_be_focused()
    page.keyboard.press("Delete")
    expect(finished(page)).to_have_count(1)
    expect(page.locator("#earlier .frame")).to_be_focused()
    page.get_by_role("button", name="Undo").press("Enter")
    expect(finished(page)).to_have_count(2)
    page.reload()
    expect(finished(page)).to_have_count(2)


def test_a_picture_can_be_drawn_again_varied_and_changed(page, fake):
    draw(page, "a red apple", seed=7)
    expect(finished(page)).to_have_count(1)
    page.get_by_role("button", name="Again").click()
    expect(finished(page)).to_have_count(2)
    page.locator("#latest").get_by_role("button", name="Vary").click()
    expect(finished(page)).to_have_count(3)
    seeds = [job.body["seed"] for job in fake.jobs.values()]
    assert seeds[0] == seeds[1] == 7 != seeds[2]
    page.locator("#earlier .frame").last.click()
    page.get_by_role("dialog").get_by_role("button", name="Edit").click()
    expect(page.locator("#seed")).to_have_value("7")
    expect(page.locator("#prompt")).to_be_focused()
    page.get_by_role("button", name="Roll a seed").click()
    expect(page.locator("#seed")).not_to_have_value("7")


def test_a_picture_can_be_saved(page, tmp_path):
    draw(page, "a red apple", seed=7)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "a-red-apple-7.png"
    download.value.save_as(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == paint(7)


def test_the_oldest_pictures_make_way(page):
    kept = page.evaluate(
        """async () => {
            const { Store } = await import("/page/store.js");
            const store = await Store.open();
            const gone = [];
            for (let place = 0; place < 203; place += 1) {
                const blob = new Blob([new Uint8Array(place % 2 ? 10 : 20)]);
                gone.push(...(await store.put({ id: `${place}`, blob, madeAt: place })));
            }
            return [(await store.all()).length, gone];
        }"""
    )
    assert kept == [200, ["0", "1", "2"]]


def test_events_are_read_however_they_are_cut(page):
    text = 'retry: 1\r\n\r\n: hello\n\nid: 7\nevent: job\ndata: {"a":\ndata: "ü"}\n\ndata:x\r\revent: lost\ndata: cut'
    events = page.evaluate(
        """async (text) => {
            const { parseEvents } = await import("/page/events.js");
            const found = [];
            for (const size of [1, 2, 3, 7, 1000]) {
                const bytes = new TextEncoder().encode(text);
                const stream = new ReadableStream({
                    start(controller) {
                        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
                        controller.close();
                    },
                });
                const events = [];
                for await (const event of parseEvents(stream)) events.push(event);
                found.push(events);
            }
            return found;
        }""",
        text,
    )
    expected = [{"type": "job", "data": '{"a":\n"ü"}', "id": "7"}, {"type": "message", "data": "x", "id": "7"}]
    assert events == [expected] * 5
