"""What a worker says of itself: its record in the queue, and the memory that its page shows."""

from __future__ import annotations

import time

from model.loading import LoadedEngines
from service.batch import Batch
from service.metrics import WorkerGauges
from service.queue_types import WorkerInfo


class WorkerFacts:
    """Belongs to one worker, which began when this was made."""

    def __init__(self, worker_id: str, loaded: LoadedEngines, batch: Batch) -> None:
        self._id = worker_id
        self._loaded = loaded
        self._batch = batch
        self._started_at = time.time()

    def info(self, model: str, *, can_store: bool) -> WorkerInfo:
        """The record in one model's queue, with what its steps cost as busy as the worker is now."""
        engine = self._loaded.engines[model]
        summary = self._batch.summary(model)
        parts = [part for part in self._loaded.memory if model in part.models]
        return WorkerInfo(
            id=self._id,
            model=model,
            version=engine.card.version,
            device=str(engine.device),
            started_at=self._started_at,
            rate_cost_per_s=summary.rate_shared_cost_per_s,
            costs=summary.to_dict(),
            models=list(self._loaded.engines),
            memory={part.part: part.num_bytes for part in parts},
            shared_with={
                part.part: [other for other in part.models if other != model] for part in parts if len(part.models) > 1
            },
            can_store=can_store,
        )

    def show_weights(self, gauges: WorkerGauges) -> None:
        """What lies in memory for good; what models share is there once."""
        for part in self._loaded.memory:
            gauges.model_memory.labels("+".join(part.models), part.part).set(part.num_bytes)

    def show_device(self, gauges: WorkerGauges) -> None:
        """What the device's memory holds now: all engines are on the same."""
        for kind, num_bytes in next(iter(self._loaded.engines.values())).memory_bytes().items():
            gauges.device_memory.labels(kind).set(num_bytes)
