"""What can be done to a running service under load, by the numbers of the table in docs/chaos.md."""

from tests.chaos.faults import clients, devices, networks, servers, workers
from tests.chaos.faults.fault import Fault, Outcome, Scene

UNDER_LOAD: dict[int, Fault] = {
    number: inject
    for module in (workers, devices, servers, networks, clients)
    for number, inject in module.FAULTS.items()
}

__all__ = ["UNDER_LOAD", "Fault", "Outcome", "Scene"]
