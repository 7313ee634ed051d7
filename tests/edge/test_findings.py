"""What searches have found, each as the request that shows it."""

import pytest

from service.job_events import decode_event

CONTENT = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/images/generations"])
def test_half_a_surrogate_in_a_fields_name_is_an_unknown_field(gateway, path):
    body = b'{"prompt": "a red apple", "prior\\ud83city": "high"}'
    response = gateway.client.post(path, content=body, headers=CONTENT)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "unknown_field"
    assert "prior\\ud83city" in error["message"]


@pytest.mark.parametrize("text", ["{}", '{"data": 7}', "[]", "7", '{"image": []}'])
@pytest.mark.parametrize("kind", ["preview", "partial", "drawn"])
def test_a_stored_event_without_its_fields_is_a_value_error(kind, text):
    with pytest.raises(ValueError, match="not "):
        decode_event(kind, text)
