"""Examples as a shell would run them, but sent by httpx: what a curl command asks for."""

import shlex
from dataclasses import dataclass, field

FLAGS = {"s", "i", "N"}


@dataclass
class CurlCommand:
    """One request, and the file that its answer goes into."""

    url: str = ""
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    data: str | None = None
    output: str | None = None

    def send(self, client):
        """The answer. Without -d no body is sent."""
        content = None if self.data is None else self.data.encode()
        return client.request(self.method, self.url, headers={"Accept": "*/*"} | self.headers, content=content)


def parse_curl(text):
    """The request of a curl command that uses nothing but -s -i -N -X -H -d -o."""
    program, *words = shlex.split(text.replace("\\\n", " "))
    assert program == "curl", text
    command = CurlCommand()
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            command.headers[name] = value
        elif word == "-d":
            command.data, command.method = words.pop(0), "POST"
        elif word == "-X":
            command.method = words.pop(0)
        elif word == "-o":
            command.output = words.pop(0)
        elif word.startswith("-"):
            assert set(word[1:]) <= FLAGS, f"{word} in {text}"
        else:
            assert not command.url, text
            command.url = word
    assert command.url.startswith("http"), text
    return command
