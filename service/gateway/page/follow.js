// One job from now to its end, through lost connections: a stream of events where the server has one, else polling.
//
// A browser opens six connections to one address. A tab therefore streams two jobs at most and polls the others, so
// that several tabs, and the requests beside the streams, still get through.

import { ApiError, Unreachable, getJob, isPassing, openEvents } from "./api.js";
import { parseEvents } from "./events.js";

const MAX_STREAMS = 2;
const POLL_MS = 600;
const MAX_PAUSE_MS = 5000;
const ENDED = new Set(["done", "failed", "cancelled", "expired"]);

let numStreams = 0;
let hasStreams = true;

// Yields {type, data}: what the server sends (job, preview, partial_image, image, and last done or error), and what the
// page finds out: gone and back (the connection), lost (the server does not know this job).
export async function* follow(id, signal) {
  const place = { lastEventId: "" };
  let numFailures = 0;
  for (;;) {
    try {
      for await (const event of look(id, place, signal)) {
        if (numFailures > 0) yield { type: "back" };
        numFailures = 0;
        yield event;
        if (event.type === "done" || event.type === "error") return;
      }
      if (numFailures > 0) yield { type: "back" };
      numFailures = 0;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 404) {
        yield { type: "lost", data: error };
        return;
      }
      if (!isPassing(error)) throw error;
      numFailures += 1;
      if (numFailures === 1) yield { type: "gone", data: error };
      await pause(Math.min(250 * 2 ** numFailures, MAX_PAUSE_MS), signal);
    }
  }
}

// One connection's worth of events, or one poll.
async function* look(id, place, signal) {
  if (hasStreams && numStreams < MAX_STREAMS) {
    numStreams += 1;
    try {
      yield* stream(id, place, signal);
      return;
    } catch (error) {
      // A server without the route says so in another word than for a job that it does not know.
      if (!(error instanceof ApiError) || error.code !== "not_found") throw error;
      hasStreams = false;
    } finally {
      numStreams -= 1;
    }
  }
  yield await poll(id, signal);
  await pause(POLL_MS, signal);
}

async function* stream(id, place, signal) {
  const body = await openEvents(id, place.lastEventId, signal);
  if (body === null) {
    yield await poll(id, signal);
    return;
  }
  const events = parseEvents(body);
  try {
    for (;;) {
      const { value: event, done } = await next(events);
      if (done) {
        await pause(POLL_MS, signal); // closed before the job's end: that server is stopping
        return;
      }
      if (event.id) place.lastEventId = event.id;
      yield { type: event.type, data: JSON.parse(event.data) };
    }
  } finally {
    await events.return();
  }
}

// A connection that breaks in the middle is the network's doing; nothing else in parsing throws.
async function next(events) {
  try {
    return await events.next();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
}

async function poll(id, signal) {
  const job = await getJob(id, signal);
  if (!ENDED.has(job.state)) return { type: "job", data: job };
  return job.state === "done" ? { type: "done", data: job } : { type: "error", data: { error: job.error, job } };
}

// Ends early when the browser finds its network again, and at once when nobody wants the job any more.
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}
