// How the server is, at a glance: ready or not, who waits, how much it draws. Looked at while somebody looks at the page.

import { ApiError, listModels, readMetrics } from "./api.js";

const PERIOD_MS = 4000;
const PERIOD_WHILE_GONE_MS = 1500;
const SOON_MS = 300;
const WINDOW_MS = 60_000;

export class Status {
  #glance = document.getElementById("glance");
  #text = document.getElementById("glance-text");
  #timer = 0;
  #counts = []; // [milliseconds, pictures drawn since the server's start], of the last minute
  #hasMetrics = true;
  #onModels;
  #askKey;
  #chosen;

  // `onModels(models)` gets every answer; `chosen()` is the name of the model that the desk has chosen.
  constructor({ onModels, askKey, chosen }) {
    this.#onModels = onModels;
    this.#askKey = askKey;
    this.#chosen = chosen;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    addEventListener("online", () => this.look());
  }

  // Something has changed: looked at once the server has had time to count it, and once for all that changes together.
  soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.look(), SOON_MS);
  }

  async look() {
    clearTimeout(this.#timer);
    let periodMs = PERIOD_MS;
    try {
      const models = await listModels();
      this.#onModels(models);
      this.#show(models, await this.#measure());
    } catch (error) {
      const asksForKey = error instanceof ApiError && error.status === 401;
      this.#counts = [];
      if (asksForKey) this.#say("busy", "Asks for a key");
      else if (error instanceof ApiError) this.#say("busy", "Busy or starting");
      else this.#say("gone", "No answer; looking again by itself");
      if (asksForKey && !(await this.#askKey(error.message))) return; // until somebody wants to give one
      periodMs = asksForKey ? 0 : PERIOD_WHILE_GONE_MS;
    }
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.look(), periodMs);
  }

  #show(models, load) {
    const model = models.find(({ id }) => id === this.#chosen()) ?? models[0];
    const parts = [model.is_ready ? counted(model.num_workers, "worker") : "No worker yet; what you ask for waits for one"];
    if (load) {
      parts.push(load.numRunning > 0 ? `${load.numRunning} being drawn` : "idle");
      if (load.numWaiting > 0) parts.push(`${load.numWaiting} waiting`);
      if (load.perMinute > 0) parts.push(`${counted(load.perMinute, "picture")} a minute`);
    }
    this.#say(model.is_ready ? "ready" : "busy", parts.join(" · "));
  }

  #say(tone, text) {
    this.#glance.dataset.tone = tone;
    if (this.#text.textContent !== text) this.#text.textContent = text;
  }

  // From the public metrics; null where they are kept from browsers, or the queue does not answer just now.
  async #measure() {
    if (!this.#hasMetrics) return null;
    try {
      const values = sums(await readMetrics());
      if (!values.has("emmdit_num_requests_waiting")) return null;
      return {
        numWaiting: values.get("emmdit_num_requests_waiting"),
        numRunning: values.get("emmdit_num_requests_running") ?? 0,
        perMinute: this.#perMinute(values.get("emmdit_images_total") ?? 0),
      };
    } catch (error) {
      this.#hasMetrics = !(error instanceof ApiError) || error.isBusy;
      return null;
    }
  }

  // What has been drawn in the minute before now, as far as this page has watched it.
  #perMinute(numDrawn) {
    const now = Date.now();
    if (numDrawn < (this.#counts.at(-1)?.[1] ?? 0)) this.#counts = []; // the server has started anew
    this.#counts = [...this.#counts.filter(([at]) => now - at <= WINDOW_MS), [now, numDrawn]];
    return numDrawn - this.#counts[0][1];
  }
}

// Each metric's sum over its labels, from Prometheus text.
function sums(text) {
  const values = new Map();
  for (const [, name, value] of text.matchAll(/^(\w+)(?:\{.*\})? (\S+)/gm)) {
    values.set(name, (values.get(name) ?? 0) + Number(value));
  }
  return values;
}

function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
