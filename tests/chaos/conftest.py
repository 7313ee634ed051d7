import pytest

from tests.chaos.stack import Nurseries


@pytest.fixture(scope="package")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="package")
async def nurseries(anyio_backend):
    async with Nurseries() as nurseries:
        yield nurseries
