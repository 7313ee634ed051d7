// One picture on the page: its frame, what is seen while it forms, its label, and what can be done with it.

import { hasKey } from "./api.js";
import { asCurl, asPython, factsOf, fileName } from "./recipe.js";

export class Figure {
  // `recipe` says what is drawn. `onOpen` is called when a finished picture's frame is pressed.
  constructor(recipe, onOpen) {
    this.recipe = recipe;
    this.picture = null;
    this.element = create("li", "picture");
    this.frame = create("button", "frame");
    this.frame.type = "button";
    this.frame.tabIndex = -1;
    this.frame.addEventListener("click", () => this.picture && onOpen(this));
    this.plate = create("span", "plate");
    this.plate.style.setProperty("aspect-ratio", recipe.size.replace("x", " / "));
    this.frame.append(this.plate);
    this.progress = create("progress", "progress");
    this.progress.max = 1;
    this.says = create("p", "says");
    this.words = create("p", "title", recipe.prompt);
    this.facts = create("p", "facts", briefFacts(recipe));
    this.actions = create("div", "actions");
    const label = create("div", "label");
    label.append(this.words, this.facts, this.progress, this.says, this.actions);
    this.element.append(this.frame, label);
    this.showWaiting("sending");
  }

  get isFinished() {
    return this.picture !== null;
  }

  onCancel(label, cancel) {
    const button = create("button", "quiet", label);
    button.type = "button";
    button.addEventListener("click", cancel);
    this.actions.replaceChildren(button);
  }

  // In a queue, or on its way there: how long is not known step by step.
  showWaiting(text) {
    this.element.dataset.state = "waiting";
    this.progress.removeAttribute("value");
    this.#say(text);
  }

  showProgress(fraction, text) {
    this.element.dataset.state = "drawing";
    this.progress.value = fraction;
    this.plate.style.setProperty("--missing", String(1 - fraction));
    this.#say(text);
  }

  // `width` is the preview's own, in pixels: how large each of them is on the screen decides the blur.
  showPreview(url, width) {
    this.plate.style.setProperty("--pixel", `${this.plate.clientWidth / width}px`);
    this.#crossFade(url, "preview");
  }

  // `picture` is what the store keeps, with the `url` of its blob.
  showPicture(picture, actions) {
    this.picture = picture;
    this.element.dataset.state = "done";
    this.#crossFade(picture.url, "final");
    this.progress.remove();
    this.says.remove();
    this.actions.replaceChildren(...actions);
    this.frame.setAttribute("aria-label", `${picture.recipe.prompt}, seed ${picture.recipe.seed}: look closer`);
  }

  #say(text) {
    this.says.textContent = text;
    this.progress.setAttribute("aria-label", `${this.recipe.prompt}, seed ${this.recipe.seed}`);
    this.frame.setAttribute("aria-label", `${this.recipe.prompt}, seed ${this.recipe.seed}: ${text}`);
  }

  // The next picture comes over the one before, once it can be painted at once; nothing flashes in between.
  async #crossFade(url, kind) {
    const image = create("img", kind);
    image.alt = "";
    image.src = url;
    try {
      await image.decode();
    } catch {
      return; // a preview that cannot be shown is missed, no more
    }
    if (kind === "preview" && this.isFinished) return;
    const below = [...this.plate.children];
    this.plate.append(image);
    const fading = image.animate([{ opacity: 0 }, { opacity: 1 }], { duration: fadeMs(kind), easing: "ease-out" });
    fading.finished.then(() => below.forEach((old) => old.remove()));
  }
}

function fadeMs(kind) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return 0;
  return kind === "final" ? 600 : 220;
}

// What can be done with a finished picture. `handlers` are {again, vary, edit, remove}; minor ones stand where there is
// room for them.
export function actionsFor(picture, handlers, announce) {
  const { recipe } = picture;
  const action = (label, title, run, isMinor = false) => {
    const button = create("button", isMinor ? "quiet minor" : "quiet", label);
    button.type = "button";
    button.title = title;
    button.addEventListener("click", () => run(button));
    return button;
  };
  const copy = (text) => async (button) => {
    const isCopied = await copyText(text);
    announce(isCopied ? "Copied." : "This browser does not let the page copy.");
    const label = button.textContent;
    button.textContent = isCopied ? "Copied" : "Not copied";
    button.disabled = true;
    setTimeout(() => Object.assign(button, { textContent: label, disabled: false }), 1400);
  };
  const download = create("a", "quiet", "Download");
  Object.assign(download, { href: picture.url, download: fileName(recipe), title: "Save the PNG" });
  return [
    action("Again", "Again with this seed: the same picture", () => handlers.again(picture)),
    action("Vary", "The same words with a new seed", () => handlers.vary(picture)),
    download,
    action("Edit", "Take its words, settings and seed to the desk", () => handlers.edit(picture), true),
    action("Copy curl", "Copy a command that draws it", copy(asCurl(recipe, location.origin, hasKey())), true),
    action("Copy Python", "Copy a program that draws it", copy(asPython(recipe, location.origin, hasKey())), true),
    action("Remove", "Take it off this wall", () => handlers.remove(picture), true),
  ];
}

// The clipboard proper is for secure addresses only, which a server in one's own network seldom has.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(create("textarea", "heard"), { value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

function briefFacts(recipe) {
  const facts = new Map(factsOf(recipe));
  return `${facts.get("Model")} · ${facts.get("Size")} · ${facts.get("Steps")} steps · guidance ${facts.get("Guidance")} · seed ${facts.get("Seed")}`;
}

export function create(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
