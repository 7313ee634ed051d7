"""What a dashboard is made of. make.py turns it into Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are pairs of PromQL and legend; `alerts` give it their limits as thresholds."""

    title: str
    unit: str
    description: str
    queries: tuple[tuple[str, str], ...] = ()
    alerts: tuple[str, ...] = ()
    kind: Literal["timeseries", "stat", "text"] = "timeseries"
    width: int = 12
    height: int = 8
    min: float | None = 0
    max: float | None = None
    is_stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One file. `variables` are pairs of a label and the metric that has its values."""

    name: str
    title: str
    description: str
    variables: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


def stat(title: str, unit: str, expr: str, description: str, *alerts: str, max: float | None = None) -> Panel:
    """One number, as it is now."""
    return Panel(title, unit, description, ((expr, ""),), alerts, "stat", 4, 4, max=max)


def quantiles(metric: str, by: str = "", where: str = "") -> tuple[tuple[str, str], ...]:
    """Median and 95th percentile of a histogram."""
    labels = ", ".join(("le", by)) if by else "le"
    rates = f"sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval]))"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple((f"histogram_quantile({q}, {rates})", f"{legend}p{q * 100:.0f}") for q in (0.5, 0.95))


def mean(metric: str, by: str = "", where: str = "") -> str:
    """Mean of what a histogram observed."""
    group = f" by ({by})" if by else ""
    top, bottom = (f"sum{group} (rate({metric}_{end}{where}[$__rate_interval]))" for end in ("sum", "count"))
    return f"{top} / {bottom}"
