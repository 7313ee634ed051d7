"""GET /openapi.json and GET /docs: the description of the interface, for machines and as a page to read.

The page is made here, from the document, once: it needs no script, and nothing of another host. All words on it are
escaped, our own too; only `code` between backticks and paragraphs are markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.gateway.openapi.document import Document
from service.gateway.openapi.parts import Json
from service.gateway.webpage import PageFile, answer

POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"
TITLE = "emmdit: the interface"
TYPE_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
    "array": "list",
    "null": "null",
}
router = APIRouter()


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The document."""
    return answer(request, reference_of(request).document_file)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page."""
    return answer(request, reference_of(request).page_file)


@dataclass
class Reference:
    """Both forms of one gateway's description, each made when it is first asked for."""

    document: Document

    @cached_property
    def document_file(self) -> PageFile:
        """For machines."""
        return PageFile.of(json.dumps(self.document.body).encode(), "application/json", POLICY)

    @cached_property
    def page_file(self) -> PageFile:
        """For people."""
        return PageFile.of(render_page(self.document.body).encode(), "text/html", POLICY)


def reference_of(request: Request) -> Reference:
    """This gateway's."""
    reference: Reference = request.app.state.reference
    return reference


def render_page(document: Json) -> str:
    """The whole page."""
    by_tag: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append((method, path, operation))
    schemas = document["components"]["schemas"]
    shapes = {name: schema for name, schema in schemas.items() if not name.endswith("Request")}
    body = [
        f'<p class="lead">{_inline(document["info"]["description"])}</p>',
        f"<p>Version {_escape(document['info']['version'])}. For programs: "
        '<a class="link" href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for tag in document["tags"]:
        body.append(f'<h2 id="{_anchor(tag["name"])}">{_escape(tag["name"])}</h2>{_paragraphs(tag["description"])}')
        body += [_operation(document, *found) for found in by_tag[tag["name"]]]
    body.append('<h2 id="shapes">Shapes</h2><p>What the answers consist of.</p>')
    body += [_shape(name, schema) for name, schema in shapes.items()]
    return f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <meta name="referrer" content="no-referrer">
  <title>{TITLE}</title>
  <link rel="icon" href="/page/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/page/theme.css">
  <link rel="stylesheet" href="/page/reference.css">
  <script type="module" src="/page/reference.js"></script>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<nav class="contents" aria-label="Contents">{_contents(by_tag, shapes)}</nav>
<main id="content" tabindex="-1">
<h1>The interface</h1>
{"".join(body)}
</main>
</body>
</html>
"""


def _contents(by_tag: dict[str, list[tuple[str, str, Json]]], shapes: Iterable[str]) -> str:
    found = ['<p><a href="/">emmdit</a></p>']
    for tag, operations in by_tag.items():
        rows = "".join(
            f'<li><a href="#{_escape(operation["operationId"])}">{_escape(operation["summary"])}</a></li>'
            for _, _, operation in operations
        )
        found.append(f'<p><a href="#{_anchor(tag)}">{_escape(tag)}</a></p><ul>{rows}</ul>')
    rows = "".join(f'<li><a href="#{_escape(name)}">{_escape(name)}</a></li>' for name in shapes)
    return "".join(found) + f'<p><a href="#shapes">Shapes</a></p><ul>{rows}</ul>'


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    components = document["components"]
    parameters = [components["parameters"][_name(one)] for one in operation["parameters"]]
    found = [
        f'<h3 id="{_escape(operation["operationId"])}">{_escape(operation["summary"])}</h3>',
        f'<p class="route"><b>{_escape(method.upper())}</b> {_escape(path)}</p>',
        _paragraphs(operation["description"]),
    ]
    if "requestBody" in operation:
        name = _name(operation["requestBody"]["content"]["application/json"]["schema"])
        found.append(f"<h4>Fields of the body, one JSON object</h4>{_fields(components['schemas'][name])}")
    for where, title in (("path", "In the path"), ("query", "In the query"), ("header", "Headers")):
        rows = [_parameter(one) for one in parameters if one["in"] == where]
        if rows:
            found.append(f'<h4>{title}</h4><dl class="fields">{"".join(rows)}</dl>')
    successes = {status: one for status, one in operation["responses"].items() if status < "300"}
    failures = {status: one for status, one in operation["responses"].items() if status >= "400"}
    found.append(f'<h4>Answers</h4><dl class="fields">{"".join(map(_answer, successes.items()))}</dl>')
    rows = [_errors(status, one) for status, one in failures.items()]
    found.append(f'<details><summary>Errors</summary><dl class="fields">{"".join(rows)}</dl></details>')
    found.append("<h4>Examples</h4>" + "".join(map(_example, operation["x-codeSamples"])))
    return f"<section>{''.join(found)}</section>"


def _shape(name: str, schema: Json) -> str:
    words = _paragraphs(schema.get("description", ""))
    return f'<section><h3 id="{_escape(name)}">{_escape(name)}</h3>{words}{_fields(schema)}</section>'


def _fields(schema: Json) -> str:
    required = schema.get("required", []) if schema.get("additionalProperties") is False else []
    rows = (
        _row(name, one, one.get("description", ""), is_required=name in required)
        for name, one in schema["properties"].items()
    )
    return f'<dl class="fields">{"".join(rows)}</dl>'


def _parameter(parameter: Json) -> str:
    name, is_required = parameter["name"], parameter["required"]
    return _row(name, parameter["schema"], parameter["description"], is_required=is_required)


def _row(name: str, schema: Json, description: str, *, is_required: bool) -> str:
    must = '<small class="must">required</small>' if is_required else ""
    limits = "; ".join(_limits(schema))
    shown = f'<p class="limits">{limits}</p>' if limits else ""
    kind = f"<small>{_kind(schema)}</small>"
    return f"<div><dt><code>{_escape(name)}</code>{kind}{must}</dt><dd>{_paragraphs(description)}{shown}</dd></div>"


def _answer(item: tuple[str, Json]) -> str:
    status, response = item
    forms = ", ".join(
        f"<code>{_escape(kind)}</code>" + (f" ({_link(one['schema'])})" if "$ref" in one.get("schema", {}) else "")
        for kind, one in response.get("content", {}).items()
    )
    events = response.get("content", {}).get("text/event-stream", {}).get("schema", {}).get("anyOf", [])
    lines = [f"<p>{_inline(response['description'])}</p>", f'<p class="limits">{forms}</p>' if forms else ""]
    if events:
        lines.append(f'<p class="limits">events: {", ".join(map(_event, events))}</p>')
    lines.append(f'<p class="limits">headers: {_codes(response["headers"])}</p>')
    return f"<div><dt><code>{_escape(status)}</code></dt><dd>{''.join(lines)}</dd></div>"


def _event(event: Json) -> str:
    name = event["properties"].get("event", {}).get("const")
    shown = "without a name" if name is None else f"<code>{_escape(name)}</code>"
    return f"{shown} ({_link(event['properties']['data']['contentSchema'])})"


def _errors(status: str, response: Json) -> str:
    examples = response["content"]["application/json"]["examples"]
    rows = "".join(f"<p><code>{_escape(code)}</code> {_inline(one['summary'])}</p>" for code, one in examples.items())
    return f"<div><dt><code>{_escape(status)}</code></dt><dd>{rows}</dd></div>"


def _example(sample: Json) -> str:
    label = _escape(f"{sample['label']} ({sample['lang']})")
    copy = f'<button type="button" class="copy" aria-label="Copy: {label}" hidden>Copy</button>'
    # Focusable, so that long lines can be reached by the keyboard.
    code = f'<pre tabindex="0" role="region" aria-label="{label}"><code>{_escape(sample["source"])}</code></pre>'
    return f"<figure><figcaption>{label}{copy}</figcaption>{code}</figure>"


def _kind(schema: Json) -> str:
    """What it is, in a word or two."""
    if "$ref" in schema:
        return _link(schema)
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    words = " or ".join(TYPE_WORDS[kind] for kind in kinds)
    return f"{words} of {_kind(schema['items'])}" if "items" in schema else words


def _limits(schema: Json) -> Iterator[str]:
    """What it may be, in phrases."""
    if values := [value for value in schema.get("enum", []) if value is not None]:
        yield _codes(values)
    if "const" in schema:
        yield f"always <code>{_escape(json.dumps(schema['const']))}</code>"
    least, most = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        yield f"above {schema['exclusiveMinimum']:g}, to {most:,g}"
    elif least is not None and most is not None:
        yield f"{least:g} to {int(most) if most == int(most) else most}"
    if "maxLength" in schema:
        yield f"{schema['minLength']} to {schema['maxLength']} characters"
    if "default" in schema:
        yield f"not given: <code>{_escape(json.dumps(schema['default']))}</code>"


def _codes(values: Iterable[object]) -> str:
    return ", ".join(f"<code>{_escape(str(value))}</code>" for value in values)


def _link(schema: Json) -> str:
    name = _escape(_name(schema))
    return f'<a class="link" href="#{name}">{name}</a>'


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _anchor(tag: str) -> str:
    return "about-" + re.sub(r"[^a-z]+", "-", tag.lower())


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _escape(text))


def _escape(text: Any) -> str:  # noqa: ANN401  (whatever the document holds)
    return html.escape(str(text), quote=True)
