"""What is under deploy/ and docs/ for those who watch the service, and which metrics its queries use."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
RUNBOOKS = ROOT / "docs" / "runbooks"
# Grafana fills these in before it asks Prometheus.
VARIABLES = {"$__rate_interval": "1m", "$model": ".*", "$instance": ".*"}


@dataclass(frozen=True)
class Selector:
    """One selector of a query: the series' name and the labels that it asks for."""

    name: str
    labels: frozenset


def rules(kind):
    """All rules of a kind ("alert" or "record"), by name."""
    found = [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
        for rule in group["rules"]
        if kind in rule
    ]
    names = [rule[kind] for rule in found]
    assert len(set(names)) == len(names), "a name is there twice"
    return dict(zip(names, found, strict=True))


def dashboards():
    """Every dashboard, by its file's name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))}


def panel_queries(dashboard):
    """(title, query) of every panel, with Grafana's variables filled in."""
    return [
        (panel["title"], filled_in(target["expr"]))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def filled_in(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def written_queries(path):
    """The ```promql blocks of a page, one query each."""
    return re.findall(r"```promql\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def selectors(query):
    """Every selector of a query. Raises ValueError for one that is no PromQL."""
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            matchers = node.matchers.matchers
            name = node.name or next(matcher.value for matcher in matchers if matcher.name == "__name__")
            found.append(Selector(name, frozenset(matcher.name for matcher in matchers) - {"__name__"}))
        for part in ("lhs", "rhs", "expr", "vector_selector"):
            if (below := getattr(node, part, None)) is not None:
                visit(below)
        for below in getattr(node, "args", ()) or ():
            visit(below)

    visit(promql_parser.parse(query))
    return found


def all_queries():
    """(where, query) of everything that we ask Prometheus anywhere."""
    for kind in ("alert", "record"):
        for name, rule in rules(kind).items():
            yield f"rule {name}", rule["expr"]
    for name, dashboard in dashboards().items():
        for title, query in panel_queries(dashboard):
            yield f"dashboard {name}: {title}", query
    for path in (*sorted(RUNBOOKS.glob("*.md")), ROOT / "docs" / "monitoring.md"):
        for query in written_queries(path):
            yield path.name, query
