"""Dashboards are what make.py makes, ask for what there is, and turn red where an alert would fire."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.monitoring.files import DASHBOARDS, all_queries, dashboards, filled_in, panel_queries, rules, selectors
from tests.support.metric_page import registered

GRAFANA = DASHBOARDS.parent
OUTSIDE = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}  # Prometheus' own


def test_the_files_are_what_the_program_makes(tmp_path):
    subprocess.run([sys.executable, GRAFANA / "make.py", tmp_path], check=True)
    made = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text("utf-8") for path in DASHBOARDS.iterdir()}
    assert made == kept, "run `python deploy/grafana/make.py`"
    assert set(kept) == {"overview.json", "worker.json", "queue.json", "tenants.json"}


def test_every_query_anywhere_asks_for_metrics_and_labels_that_there_are():
    known = {series: metric.labels for metric in registered().values() for series in metric.series} | OUTSIDE
    recorded = rules("record")
    num_queries = 0
    for where, query in all_queries():
        for selector in selectors(filled_in(query)):
            assert selector.name in known or selector.name in recorded, f"{where}: {selector.name}"
            if selector.name in known:
                unknown = selector.labels - known[selector.name] - {"job", "instance", "le"}
                assert not unknown, f"{where}: {selector.name} has no label {unknown}"
        num_queries += 1
    assert num_queries > 100


def test_what_every_gateway_tells_alike_is_never_added_up():
    shared = {name for name, metric in registered().items() if name.startswith(("emmdit_queue_", "emmdit_num_"))}
    shared -= {"emmdit_queue_wait_seconds"}
    for where, query in all_queries():
        for name in shared:
            assert f"sum({name}" not in query, where
            assert f") ({name}" not in query or f"max by (model) ({name}" in query, where


def test_every_rule_that_is_recorded_is_used():
    used = {selector.name for _, query in all_queries() for selector in selectors(filled_in(query))}
    assert set(rules("record")) - used == set()


@pytest.mark.parametrize("name", dashboards())
def test_a_panel_says_what_it_shows_in_which_unit_and_overlaps_no_other(name):
    dashboard = dashboards()[name]
    assert dashboard["uid"] == f"emmdit-{name}"
    cells = set()
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in own) < 24
        assert not own & cells, panel["title"]
        cells |= own
        if panel["type"] == "text":
            continue
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_a_panel_turns_red_where_the_alert_fires():
    def steps(dashboard, title):
        (panel,) = (panel for panel in dashboards()[dashboard]["panels"] if panel["title"] == title)
        return [(step["value"], step["color"]) for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]

    assert steps("queue", "Oldest waiting") == [(None, "green"), (60, "orange"), (240, "red")]
    assert steps("queue", "Disk for pictures") == [(None, "red"), (0.05, "orange"), (0.15, "green")]
    assert steps("overview", "Workers") == [(None, "red"), (1, "green")]
    assert steps("overview", "Failed, last hour") == [(None, "green"), (0.005, "orange"), (0.072, "red")]
    assert steps("queue", "Cancelled") == [(None, "green")]


def test_grafana_is_told_where_dashboards_and_prometheus_are():
    compose = yaml.safe_load((GRAFANA.parents[1] / "docker-compose.yml").read_text("utf-8"))["services"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/emmdit.yml").read_text("utf-8"))["providers"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"].split("//")[1].split(":")[0] in compose
    if "grafana" in compose:
        mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
        assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
        assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_dashboards_use_every_variable_that_they_offer():
    for name, dashboard in dashboards().items():
        text = (Path(DASHBOARDS) / f"{name}.json").read_text("utf-8")
        for variable in dashboard["templating"]["list"]:
            assert f"${variable['name']}" in text or f"${{{variable['name']}}}" in text, variable["name"]
        assert panel_queries(dashboard)
