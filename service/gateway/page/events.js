// Server-sent events from the body of a fetch. By hand because EventSource can send no Authorization header.

// Yields {type, data, id} for each event; `id` is the last one the stream has named. What is cut off is not an event.
export async function* parseEvents(stream) {
  let type = "";
  let data = [];
  let id = "";
  for await (const line of lines(stream)) {
    if (line === "") {
      if (data.length > 0) yield { type: type || "message", data: data.join("\n"), id };
      type = "";
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    if (colon === 0) continue; // a comment, which keeps the connection open
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") type = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  }
}

// Lines end with LF, CR LF or CR; a CR at the end of a piece may be the first half of a CR LF.
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split(/\r\n|\n|\r(?!$)/);
      rest = parts.pop();
      yield* parts;
    }
  } finally {
    await reader.cancel().catch(() => {}); // the other end may be gone already
  }
}
