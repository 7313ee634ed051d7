"""What the service is made of is known: licences of what is installed, and an audit that never claims too much."""

import json
import re

from supply import audit, licences

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
FAULTY = {
    "name": "faulty",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def test_every_package_that_runs_is_permissively_licensed():
    for package in licences.installed_to_run():
        licence = licences.licence_of(package)
        assert licences.parts_of(licence) <= licences.PERMISSIVE | licences.PER_FILE, (package.name, licence)


def test_the_page_names_every_package_and_its_licence():
    rows = set(re.findall(r"^\| .* \|$", licences.page(), re.MULTILINE))
    written = set((licences.ROOT / "docs" / "licences.md").read_text("utf-8").splitlines())
    assert rows <= written, "write it anew: python -m supply.licences > docs/licences.md"


def test_the_weights_on_the_page_are_all_that_can_be_had():
    text = (licences.ROOT / "docs" / "licences.md").read_text("utf-8")
    for name in ("demo", "demo-dist", "demo-grpo", "Nitro-E", "Llama 3.2", "DC-AE"):
        assert name in text


def test_a_licence_that_is_not_known_to_be_permissive_is_noticed():
    assert not licences.parts_of("MIT AND (GPL-3.0-only OR AGPL-3.0)") <= licences.PERMISSIVE
    assert not licences.parts_of("unknown") <= licences.PERMISSIVE
    assert licences.parts_of("Apache-2.0 WITH LLVM-exception AND BSD-2-Clause") <= licences.PERMISSIVE


def answering(monkeypatch, **reports):
    def outcome_of(service):
        packages = reports.get(service)
        return audit.read_report("no JSON" if packages is None else json.dumps({"dependencies": packages}))

    monkeypatch.setattr(audit, "run_audit", outcome_of)


def test_a_vulnerability_fails_the_audit_and_is_named(monkeypatch, capsys):
    answering(monkeypatch, pypi=[SOUND, FAULTY, UNKNOWN])
    assert audit.main() == 1
    assert "faulty 1.0: PYSEC-2026-1, mended in 1.1" in capsys.readouterr().out


def test_an_audit_without_findings_says_what_it_did_not_know(monkeypatch, capsys):
    answering(monkeypatch, pypi=[SOUND, UNKNOWN])
    assert audit.main() == 0
    assert "knew 1 packages, not 1; 0 vulnerabilities" in capsys.readouterr().out


def test_the_second_service_is_asked_where_the_first_knows_nothing(monkeypatch, capsys):
    answering(monkeypatch, pypi=[UNKNOWN], osv=[FAULTY])
    assert audit.main() == 1
    assert "pypi answered nothing" in capsys.readouterr().out


def test_no_answer_at_all_is_said_aloud_and_not_called_a_success(monkeypatch, capsys):
    answering(monkeypatch, pypi=[UNKNOWN, UNKNOWN])
    assert audit.main() == 0
    assert "SKIPPED" in capsys.readouterr().out
