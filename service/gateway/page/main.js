// Ties the page together: the desk, the wall, the jobs under way, the server's state, and the keys.

import { hasKey, useKey } from "./api.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { Jobs } from "./jobs.js";
import { Notices } from "./notices.js";
import { randomSeed } from "./recipe.js";
import { Status } from "./status.js";
import { Store } from "./store.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);

// Read out by screen readers; the same words twice are two announcements.
function announce(text) {
  const isAgain = $("announce").textContent === text;
  $("announce").textContent = isAgain ? `${text}\u00a0` : text;
}

// Whoever asks while the question stands gets the same answer.
let asking = null;

function askKey(message, notices, look) {
  asking ??= new Promise((resolve) => {
    const dialog = $("key");
    $("key-says").textContent = hasKey() ? `The key was not accepted. ${message}` : message;
    useKey(null);
    $("key-value").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        const value = $("key-value").value.trim();
        const isGiven = dialog.returnValue === "use" && value !== "";
        if (isGiven) useKey(value);
        const later = { detail: message, actions: [["Give a key", look]] };
        if (isGiven) notices.hide("key");
        else notices.show("key", "This server draws for those who have a key.", later);
        $("key-value").value = "";
        asking = null;
        resolve(isGiven);
      },
      { once: true },
    );
  });
  return asking;
}

function connectKeys(form, jobs, gallery) {
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  if (isMac) $("modifier").textContent = "⌘";
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const isTyping = event.target.matches("input, textarea, select");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.draw();
    else if (event.key === "Escape") jobs.cancelNewest();
    else if (event.key === "/" && !isTyping) form.focus();
    else if (event.key.startsWith("Arrow") && event.target === document.body) gallery.focusFirst();
    else return;
    event.preventDefault();
  });
}

async function start() {
  const notices = new Notices($("notices"), announce);
  const store = await Store.open();
  const form = new Form((recipe, n) => jobs.draw(recipe, n));
  const gallery = new Gallery({
    store,
    notices,
    announce,
    viewer: new Viewer(),
    handlers: {
      again: ({ recipe }) => jobs.draw(recipe, 1),
      vary: ({ recipe }) => jobs.draw({ ...recipe, seed: randomSeed() }, 1),
      edit: ({ recipe }) => form.fill(recipe),
    },
  });
  const ask = (message) => askKey(message, notices, () => status.look());
  const jobs = new Jobs({
    gallery,
    notices,
    announce,
    askKey: ask,
    onRefused: (error) => form.showRefusal(error),
    onChange: () => status.soon(),
  });
  const status = new Status({ onModels: (models) => form.setModels(models), askKey: ask, chosen: () => form.model?.id });

  connectKeys(form, jobs, gallery);
  await gallery.load();
  jobs.resume();
  status.look();
  setInterval(() => {
    const { fraction } = jobs;
    document.title = fraction === null ? "emmdit" : `${Math.round(fraction * 100)} % · emmdit`;
  }, 500);
}

start();
