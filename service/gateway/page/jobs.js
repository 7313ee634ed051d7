// What is under way: sent, followed to its end, cancelled, and found again after a reload.
//
// A job is remembered under an idempotency key before it is sent, so that neither a lost answer nor a reload in the
// middle can draw it twice or lose it.

import { ApiError, Unreachable, cancelJob, getPicture, isPassing, submit } from "./api.js";
import { follow, pause } from "./follow.js";
import { recall, remember } from "./memory.js";
import { recipeOf } from "./recipe.js";

const REMEMBERED = "emmdit.jobs";
const MAX_PAUSE_S = 30;
const FETCH_AGAIN_MS = 1000;

class GivenUp extends Error {}

export class Jobs {
  #gallery;
  #notices;
  #announce;
  #askKey;
  #onRefused;
  #onChange;
  #jobs = []; // oldest first

  // `askKey(message)` resolves to whether a key was given; `onRefused(error)` shows what is wrong with a request;
  // `onChange` is called when a job has been accepted, refused for now, or has ended.
  constructor({ gallery, notices, announce, askKey, onRefused, onChange }) {
    this.#gallery = gallery;
    this.#notices = notices;
    this.#announce = announce;
    this.#askKey = askKey;
    this.#onRefused = onRefused;
    this.#onChange = onChange;
  }

  draw(recipe, n) {
    this.#start({ key: crypto.getRandomValues(new Uint32Array(4)).join("-"), id: null, recipe, n, at: Date.now() });
  }

  resume() {
    for (const note of Object.values(recall(REMEMBERED, {}))) this.#start(note);
  }

  cancelNewest() {
    const job = this.#jobs.findLast((one) => !one.isCancelling);
    if (job) this.#cancel(job);
    return job !== undefined;
  }

  // From 0 to 1 over everything under way; null where nothing is.
  get fraction() {
    const figures = this.#jobs.flatMap((job) => job.figures);
    if (figures.length === 0) return null;
    return figures.reduce((sum, figure) => sum + (figure.isFinished ? 1 : figure.progress.value), 0) / figures.length;
  }

  #start(note) {
    const recipes = Array.from({ length: note.n }, (_, index) => recipeOf(note.recipe, index));
    const job = {
      note,
      figures: this.#gallery.begin(recipes),
      steps: recipes.map(() => 0), // of each picture, as its previews tell
      abort: new AbortController(),
      isCancelling: false,
      giveUp: null, // while it waits to be sent again: ends that
      hasSaidHalf: false,
    };
    for (const figure of job.figures) figure.onCancel(cancelLabel(note.n), () => this.#cancel(job));
    this.#jobs.push(job);
    keep(note);
    this.#run(job);
  }

  async #run(job) {
    try {
      if (job.note.id === null) await this.#submit(job);
      for await (const event of follow(job.note.id, job.abort.signal)) await this.#on(job, event);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401 && (await this.#askKey(error.message))) {
        this.#run(job);
        return;
      }
      if (error instanceof GivenUp) this.#announce("Cancelled.");
      else if (!job.abort.signal.aborted) this.#fail(job, error);
    }
    this.#end(job);
  }

  async #submit(job) {
    const body = { ...job.note.recipe, n: job.note.n, previews: true };
    for (let attempt = 1; job.note.id === null; attempt += 1) {
      try {
        job.note.id = (await submit(body, job.note.key)).id;
      } catch (error) {
        if (job.isCancelling) throw new GivenUp();
        if (!isPassing(error)) throw error;
        this.#onChange();
        const pauseS = error.retryAfterS ?? Math.min(2 ** attempt, MAX_PAUSE_S);
        await this.#waitForPlace(job, error, pauseS);
      }
    }
    keep(job.note);
    this.#onChange();
    if (job.isCancelling) this.#sendCancel(job);
    else this.#announce(`Accepted: ${job.note.recipe.prompt}.`);
  }

  // Counts down to the next attempt, which can be had at once or not at all.
  #waitForPlace(job, error, pauseS) {
    const isBusy = error instanceof ApiError;
    for (const figure of job.figures) figure.showWaiting(isBusy ? "waiting for a place" : "waiting for the server");
    return new Promise((resolve, reject) => {
      const until = Date.now() + pauseS * 1000;
      const end = (settle) => {
        clearInterval(timer);
        removeEventListener("online", again);
        job.giveUp = null;
        this.#notices.hide(job.note.key);
        settle();
      };
      const again = () => end(resolve);
      job.giveUp = () => end(() => reject(new GivenUp()));
      const busy = error.isQuota ? "You have asked for as much as you may for now." : "The server is busy.";
      const countdown = this.#notices.show(job.note.key, isBusy ? busy : "The server does not answer.", {
        tone: isBusy ? "busy" : "bad",
        detail: isBusy ? error.message : "What you asked for is kept, and sent as soon as it does.",
        actions: [["Try now", again], ["Give up", job.giveUp]],
      });
      const tick = () => {
        const leftS = Math.ceil((until - Date.now()) / 1000);
        countdown.textContent = `Trying again in ${Math.max(leftS, 0)} s.`;
        if (leftS <= 0) again();
      };
      const timer = setInterval(tick, 250);
      addEventListener("online", again);
      tick();
    });
  }

  async #on(job, { type, data }) {
    if (type === "job") this.#onJob(job, data);
    else if (type === "preview") this.#onPreview(job, data);
    else if (type === "image") await this.#keep(job, data.index, data.seed, data.b64_json ? decoded(data) : await this.#fetch(job, data.url));
    else if (type === "done") await this.#onDone(job, data);
    else if (type === "error") this.#onError(job, data);
    else if (type === "gone") for (const figure of unfinished(job)) figure.showWaiting("waiting for the server");
    else if (type === "lost") this.#ended(job, "The server no longer knows a picture that was under way.", data.message);
    else if (type === "back" && job.isCancelling) this.#sendCancel(job);
  }

  #onJob(job, body) {
    if (job.isCancelling) return;
    const left = remaining(body.estimated_seconds_left);
    const fraction = body.num_steps > 0 ? body.step / body.num_steps : 0;
    const numSteps = Math.round(body.num_steps / body.n);
    for (const [index, figure] of job.figures.entries()) {
      if (figure.isFinished) continue;
      if (body.state === "queued") {
        figure.showWaiting(place(body.position) + left);
      } else if (body.state === "running") {
        // Without previews only the sum over the job's pictures is known; they step together.
        job.steps[index] = Math.max(job.steps[index], Math.floor(fraction * numSteps));
        figure.showProgress(job.steps[index] / numSteps, `step ${job.steps[index]} of ${numSteps}${left}`);
      }
    }
    if (fraction >= 0.5 && !job.hasSaidHalf) {
      job.hasSaidHalf = true;
      this.#announce(`Half drawn: ${job.note.recipe.prompt}.`);
    }
  }

  #onPreview(job, { index, step, num_steps: numSteps, width, content_type: type, b64_json: data }) {
    const figure = job.figures[index];
    if (figure.isFinished || job.isCancelling) return;
    job.steps[index] = Math.max(job.steps[index], step);
    figure.showPreview(`data:${type};base64,${data}`, width);
    const done = job.steps[index];
    figure.showProgress(done / numSteps, figure.says.textContent.replace(/^[^·]*/, `step ${done} of ${numSteps} `).trim());
  }

  async #keep(job, index, seed, blob) {
    const figure = job.figures[index];
    if (figure.isFinished) return;
    const made = {
      id: `${job.note.id}/${index}`,
      job: job.note.id,
      recipe: { ...figure.recipe, seed },
      blob,
      madeAt: job.note.at - index, // newest first, and a job's pictures in their order
      seconds: null,
    };
    await this.#gallery.finish(figure, made);
  }

  // A picture that is done waits for the server as a job does.
  async #fetch(job, url) {
    for (;;) {
      try {
        return await getPicture(url);
      } catch (error) {
        if (!isPassing(error) || job.abort.signal.aborted) throw error;
        await pause(FETCH_AGAIN_MS, job.abort.signal);
      }
    }
  }

  // Pictures that this page has not seen come by themselves: it was reloaded, or polls.
  async #onDone(job, body) {
    for (const { index, url, seed } of body.images) {
      if (!job.figures[index].isFinished) await this.#keep(job, index, seed, await this.#fetch(job, url));
    }
    for (const figure of job.figures) await this.#gallery.note(figure, body.timings.inference_s);
    this.#announce(job.note.n > 1 ? `${job.note.n} pictures are ready.` : `Ready: ${job.note.recipe.prompt}.`);
  }

  #onError(job, { error, job: body }) {
    const state = body?.state; // none where the server could not say more than what is wrong
    if (state === "cancelled") this.#announce("Cancelled.");
    else this.#ended(job, state === "expired" ? "A picture took too long." : "A picture could not be drawn.", error.message);
  }

  #fail(job, error) {
    if (error instanceof ApiError && job.note.id === null) this.#onRefused(error);
    else this.#ended(job, "Something went wrong with a picture.", error.message);
  }

  #ended(job, text, detail) {
    const { key, recipe, n } = job.note;
    const again = () => {
      this.#notices.hide(key);
      this.draw(recipe, n);
    };
    const actions = [["Try again", again], ["Dismiss", () => this.#notices.hide(key)]];
    this.#notices.show(key, text, { tone: "bad", detail, actions });
  }

  #end(job) {
    for (const figure of unfinished(job)) this.#gallery.drop(figure);
    this.#jobs = this.#jobs.filter((one) => one !== job);
    forget(job.note);
    this.#onChange();
  }

  #cancel(job) {
    job.isCancelling = true;
    for (const figure of unfinished(job)) figure.showWaiting("cancelling");
    if (job.note.id !== null) this.#sendCancel(job);
    else job.giveUp?.(); // else it is on its way, and is cancelled when the server has said its id
  }

  async #sendCancel(job) {
    try {
      await cancelJob(job.note.id);
    } catch (error) {
      if (!(error instanceof Unreachable)) job.abort.abort(); // else it is said again when the server is back
    }
  }
}

// Another tab may have jobs of its own under way: each adds and takes away what is its own.
function keep(note) {
  remember(REMEMBERED, { ...recall(REMEMBERED, {}), [note.key]: note });
}

function forget(note) {
  const { [note.key]: _, ...others } = recall(REMEMBERED, {});
  remember(REMEMBERED, others);
}

function unfinished(job) {
  return job.figures.filter((figure) => !figure.isFinished);
}

function cancelLabel(n) {
  return n === 1 ? "Cancel" : n === 2 ? "Cancel both" : `Cancel all ${n}`;
}

function place(position) {
  return position === null || position === 0 ? "next in line" : `${position} before it`;
}

function remaining(seconds) {
  return seconds === null ? "" : ` · about ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s left`;
}

function decoded({ content_type: type, b64_json: data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type });
}
