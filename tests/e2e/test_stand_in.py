"""The published model's path at its full size, with random values in place of the weights: minutes and gigabytes."""

import io

import pytest
from PIL import Image

from model.random_bundle import make_random_bundle
from tests.e2e.harness import Service

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900)]

PUBLISHED_BYTES = 1_238_207_064


def test_the_service_draws_512px_pictures_with_a_stand_in_of_the_published_model(tmp_path):
    bundle = make_random_bundle("nitro-e-512", tmp_path / "stand-in", is_small=True)
    assert bundle.parts.transformer.stat().st_size == PUBLISHED_BYTES
    with Service(bundle.folder, tmp_path / "data", lease_s=15) as service, service.client(600) as client:
        body = {"prompt": "a photo of a red apple", "num_inference_steps": 2, "seed": 1}
        response = client.post("/v1/generate", json=body, headers={"Accept": "image/png"})
        assert response.status_code == 200, response.text
        picture = Image.open(io.BytesIO(response.content))
        assert picture.size == (512, 512)
        assert picture.getextrema() != ((0, 0),) * 3
        assert service.stop() == 0
