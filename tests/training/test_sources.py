"""What becomes of one picture, and of a folder that holds none."""

from dataclasses import replace

import pytest
from PIL import Image

from model.training.sources import SourceError, Unusable, open_sample, open_source


def test_pictures_are_turned_upright_flattened_and_cropped_to_the_middle(tmp_path):
    camera = Image.new("RGB", (40, 20), "red")
    camera.paste("blue", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: shown, the left half is the upper one
    camera.save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "turned.txt").write_text("Turned\n")
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    (tmp_path / "clear.txt").write_text("clear")
    clear_sample, turned_sample = open_source(tmp_path, 10).read(0)
    turned = open_sample(turned_sample, 16)
    assert turned.caption == "Turned"
    assert not turned.is_enlarged
    assert turned.pixels[2, 8].tolist() == [255, 0, 0]
    assert turned.pixels[13, 8].tolist() == [0, 0, 255]
    glass = open_sample(clear_sample, 32)
    assert glass.is_enlarged
    assert (glass.pixels == 255).all()
    with pytest.raises(Unusable, match="no caption"):
        open_sample(replace(clear_sample, caption=None), 32)


def test_sources_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(SourceError, match="no pictures"):
        open_source(tmp_path, 10)
    with pytest.raises(SourceError, match=r"neither a folder nor a \.tar file"):
        open_source(tmp_path / "gone", 10)
