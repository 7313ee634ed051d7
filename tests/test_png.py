"""PNGs hold the pixels exactly, and say where they come from only as far as the operator wants."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from model.params import GenerationParams
from service.marks import TRAINED_ALGORITHMIC_MEDIA
from service.png import encode_png, png_text

PARAMS = GenerationParams("ein roter Apfel", 48, 32, 20, 4.5, 7, negative_prompt="blurry")
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def text_for(mode, prompt="ein roter Apfel"):
    return png_text(PARAMS, model="demo", model_version="3", prompt=prompt, mode=mode)


def read(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_pixels_survive_exactly(level):
    image = read(encode_png(PIXELS, {}, compress_level=level))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_a_transposed_view_is_written_as_it_looks():
    view = PIXELS.transpose(1, 0, 2)
    np.testing.assert_array_equal(np.asarray(read(encode_png(view, {}))), view)


def test_minimal_metadata_names_the_recipe_but_not_the_prompt():
    text = read(encode_png(PIXELS, text_for("minimal"))).text
    assert text["Software"].startswith("emmdit ")
    assert text["Seed"] == "7"
    assert text["Num-Inference-Steps"] == "20"
    assert text["Guidance-Scale"] == "4.5"
    assert text["Size"] == "48x32"
    assert text["Model"] == "demo"
    assert text["Model-Version"] == "3"
    assert not any("Apfel" in value or "blurry" in value for value in text.values())


@pytest.mark.parametrize("mode", ["minimal", "full"])
def test_a_picture_says_in_iptcs_words_that_a_model_has_made_it(mode):
    xmp = read(encode_png(PIXELS, text_for(mode))).info["xmp"].decode()
    description = ElementTree.fromstring(xmp).find(f"{RDF}RDF/{RDF}Description")
    assert description.get(f"{IPTC}DigitalSourceType") == TRAINED_ALGORITHMIC_MEDIA


def test_full_metadata_carries_prompts_in_any_script():
    prompt = "ein Äpfelchen 🍎 и 林檎"
    text = read(encode_png(PIXELS, text_for("full", prompt))).text
    assert text["Prompt"] == prompt
    assert text["Negative-Prompt"] == "blurry"


def test_no_metadata_means_no_text_chunk_at_all():
    png = encode_png(PIXELS, text_for("none"))
    assert read(png).text == {}
    assert b"tEXt" not in png
    assert b"iTXt" not in png


@pytest.mark.parametrize(
    "pixels",
    [PIXELS.astype(np.float32), PIXELS[..., 0], PIXELS[..., :2], PIXELS[:0]],
    ids=["float", "grey", "two channels", "empty"],
)
def test_what_is_not_a_picture_is_refused(pixels):
    with pytest.raises(ValueError, match="uint8"):
        encode_png(pixels, {})
