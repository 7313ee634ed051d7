"""docs/api.md names everything there is: paths, fields, codes."""

import ast
from pathlib import Path

from service import errors
from service.gateway.app import ROUTERS
from service.gateway.charging import CODES as QUOTA_CODES
from service.gateway.openai_schemas import ImageData, ImagesRequest, ImagesResponse
from service.gateway.openapi.faults import FAULTS
from service.gateway.responses import STATUS_OF, kind_of_status
from service.gateway.schemas import GenerateRequest, JobBody

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()
OPENAI_PAGE = (ROOT / "docs" / "openai.md").read_text()


def test_every_path_is_there():
    for router in ROUTERS:
        for route in router.routes:
            assert route.path in PAGE, route.path


def test_every_field_is_there():
    for name in (*GenerateRequest.model_fields, *JobBody.model_fields):
        assert f"`{name}`" in PAGE or f'"{name}"' in PAGE, name


def test_every_field_of_openais_is_on_its_page():
    for name in ImagesRequest.model_fields:
        assert f"`{name}`" in OPENAI_PAGE, name
    for name in (*ImagesResponse.model_fields, *ImageData.model_fields):
        assert f"`{name}`" in OPENAI_PAGE, name


def codes_in_the_code():
    """Of the exceptions, and of the refusals that exist only in HTTP."""
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type)}
    codes -= {errors.ConfigurationError.code, errors.TooManyKeys.code}  # never reach a client
    codes |= set(QUOTA_CODES.values())
    for source in (ROOT / "service" / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestRefused":
                codes |= {part.value for part in node.args[1:2] if isinstance(part, ast.Constant)}
    assert {"invalid_value", "no_worker", "body_too_large", "unknown_field"} <= codes
    return codes - {"http_error"}  # what the framework refuses beyond 404 and 405, which is nothing


def test_every_error_code_is_there():
    assert not {code for code in codes_in_the_code() if f"`{code}`" not in PAGE}


def test_every_error_code_is_in_the_description():
    of_paths_and_methods_that_are_not_there = {"not_found", "method_not_allowed"}
    assert {fault.code for fault in FAULTS} == codes_in_the_code() - of_paths_and_methods_that_are_not_there


def test_the_description_gives_every_error_the_status_that_it_gets():
    described = {(fault.status, fault.code) for fault in FAULTS}
    for kind, (status, words) in STATUS_OF.items():
        assert (status, kind.code) in described
        assert kind_of_status(status) == words
