"""The judge's network: labels become maps, maps become the same labels again, and it can learn."""

import pytest
import torch

from model.evaluation.judge_network import (
    GRID,
    JudgeNetwork,
    JudgeShape,
    Maps,
    decode_peaks,
    encode_labels,
)
from model.training.judge_trainer import judge_loss

NUM_CLASSES, NUM_COLORS = 5, 3
TINY = JudgeShape(NUM_CLASSES, NUM_COLORS, channels=(8, 8, 8), blocks=(1, 1, 1))
NOTHING = [-1.0] * 6


def said(wanted):
    """What a perfect network would say of these targets."""
    color = torch.nn.functional.one_hot(wanted.color.clamp_min(0), NUM_COLORS).permute(0, 3, 1, 2).float() * 20
    return Maps(torch.logit(wanted.heat.clamp(1e-4, 1 - 1e-4)), wanted.box, color)


def test_decoding_gives_back_what_was_encoded():
    labels = torch.tensor(
        [
            [[1, 2, 0.1, 0.2, 0.4, 0.45], [4, 0, 0.5, 0.55, 0.93, 0.9], NOTHING],
            [[0, 1, 0.2, 0.2, 0.8, 0.9], NOTHING, NOTHING],
        ]
    )
    pictures = decode_peaks(said(encode_labels(labels, NUM_CLASSES)))
    for peaks, table in zip(pictures, labels, strict=True):
        expected = sorted(row for row in table.tolist() if row[0] >= 0)
        found = sorted([peak.kind, peak.color, *peak.box] for peak in peaks if peak.confidence > 0.5)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_a_centre_on_the_border_of_cells_is_one_object():
    labels = torch.tensor([[[3, 0, 0.25, 0.25, 0.5 + 0.25, 0.5 + 0.25]]])  # its centre is a corner of four cells
    wanted = encode_labels(labels, NUM_CLASSES)
    assert (wanted.heat == 1).sum() == 4
    (peaks,) = decode_peaks(said(wanted))
    assert [peak.kind for peak in peaks] == [3]


def test_one_place_is_one_object_even_where_two_classes_look_likely():
    labels = torch.tensor([[[3, 0, 0.2, 0.2, 0.5, 0.5]]])
    maps = said(encode_labels(labels, NUM_CLASSES))
    maps.heat[:, 1] = maps.heat[:, 3] - 0.1
    (peaks,) = decode_peaks(maps)
    assert [peak.kind for peak in peaks] == [3]


def test_an_empty_picture_has_no_objects():
    assert decode_peaks(said(encode_labels(torch.full((2, 4, 6), -1.0), NUM_CLASSES))) == [[], []]


def test_an_untrained_network_sees_next_to_nothing():
    torch.manual_seed(0)
    network = JudgeNetwork(TINY).eval()
    maps = network(torch.randn(2, 3, 128, 128))
    assert maps.heat.shape == (2, NUM_CLASSES, GRID, GRID)
    assert maps.box.shape == (2, 4, GRID, GRID)
    assert maps.color.shape == (2, NUM_COLORS, GRID, GRID)
    assert maps.heat.sigmoid().max() < 0.2


def test_an_unknown_colour_teaches_no_colour():
    known, unknown = (torch.tensor([[[3, shade, 0.2, 0.2, 0.5, 0.5]]]) for shade in (0.0, -1.0))
    maps = Maps(*(torch.zeros(1, channels, GRID, GRID) for channels in (NUM_CLASSES, 4, NUM_COLORS)))
    losses = [judge_loss(maps, encode_labels(labels, NUM_CLASSES)) for labels in (known, unknown)]
    assert losses[0] > losses[1]


def test_the_loss_is_least_for_the_truth():
    labels = torch.tensor([[[1, 2, 0.1, 0.2, 0.4, 0.45], [4, 0, 0.5, 0.55, 0.93, 0.9]]])
    wanted = encode_labels(labels, NUM_CLASSES)
    other = encode_labels(labels.flip(1) + torch.tensor([0, 0, 0.05, 0.05, 0.05, 0.05]), NUM_CLASSES)
    assert judge_loss(said(wanted), wanted) < 0.1 * judge_loss(said(other), wanted)
