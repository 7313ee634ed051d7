// The server's interface: one function a route. Every failure is an ApiError (it answered) or Unreachable (it did not).

import { recall, remember } from "./memory.js";

const KEY = "emmdit.key";

export class ApiError extends Error {
  // `retryAfterS` is null where the server did not say when to come back.
  constructor(status, detail, retryAfterS) {
    super(detail.message);
    this.name = "ApiError";
    this.status = status;
    this.code = detail.code;
    this.param = detail.param;
    this.retryAfterS = retryAfterS;
  }

  // One's own share is used up, where others may still get something.
  get isQuota() {
    return this.status === 429 && this.code !== "rate_limit_exceeded";
  }

  get isBusy() {
    return [429, 502, 503].includes(this.status) || this.code === "idempotency_in_progress";
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
    this.name = "Unreachable";
  }
}

// The key lives as long as the tab and travels in a header, never in an address.
let key = recall(KEY, null, "sessionStorage");

export function hasKey() {
  return key !== null;
}

// null forgets it.
export function useKey(value) {
  key = value;
  remember(KEY, value, "sessionStorage");
}

// Whether asking again later may help.
export function isPassing(error) {
  return error instanceof Unreachable || (error instanceof ApiError && error.isBusy);
}

async function call(path, { headers = {}, ...options } = {}) {
  const sent = key === null ? headers : { ...headers, Authorization: `Bearer ${key}` };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers: sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let detail;
  try {
    detail = (await response.json()).error;
  } catch {
    detail = undefined; // something between here and the server has answered in its own words
  }
  const milliseconds = Number(response.headers.get("retry-after-ms") ?? NaN);
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  const retryAfterS = Number.isFinite(milliseconds) ? milliseconds / 1000 : Number.isFinite(seconds) ? seconds : null;
  return new ApiError(
    response.status,
    detail ?? { message: `The server answered ${response.status}.`, code: "unknown", param: null },
    retryAfterS,
  );
}

// A body cut off in its middle is a server that has gone, not a fault of the page.
async function read(response, how) {
  try {
    return await response[how]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
}

export async function listModels() {
  return (await read(await call("/v1/models", { signal: AbortSignal.timeout(8000) }), "json")).data;
}

export async function readMetrics() {
  return read(await call("/metrics", { signal: AbortSignal.timeout(8000) }), "text");
}

// Accepted at once and drawn whether or not this page stays: a reload must not end it. `idempotencyKey` makes sending
// it twice harmless where the answer to the first was lost.
export async function submit(body, idempotencyKey) {
  const headers = {
    "Content-Type": "application/json",
    Prefer: "respond-async",
    "Idempotency-Key": idempotencyKey,
  };
  return read(await call("/v1/generate", { method: "POST", headers, body: JSON.stringify(body) }), "json");
}

export async function getJob(id, signal) {
  return read(await call(`/v1/jobs/${id}`, { signal }), "json");
}

export async function cancelJob(id) {
  return read(await call(`/v1/jobs/${id}`, { method: "DELETE" }), "json");
}

export async function getPicture(url) {
  return read(await call(url, { headers: { Accept: "image/png" } }), "blob");
}

// null where the stream has ended before: then the job itself says how.
export async function openEvents(id, lastEventId, signal) {
  const headers = { Accept: "text/event-stream" };
  if (lastEventId) headers["Last-Event-ID"] = lastEventId;
  const response = await call(`/v1/jobs/${id}/events`, { headers, signal });
  return response.status === 204 ? null : response.body;
}
