"""docs/metrics.md and the code name the same metrics, types and labels."""

import re

from service.metrics import BATCH_BUCKETS, HTTP_METHODS, STATUS_OF_STATE, batch_label
from tests.monitoring.files import ROOT
from tests.support.metric_page import registered

PAGE = (ROOT / "docs" / "metrics.md").read_text("utf-8")


def rows():
    """name -> (type, labels)"""
    found = re.findall(r"^\| `(emmdit_\w+)` \| (\w+) \| ([\w, -]+) \|(?: [^|]+ \|){4}$", PAGE, re.MULTILINE)
    assert len(found) == len({name for name, *_ in found}), "a metric is there twice"
    return {name: (kind, frozenset(labels.split(", ")) - {"-"}) for name, kind, labels in found}


def label_rows():
    found = re.findall(r"^\| ([a-z, ]+) \| (.*) \|$", PAGE.split("## Labels")[1].split("\n## ")[0], re.MULTILINE)
    return {name: values for names, values in found for name in names.split(", ")}


def test_every_metric_is_documented_and_the_reverse():
    assert rows() == {name: (metric.kind, metric.labels) for name, metric in registered().items()}


def test_every_label_has_its_values_written_down_and_the_reverse():
    used = {label for metric in registered().values() for label in metric.labels}
    assert set(label_rows()) - {"label"} == used


def test_the_closed_sets_of_the_code_are_the_documented_ones():
    written = label_rows()
    assert set(re.split(r"[,;] ", written["method"])) == HTTP_METHODS | {"other"}
    assert set(written["status"].split(", ")) == {*STATUS_OF_STATE.values(), "rejected"}
    batches = [batch_label(rows) for rows in (*BATCH_BUCKETS, BATCH_BUCKETS[-1] + 1)]
    assert written["batch"].split(":")[0].split(", ") == batches
