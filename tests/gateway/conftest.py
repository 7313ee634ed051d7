import itertools

import pytest

from tests.gateway.harness import running_gateway

_numbers = itertools.count()


@pytest.fixture
def start_gateway(service_url, tmp_path):
    """Start gateways with settings of a test's own: `with start_gateway(queue_capacity=1) as gateway`.

    All share one server; the models' names, which are part of every key, keep them apart. `num_models` are served.
    """

    def start(url=service_url, num_models=1, **options):
        number = next(_numbers)
        names = [f"{kind}-{number}" for kind in ("painter", "sketcher", "etcher")[:num_models]]
        return running_gateway(url, tmp_path / str(number), *names, **options)

    return start


@pytest.fixture(scope="module")
def gateway(service_url, tmp_path_factory):
    """One gateway with the settings as shipped, for all tests of a file that leave it as they find it."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(service_url, folder, f"painter-{next(_numbers)}") as harness:
        yield harness
