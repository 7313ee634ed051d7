"""How to ask for each operation, as a person types it. Every one of them is run by the tests, as it stands here.

ADDRESS and EXAMPLE_ID stand for the service and for a job; so does KNOWN_MODEL for a model.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.gateway.openapi.faults import EXAMPLE_ID

ADDRESS = "http://127.0.0.1:8000"
KNOWN_MODEL = "demo"
CURL, PYTHON = "curl", "python"
_JSON = "-H 'Content-Type: application/json'"
_JOB = f"{ADDRESS}/v1/jobs/{EXAMPLE_ID}"


@dataclass(frozen=True, slots=True)
class Example:
    """What to type, what it does, and the status that comes back."""

    title: str
    language: str
    source: str
    status: int = 200

    @property
    def body(self) -> Any:  # noqa: ANN401  (JSON)
        """What a curl command sends; None for others."""
        words = shlex.split(self.source.replace("\\\n", " ")) if self.language == CURL else []
        return json.loads(words[words.index("-d") + 1]) if "-d" in words else None

    def at(self, address: str, model: str) -> str:
        """The source for this service."""
        return self.source.replace(ADDRESS, address).replace(f"/models/{KNOWN_MODEL}", f"/models/{model}")


EXAMPLES: Mapping[str, Sequence[Example]] = {
    "generate": (
        Example(
            "A picture into a file",
            CURL,
            f"""curl -s {ADDRESS}/v1/generate {_JSON} \\
     -H 'Accept: image/png' -o apple.png \\
     -d '{{"prompt":"a photo of a red apple"}}'""",
        ),
        Example(
            "JSON, with every value that was used",
            CURL,
            f"""curl -s {ADDRESS}/v1/generate {_JSON} \\
     -d '{{"prompt":"two blue cats","seed":7,"n":2,"output_format":"webp","output_compression":80}}'""",
        ),
        Example(
            "Events while it is drawn",
            CURL,
            f"""curl -sN {ADDRESS}/v1/generate {_JSON} \\
     -H 'Accept: text/event-stream' \\
     -d '{{"prompt":"a green car","partial_images":1}}'""",
        ),
        Example(
            "A job, to be fetched later; the key makes it safe to send again",
            CURL,
            f"""curl -si {ADDRESS}/v1/generate {_JSON} \\
     -H 'Prefer: respond-async' -H 'Idempotency-Key: order-4711' \\
     -d '{{"prompt":"a green car","n":4}}'""",
            202,
        ),
        Example(
            "A mistake",
            CURL,
            f"""curl -s {ADDRESS}/v1/generate {_JSON} \\
     -d '{{"prompt":"a red apple","n":99}}'""",
            400,
        ),
        Example(
            "httpx: a picture into a file",
            PYTHON,
            f"""import httpx

answer = httpx.post(
    "{ADDRESS}/v1/generate",
    json={{"prompt": "a photo of a red apple", "seed": 7}},
    headers={{"Accept": "image/png"}},
    timeout=300,
)
answer.raise_for_status()
open("apple.png", "wb").write(answer.content)
print(answer.headers["X-Seed"], answer.headers["X-Size"])""",
        ),
        Example(
            "httpx: events while it is drawn",
            PYTHON,
            f"""import httpx

body, headers = {{"prompt": "a green car"}}, {{"Accept": "text/event-stream"}}
with httpx.stream("POST", "{ADDRESS}/v1/generate", json=body, headers=headers, timeout=300) as answer:
    for line in answer.iter_lines():
        if line.startswith("event: "):
            print(line)""",
        ),
    ),
    "createImages": (
        Example(
            "A picture as base64",
            CURL,
            f"""curl -s {ADDRESS}/v1/images/generations {_JSON} \\
     -d '{{"prompt":"a red apple","quality":"low","seed":7}}'""",
        ),
        Example(
            "A signed link",
            CURL,
            f"""curl -s {ADDRESS}/v1/images/generations {_JSON} \\
     -d '{{"prompt":"a red apple","response_format":"url","output_format":"webp"}}'""",
        ),
        Example(
            "The openai SDK",
            PYTHON,
            f"""import base64

from openai import OpenAI

client = OpenAI(base_url="{ADDRESS}/v1", api_key="unused")
answer = client.images.generate(prompt="a red apple", extra_body={{"seed": 7}})
open("apple.png", "wb").write(base64.b64decode(answer.data[0].b64_json))""",
        ),
        Example(
            "The openai SDK: pictures half drawn while one waits",
            PYTHON,
            f"""from openai import OpenAI

client = OpenAI(base_url="{ADDRESS}/v1", api_key="unused")
for event in client.images.generate(prompt="a green car", stream=True, partial_images=2):
    print(event.type, event.size)""",
        ),
    ),
    "listJobs": (
        Example("The last five that are done", CURL, f"curl -s '{ADDRESS}/v1/jobs?state=done&limit=5'"),
        Example(
            "All pages",
            PYTHON,
            f"""import httpx

query = {{"limit": 100}}
while True:
    page = httpx.get("{ADDRESS}/v1/jobs", params=query).json()
    for job in page["data"]:
        print(job["id"], job["state"])
    if not page["has_more"]:
        break
    query["after"] = page["last_id"]""",
        ),
    ),
    "getJob": (
        Example("Look", CURL, f"curl -s {_JOB}"),
        Example(
            "Wait for its end",
            PYTHON,
            f"""import time

import httpx

while True:
    answer = httpx.get("{_JOB}")
    job = answer.json()
    if "Retry-After" not in answer.headers:
        break
    time.sleep(int(answer.headers["Retry-After"]))
print(job["state"], [image["url"] for image in job["images"]])""",
        ),
    ),
    "cancelJob": (Example("Cancel", CURL, f"curl -s -X DELETE {_JOB}"),),
    "watchJob": (
        Example("Everything", CURL, f"curl -sN {_JOB}/events"),
        Example(
            "Steps alone, after a break",
            CURL,
            f"""curl -sN -H 'Last-Event-ID: 1-0' \\
     '{_JOB}/events?previews=false&pictures=false'""",
        ),
    ),
    "getLivePicture": (Example("The frames into a file", CURL, f"curl -sN '{_JOB}/live?index=0' -o frames"),),
    "getPicture": (
        Example("As the job was asked for", CURL, f"curl -s {_JOB}/images/0 -o car.png"),
        Example("In another format", CURL, f"curl -s '{_JOB}/images/0?format=webp&compression=80' -o car.webp"),
    ),
    "listModels": (
        Example("All", CURL, f"curl -s {ADDRESS}/v1/models"),
        Example(
            "The openai SDK",
            PYTHON,
            f"""from openai import OpenAI

client = OpenAI(base_url="{ADDRESS}/v1", api_key="unused")
for model in client.models.list():
    print(model.id, model.default_size)""",
        ),
    ),
    "getModel": (Example("One", CURL, f"curl -s {ADDRESS}/v1/models/{KNOWN_MODEL}"),),
    "livez": (Example("Ask", CURL, f"curl -s {ADDRESS}/livez"),),
    "startupz": (Example("Ask", CURL, f"curl -s {ADDRESS}/startupz"),),
    "readyz": (Example("Ask", CURL, f"curl -s {ADDRESS}/readyz"),),
    "getMetrics": (Example("How many wait", CURL, f"curl -s {ADDRESS}/metrics"),),
}
