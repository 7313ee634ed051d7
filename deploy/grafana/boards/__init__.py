"""The dashboards, one module each: data only."""

from boards.overview import OVERVIEW
from boards.panel import Dashboard, Panel
from boards.queue import QUEUE
from boards.tenants import TENANTS
from boards.worker import WORKER

__all__ = ["DASHBOARDS", "Dashboard", "Panel"]

DASHBOARDS = (OVERVIEW, QUEUE, WORKER, TENANTS)
