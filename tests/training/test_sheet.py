from PIL import Image

from model.training.sheet import NUM_COLUMNS, PROMPTS, write_sheet


def test_a_sheet_shows_every_prompt_and_is_the_same_twice(tiny_bundle, tmp_path):
    write_sheet(tiny_bundle.folder, tmp_path / "one.png", steps=1)
    write_sheet(tiny_bundle.folder, tmp_path / "two.png", steps=1)
    sheet = Image.open(tmp_path / "one.png")
    assert sheet.width >= NUM_COLUMNS * 64
    assert sheet.height >= len(PROMPTS) // NUM_COLUMNS * 64
    assert sheet.tobytes() == Image.open(tmp_path / "two.png").tobytes()
