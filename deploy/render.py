"""Writes what follows from other files, or with --check says what is out of date and what is wrong with the chart.

    python -m deploy.render            the chart's schema of settings, its copies, the manifests
    python -m deploy.render --check    changes nothing; lints the chart with every file of values in its folder ci

The chart's own files alone can be read by its templates, hence the copies.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helm_python
import yaml

from service.settings import Settings

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "emmdit"
MANIFESTS = DEPLOY / "kubernetes"
NAMESPACE = "emmdit"
KINDS = ("amd", "cpu", "nvidia")  # files of values for which there are manifests
COPIES = (
    ("prometheus/rules", "files/rules", "*.yml"),
    ("grafana/dashboards", "files/dashboards", "*.json"),
    ("redis", "files", "users.acl"),
)

# What the chart decides by itself. To set it twice would be to wonder which one counts.
OWN_SETTINGS = frozenset(
    {
        "allow_remote_without_keys",
        "blob_max_bytes",
        "blob_url",
        "compiled_dir",
        "data_dir",
        "drain_delay_s",
        "drain_timeout_s",
        "embedded_max_memory_bytes",
        "host",
        "models",
        "models_dir",
        "port",
        "redis_ca_file",
        "redis_cert_file",
        "redis_key_file",
        "redis_password",
        "redis_password_file",
        "redis_url",
        "s3_endpoint_url",
        "s3_region",
        "url_secret",
        "worker_metrics_port",
    }
)


def settings_schema() -> dict[str, Any]:
    """JSON schema of the settings that values may name: what the class says, less what the chart decides itself."""
    known = Settings.model_json_schema(mode="validation")["properties"]
    kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "pattern", "minLength", "anyOf", "description")
    properties = {
        name: {key: value for key, value in known[name].items() if key in kept}
        for name in sorted(known)
        if name not in OWN_SETTINGS
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def documents_in(text: str) -> list[dict[str, Any]]:
    """What a YAML file holds, empty documents left out. By libyaml: ten times as fast."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document is not None]


def load_values(name: str) -> dict[str, Any]:
    """The values in a file of the chart's folder ci."""
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text("utf-8"))
    return values


def value_files() -> list[str]:
    """The names of all files of values."""
    return sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))


def render(values: dict[str, Any], *, release: str = "emmdit") -> dict[str, str]:
    """The chart's manifests by template, empty ones left out. Raises helm_python.HelmError."""
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(chart.merge_values(values))
        found = chart.render(values, name=release, namespace=NAMESPACE)
    return {Path(path).name: text for path, text in sorted(found.items()) if text.strip() and path.endswith(".yaml")}


def manifest(name: str) -> str:
    """One file for kubectl, with everything in it but the secrets."""
    documents = [document for text in render(load_values(name)).values() for document in documents_in(text)]
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    for document in documents:
        document["metadata"]["namespace"] = NAMESPACE
        pods = document.get("spec", {}).get("template", {}).get("metadata", {})
        for metadata in (document["metadata"], pods):
            metadata.get("labels", {}).pop("app.kubernetes.io/managed-by", None)
    head = (
        f"# Written by `python -m deploy.render` from deploy/helm/emmdit with ci/{name}.yaml. What it means, and the\n"
        "# secrets that it needs: docs/deploy.md.\n"
    )
    return head + "".join("---\n" + _dump(document) for document in [namespace, *documents])


def chart_files() -> dict[Path, str]:
    """The chart's own files that follow from others, with their text."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    schema["$defs"]["settings"] = settings_schema()
    texts = {CHART / "values.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"}
    for source, target, pattern in COPIES:
        for path in sorted((DEPLOY / source).glob(pattern)):
            texts[CHART / target / path.name] = path.read_text("utf-8")
    return texts


def manifests() -> dict[Path, str]:
    """The files for kubectl, with their text."""
    return {MANIFESTS / f"{name}.yaml": manifest(name) for name in KINDS}


def out_of_date() -> list[str]:
    """Files that are not as they would be written, or that nothing writes any more."""
    texts = chart_files() | manifests()
    found = [str(path) for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    written = {path for folder in (CHART / "files", MANIFESTS) for path in folder.rglob("*") if path.is_file()}
    return found + [f"{path} (left over)" for path in sorted(written - texts.keys())]


def lint() -> list[str]:
    """What Helm has to say against the chart, with every file of values."""
    complaints = []
    for name in value_files():
        report = helm_python.lint(CHART, load_values(name), strict=True, namespace=NAMESPACE, kube_version="v1.29.0")
        complaints += [
            f"ci/{name}.yaml: {message['path']}: {message['error']}"
            for message in report["messages"]
            if message["severity"] > 1  # 1 is advice, such as to draw an icon
        ]
        complaints += [f"ci/{name}.yaml: {error}" for error in report["errors"]]
    return complaints


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, lists set in, nothing by reference."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def main() -> None:
    """Write, or check."""
    if sys.argv[1:] == ["--check"]:
        wrong = [f"{path}: run python -m deploy.render" for path in out_of_date()] + lint()
        sys.exit("\n".join(wrong) if wrong else 0)
    for texts in (chart_files, manifests):  # in this order: manifests are made with the chart as it then is
        for path, text in texts().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    for entry in out_of_date():
        Path(entry.removesuffix(" (left over)")).unlink()


if __name__ == "__main__":
    main()
