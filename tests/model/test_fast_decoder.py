import pytest
import torch
from diffusers import AutoencoderDC
from diffusers.models.normalization import RMSNorm
from torch import nn

from model.fast_decoder import FrugalRMSNorm, GroupedPointwise, make_fast
from model.native import load_native
from model.row_threads import computing_with
from model.winograd import MIN_CHANNELS, MIN_PIXELS, WinogradConv2d
from tests.support.tiny_bundle import TINY_AUTOENCODER


def convolution(num_in, num_out, kernel_px=3, **options):
    torch.manual_seed(0)
    options = {"padding": kernel_px // 2, **options}
    return nn.Conv2d(num_in, num_out, kernel_px, **options).requires_grad_(False)


def pictures(num, num_channels, height, width):
    return torch.randn(num, num_channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["in C", "by torch"])
def way(request, monkeypatch):
    if request.param == "by torch":
        monkeypatch.setattr("model.winograd.load_native", lambda name: None)
    elif load_native("winograd_tiles") is None:
        pytest.skip("no C compiler here")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 38), (40, 31), (70, 64)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_winograds_convolution_is_the_convolution(height, width, has_bias, num_threads):
    direct = convolution(MIN_CHANNELS, MIN_CHANNELS + 8, bias=has_bias)
    x = pictures(2, MIN_CHANNELS, height, width)
    with computing_with(num_threads):
        expected, found = direct(x), WinogradConv2d(direct)(x)
        assert torch.get_num_threads() == num_threads
    assert height * width >= MIN_PIXELS
    assert found.stride(1) == 1  # channels last, as the layers behind it expect
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.usefixtures("way")
def test_many_bands_and_a_short_or_overlapping_last_one_give_the_same_pixels(monkeypatch):
    direct, x = convolution(MIN_CHANNELS, MIN_CHANNELS), pictures(1, MIN_CHANNELS, 52, 48)
    whole = WinogradConv2d(direct)(x)
    # Two rows of tiles: of 13, the last band has only one left.
    monkeypatch.setattr("model.winograd._MIN_BAND_BYTES", 2 * 12 * 36 * 2 * MIN_CHANNELS * 4)
    monkeypatch.setattr("model.winograd._BAND_BYTES_PER_WEIGHT_BYTE", 0)
    torch.testing.assert_close(WinogradConv2d(direct)(x), whole, rtol=0, atol=1e-5)


def test_channels_that_the_code_in_c_has_no_lanes_for_are_left_to_torch():
    direct, x = convolution(MIN_CHANNELS + 1, MIN_CHANNELS + 3), pictures(1, MIN_CHANNELS + 1, 32, 32)
    torch.testing.assert_close(WinogradConv2d(direct)(x), direct(x), rtol=0, atol=1e-4)


def test_small_pictures_take_the_direct_way_to_the_bit():
    direct, x = convolution(MIN_CHANNELS, MIN_CHANNELS), pictures(3, MIN_CHANNELS, 8, 16)
    assert torch.equal(WinogradConv2d(direct)(x), direct(x))


@pytest.mark.parametrize(
    "other",
    [
        convolution(MIN_CHANNELS - 1, MIN_CHANNELS),
        convolution(MIN_CHANNELS, MIN_CHANNELS, 1),
        convolution(MIN_CHANNELS, MIN_CHANNELS, stride=2),
        convolution(MIN_CHANNELS, MIN_CHANNELS, padding=0),
        convolution(MIN_CHANNELS, MIN_CHANNELS, groups=2),
        convolution(MIN_CHANNELS, MIN_CHANNELS, padding_mode="reflect"),
        convolution(MIN_CHANNELS, MIN_CHANNELS).to(torch.bfloat16),
    ],
    ids=str,
)
def test_other_convolutions_are_left_as_they_are(other):
    assert not WinogradConv2d.suits(other)


def test_a_grouped_pointwise_convolution_is_one_batched_product():
    direct = convolution(24, 48, 1, groups=6, bias=False)
    x = pictures(2, 24, 5, 7)
    assert GroupedPointwise.suits(direct)
    torch.testing.assert_close(GroupedPointwise(direct)(x), direct(x))
    assert not GroupedPointwise.suits(convolution(24, 24, 1, groups=6))  # has a bias
    assert not GroupedPointwise.suits(convolution(24, 24, 1, groups=24, bias=False))  # depthwise


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_norm_of_fewer_passes_is_the_norm(has_bias):
    torch.manual_seed(0)
    norm = RMSNorm(MIN_CHANNELS, eps=1e-5, elementwise_affine=True, bias=has_bias).requires_grad_(False)
    for values in norm.parameters():
        values.normal_()
    x = pictures(2, MIN_CHANNELS, 5, 7).movedim(1, -1)
    given = x.clone()
    assert FrugalRMSNorm.suits(norm)
    torch.testing.assert_close(FrugalRMSNorm(norm)(x), norm(x))
    assert torch.equal(x, given)
    assert not FrugalRMSNorm.suits(RMSNorm(MIN_CHANNELS, eps=1e-5, elementwise_affine=False))
    assert not FrugalRMSNorm.suits(RMSNorm(MIN_CHANNELS, eps=1e-5).to(torch.bfloat16))
    assert not FrugalRMSNorm.suits(RMSNorm(24, eps=1e-5))


def test_a_decoder_made_fast_draws_the_same_pictures():
    torch.manual_seed(0)
    wide = {"decoder_block_out_channels": [64, MIN_CHANNELS, MIN_CHANNELS, MIN_CHANNELS]}
    decoder = AutoencoderDC(**TINY_AUTOENCODER | wide).decoder.eval().requires_grad_(False)
    latents = pictures(2, 4, 16, 16)
    expected = decoder(latents)
    make_fast(decoder)
    exchanged = {type(module) for module in decoder.modules()}
    assert {WinogradConv2d, GroupedPointwise, FrugalRMSNorm} <= exchanged
    found = decoder(latents.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))
