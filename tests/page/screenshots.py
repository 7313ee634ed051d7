"""`python -m tests.page.screenshots docs/images`: what the README shows of the page, before the real service.

The page uses the fonts of the system that it is looked at on: with Debian's fonts-urw-base35 installed the book face is
the Palatino that readers on most systems see.
"""

import base64
import io
import json
import re
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import expect

from tests.e2e.harness import Service
from tests.page.browser import DESKTOP, PHONE, chromium, draw, finished, visit

MAX_BYTES = 250_000
QUEUE_CAPACITY = 3
REFUSED_TO_BE_FULL = 8  # times running
DONE_PICTURES = (
    ("a photo of four oranges", 3),
    ("a black clock on a yellow background", 3),
    ("a boat on a yellow background", 2),
    ("a purple umbrella", 7),
    ("a donut", 2),
    ("three yellow umbrellas on a blue background", 2),
    ("a purple teddy bear", 1),
)
STRIP_PROMPT, STRIP_SEED, STRIP_STEPS, NUM_IN_STRIP = "a red apple on a blue background", 7, 40, 6
TILE_PX, GAP_PX, LABEL_PX = 150, 10, 26

AT_A_THIRD = re.compile(r"0\.[3-6]")


def main(folder):
    with (
        tempfile.TemporaryDirectory() as data,
        Service("demo", data, queue_capacity=QUEUE_CAPACITY) as service,
        chromium() as browser,
    ):
        with visit(browser, service.address) as page:
            page.wait_for_selector('#glance[data-tone="ready"]')
            save(page, folder / "page-idle.png")
            for place, (prompt, seed) in enumerate(DONE_PICTURES):
                draw(page, prompt, seed=seed)
                expect(finished(page)).to_have_count(place + 1)
            page.fill("#seed", "")
            page.locator("#draw").focus()
            page.locator("#draw").blur()
            save(page, folder / "page-done.png")
            page.emulate_media(color_scheme="dark")
            save(page, folder / "page-dark.png")
            page.emulate_media(color_scheme="light")
            page.set_viewport_size(PHONE)
            page.locator("#latest .frame").evaluate("(frame) => frame.scrollIntoView()")
            save(page, folder / "page-phone.png")
            page.set_viewport_size(DESKTOP)

            draw(page, "a red apple on a blue background", seed=7, n=2, steps=60)
            page.fill("#prompt", "two green clocks and a spaceship")
            expect(page.locator("#latest progress").last).to_have_attribute("value", AT_A_THIRD)
            save(page, folder / "page-working.png", settle_ms=400)
            expect(finished(page)).to_have_count(len(DONE_PICTURES) + 2)

            others = fill_queue(service)
            draw(page, "a yellow banana", seed=1, steps=20)
            expect(page.locator(".notice")).to_be_visible()
            save(page, folder / "page-busy.png")
        with service.client() as client:
            for location in others:
                client.delete(location)
            save_strip(client, folder / "preview-strip.png")


def save(page, path, settle_ms=1500):
    """A screenshot, once what fades has faded."""
    page.wait_for_timeout(settle_ms)
    write_small(Image.open(io.BytesIO(page.screenshot())), path)


def write_small(picture, path):
    """With all its colours, or as many as a small file can have."""
    picture = picture.convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        palette = picture.quantize(256, method=Image.Quantize.FASTOCTREE)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def fill_queue(service):
    """As many long requests of somebody else as there is room for; their paths. A worker takes some out at once."""
    body = {"prompt": "a photo of a red apple", "num_inference_steps": 100, "n": 10}
    locations, num_refused = [], 0
    with service.client() as client:
        while num_refused < REFUSED_TO_BE_FULL:
            response = client.post("/v1/generate", json=body, headers={"Prefer": "respond-async"})
            if response.status_code == 202:
                locations.append(response.headers["Location"])
                num_refused = 0
            else:
                num_refused += 1
                time.sleep(0.2)
    return locations


def save_strip(client, path):
    """One generation as its events show it: some of its previews, enlarged, and the picture."""
    previews, picture = watch(client)
    chosen = [previews[round(place * (len(previews) - 1) / (NUM_IN_STRIP - 1))] for place in range(NUM_IN_STRIP)]
    strip = Image.new("RGB", ((TILE_PX + GAP_PX) * (len(chosen) + 1) + GAP_PX, TILE_PX + GAP_PX + LABEL_PX), "white")
    font = ImageFont.load_default(14)
    tiles = [(f"step {event['step']} of {event['num_steps']}", event["b64_json"]) for event in chosen]
    for place, (label, data) in enumerate([*tiles, ("the picture", picture["b64_json"])]):
        tile = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        left = GAP_PX + place * (TILE_PX + GAP_PX)
        strip.paste(tile.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC), (left, GAP_PX))
        ImageDraw.Draw(strip).text((left, GAP_PX + TILE_PX + 4), label, "black", font)
    write_small(strip, path)


def watch(client):
    """The previews' events of one generation, and its picture's."""
    body = {"prompt": STRIP_PROMPT, "seed": STRIP_SEED, "num_inference_steps": STRIP_STEPS, "previews": True}
    previews, name = [], ""
    with client.stream("POST", "/v1/generate", json=body, headers={"Accept": "text/event-stream"}) as response:
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "preview":
                previews.append(json.loads(value))
            elif field == "data" and name == "image":
                return previews, json.loads(value)
    raise SystemExit("the generation ended without a picture")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
