from PIL import Image

from model.training.sheet import NUM_COLUMNS, PROMPTS, write_sheet
from tests.support.tiny_bundle import write_tiny_bundle


def test_a_sheet_shows_every_prompt_and_is_the_same_twice(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    write_sheet(bundle.folder, tmp_path / "one.png", steps=1)
    write_sheet(bundle.folder, tmp_path / "two.png", steps=1)
    sheet = Image.open(tmp_path / "one.png")
    assert sheet.width >= NUM_COLUMNS * 64
    assert sheet.height >= len(PROMPTS) // NUM_COLUMNS * 64
    assert sheet.tobytes() == Image.open(tmp_path / "two.png").tobytes()
