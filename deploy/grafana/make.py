"""Writes dashboards/*.json, or into another folder: `python deploy/grafana/make.py [FOLDER]`. A test keeps them true.

What is on them is in boards/; here is how Grafana wants it written. Surprising: lines at which a panel changes its
colour are read from the alerts, so that a dashboard never shows green while somebody is being woken.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import yaml
from boards import DASHBOARDS, Dashboard, Panel

FOLDER = Path(__file__).parent
ALERTS = FOLDER.parent / "prometheus" / "rules" / "alerts.yml"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
NUM_COLUMNS = 24
COLOURS = {"warning": "orange", "critical": "red"}
_LIMIT = re.compile(r"([<>]=?|==) ([\d.]+(?: \* [\d.]+)*)")


def limits(alerts: Sequence[str]) -> list[dict[str, Any]]:
    """Grafana's threshold steps for these alerts: green until the first of them would fire."""
    rules = {
        rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]
    }
    found = []
    for alert in alerts:
        sign, factors = _LIMIT.findall(rules[alert]["expr"])[0]
        colour = COLOURS[rules[alert]["labels"]["severity"]]
        found.append((sign, round(prod(float(factor) for factor in factors.split(" * ")), 6), colour))
    if not found:
        return [{"color": "green", "value": None}]
    if found[0][0] in (">", ">="):
        return [
            {"color": "green", "value": None},
            *({"color": c, "value": v} for _, v, c in sorted(found, key=lambda f: f[1])),
        ]
    if found[0][0] == "==":  # 0 is bad, anything else is not
        return [{"color": found[0][2], "value": None}, {"color": "green", "value": 1}]
    steps: list[dict[str, Any]] = []
    start = None
    for _, value, colour in sorted(found, key=lambda f: f[1]):  # below each value its own colour, above the last green
        steps.append({"color": colour, "value": start})
        start = value
    return [*steps, {"color": "green", "value": start}]


def target(index: int, expr: str, legend: str, panel: Panel) -> dict[str, Any]:
    """One query."""
    found: dict[str, Any] = {
        "refId": chr(ord("A") + index),
        "expr": expr,
        "legendFormat": legend,
        "datasource": DATASOURCE,
    }
    if panel.kind == "stat":
        found["instant"] = True
    if "http_request_duration" in expr:
        found["exemplar"] = True
    return found


def panel_json(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    """One panel at its place."""
    shown: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
    }
    if panel.kind == "text":
        return shown | {"options": {"mode": "markdown", "content": panel.description}}
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": limits(panel.alerts)}}
    if panel.min is not None:
        defaults["min"] = panel.min
    if panel.max is not None:
        defaults["max"] = panel.max
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 10,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.alerts else "off"},
        }
        options: dict[str, Any] = {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background" if panel.alerts else "value",
            "graphMode": "none",
            "textMode": "auto",
        }
    return shown | {
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [target(index, expr, legend, panel) for index, (expr, legend) in enumerate(panel.queries)],
    }


def variable(name: str, metric: str) -> dict[str, Any]:
    """A choice among the values of a label."""
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """Panels fill the rows from left to right, in their order."""
    panels = []
    x = y = row_height = 0
    for number, panel in enumerate(dashboard.panels, start=1):
        if x + panel.width > NUM_COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        panels.append(panel_json(number, panel, x, y))
        x += panel.width
        row_height = max(row_height, panel.height)
    datasource = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"emmdit-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["emmdit"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "E-MMDiT", "tags": ["emmdit"], "asDropdown": True, "keepTime": True}],
        "templating": {"list": [datasource, *(variable(*names) for names in dashboard.variables)]},
        "annotations": {"list": []},
        "panels": panels,
    }


def write(folder: Path) -> None:
    """All dashboards, one file each."""
    for dashboard in DASHBOARDS:
        text = json.dumps(dashboard_json(dashboard), indent=2, ensure_ascii=False) + "\n"
        (folder / f"{dashboard.name}.json").write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "dashboards")
