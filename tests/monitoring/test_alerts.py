"""Rules, their cases and their runbooks belong together, and a real promtool agrees with all of them."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.monitoring.files import PROMETHEUS, ROOT, RUNBOOKS, rules

CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
NEEDS_PROMTOOL = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"),
]
SECTIONS = ("Users notice", "See it", "Likely causes", "Do", "Check", "Escalate")


def outcomes():
    """For each alert, whether some case expects it to fire, and some other that it keeps quiet."""
    found = {}
    for path in CASES:
        for case in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                found.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    return found


@pytest.mark.parametrize("name", rules("alert"))
def test_an_alert_says_how_bad_it_is_what_is_the_matter_and_what_to_read(name):
    alert = rules("alert")[name]
    assert re.fullmatch(r"Emmdit[A-Z]\w+", name)
    assert alert["labels"]["severity"] in ("warning", "critical")
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["summary"]
    assert notes["description"]
    runbook = ROOT / notes["runbook_url"]
    assert runbook.parent == RUNBOOKS
    assert f"`{name}`" in runbook.read_text("utf-8"), "its runbook does not name it"


def test_every_alert_is_seen_to_fire_and_to_keep_quiet():
    assert outcomes() == {name: {True, False} for name in rules("alert")}


def test_every_runbook_belongs_to_an_alert_and_has_every_section():
    used = {ROOT / alert["annotations"]["runbook_url"] for alert in rules("alert").values()}
    assert used == set(RUNBOOKS.glob("*.md"))
    for path in used:
        text = path.read_text("utf-8")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(SECTIONS), path.name
        assert "```promql" in text, path.name
        named = set(re.findall(r"`(Emmdit\w+)`", text))
        assert named <= set(rules("alert")), path.name


def test_the_page_about_monitoring_lists_every_alert_and_every_dashboard():
    text = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(Emmdit\w+)` \| (\w+) \|.*\(runbooks/[\w-]+\.md\) \|$", text, re.MULTILINE))
    assert rows == {name: alert["labels"]["severity"] for name, alert in rules("alert").items()}
    for name, alert in rules("alert").items():
        page = alert["annotations"]["runbook_url"].removeprefix("docs/")
        assert re.search(rf"^\| `{name}` \|.*\({page}\) \|$", text, re.MULTILINE), name


def promtool(*arguments):
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


class TestPromtool:
    pytestmark = NEEDS_PROMTOOL

    @pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
    def test_alerts_fire_where_they_should_and_nowhere_else(self, path):
        promtool("test", "rules", str(path))

    def test_rules_are_sound(self):
        promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, (PROMETHEUS / "rules").glob("*.yml")))
