"""How full a service's batches were between two looks at its /metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_KNOWN = ("emmdit_batch_size", "emmdit_batch_occupancy_ratio")
Counts = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Batches:
    """Means over the forwards in between. `occupancy` is rows under way over the worker's rows."""

    num_forwards: int
    mean_rows: float
    occupancy: float | None
    num_decodes: int
    mean_decoded: float | None


def read_counts(metrics: str) -> Counts:
    """Sums and counts of the batch histograms in an exposition text, by name and stage. Raises ValueError."""
    return {
        (sample.name, sample.labels.get("stage", "")): sample.value
        for family in text_string_to_metric_families(metrics)
        if family.name in _KNOWN
        for sample in family.samples
        if sample.name.endswith(("_sum", "_count"))
    }


def batches_between(before: Counts, after: Counts) -> Batches | None:
    """None where the page has no batches, as that of a gateway whose workers run apart."""

    def grown(name: str, stage: str) -> float:
        return after.get((name, stage), 0.0) - before.get((name, stage), 0.0)

    def mean(name: str, stage: str) -> float | None:
        count = grown(f"{name}_count", stage)
        return grown(f"{name}_sum", stage) / count if count > 0 else None

    mean_rows = mean("emmdit_batch_size", "denoise")
    if mean_rows is None:
        return None
    return Batches(
        num_forwards=int(grown("emmdit_batch_size_count", "denoise")),
        mean_rows=mean_rows,
        occupancy=mean("emmdit_batch_occupancy_ratio", ""),
        num_decodes=int(grown("emmdit_batch_size_count", "decode")),
        mean_decoded=mean("emmdit_batch_size", "decode"),
    )
