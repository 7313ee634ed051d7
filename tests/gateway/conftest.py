import itertools

import pytest

from tests.gateway.harness import running_gateway

_numbers = itertools.count()


@pytest.fixture
def start_gateway(embedded_server, tmp_path):
    """Start gateways with settings of a test's own: `with start_gateway(queue_capacity=1) as gateway`.

    All share one server; the model's name, which is part of every key, keeps them apart.
    """

    def start(url=embedded_server.url, **options):
        number = next(_numbers)
        return running_gateway(url, tmp_path / str(number), f"painter-{number}", **options)

    return start


@pytest.fixture(scope="module")
def gateway(embedded_server, tmp_path_factory):
    """One gateway with the settings as shipped, for all tests of a file that leave it as they find it."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(embedded_server.url, folder, f"painter-{next(_numbers)}") as harness:
        yield harness
