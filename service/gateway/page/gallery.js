// The wall: the pictures under way and the latest ones large, earlier ones small, all kept in this browser.

import { Figure, actionsFor } from "./figure.js";
import { newestFirst } from "./store.js";

export class Gallery {
  #latest = document.getElementById("latest");
  #earlier = document.getElementById("earlier");
  #store;
  #notices;
  #announce;
  #viewer;
  #handlers;
  #figures = new Map(); // element -> Figure

  // `handlers` are {again, vary, edit}, each called with a kept picture.
  constructor({ store, notices, announce, viewer, handlers }) {
    this.#store = store;
    this.#notices = notices;
    this.#announce = announce;
    this.#viewer = viewer;
    this.#handlers = { ...handlers, remove: (picture) => this.#remove([picture]) };
    for (const list of [this.#latest, this.#earlier]) {
      list.addEventListener("keydown", (event) => this.#onKey(event));
      list.addEventListener("focusin", (event) => this.#rove(event.target.closest(".frame")));
    }
    // What is done with a picture is seen on the wall, so the viewer makes way for it.
    const closing = Object.fromEntries(
      Object.entries(this.#handlers).map(([name, run]) => [name, (picture) => viewer.close(() => run(picture))]),
    );
    viewer.connect({
      neighbour: (picture, by) => this.#neighbour(picture, by),
      actions: (picture) => this.#actions(picture, closing),
      onClose: (picture) => this.#frameOf(picture)?.focus(),
    });
    document.getElementById("remove-all").addEventListener("click", () => this.#remove(this.#pictures()));
  }

  // What was kept before, the newest job's pictures large. Called once, before any job goes on.
  async load() {
    const pictures = (await this.#store.all()).map(withUrl);
    for (const picture of pictures) {
      this.#hang(picture, picture.job === pictures[0].job ? this.#latest : this.#earlier);
    }
    this.#tidy();
  }

  // Frames for the pictures of one job, before anything is known of them.
  begin(recipes) {
    this.#moveFinished();
    const figures = recipes.map((recipe) => new Figure(recipe, (figure) => this.#viewer.open(figure.picture)));
    for (const figure of figures) this.#figures.set(figure.element, figure);
    this.#latest.prepend(...figures.map((figure) => figure.element));
    this.#tidy();
    showWhereHidden(figures[0].frame);
    return figures;
  }

  // A frame's picture has come. `made` is {id, job, recipe, blob, madeAt, seconds}.
  async finish(figure, made) {
    const picture = withUrl(made);
    const twin = this.#figureOf(picture); // kept before a reload, and its job still goes on
    if (twin && twin !== figure) this.#drop(twin);
    figure.showPicture(picture, this.#actions(picture));
    this.#tidy();
    await this.#keep(made);
  }

  // How long a finished picture's job was drawn; known when all of it is.
  async note(figure, seconds) {
    figure.picture.seconds = seconds;
    const { url: _, ...made } = figure.picture;
    await this.#keep(made);
  }

  async #keep(made) {
    try {
      const gone = new Set(await this.#store.put(made));
      for (const figure of [...this.#figures.values()]) if (gone.has(figure.picture?.id)) this.#drop(figure);
    } catch {
      this.#notices.show("store", "This browser keeps no more pictures: download what you want to have.", {
        tone: "bad",
        actions: [["Understood", () => this.#notices.hide("store")]],
      });
    }
    this.#tidy();
  }

  // A frame whose picture will not come.
  drop(figure) {
    const hadFocus = figure.element.contains(document.activeElement);
    this.#drop(figure);
    this.#tidy();
    if (hadFocus) document.getElementById("prompt").focus();
  }

  focusFirst() {
    this.#frames()[0]?.focus();
  }

  #hang(picture, list) {
    const figure = new Figure(picture.recipe, (opened) => this.#viewer.open(opened.picture));
    this.#figures.set(figure.element, figure);
    figure.showPicture(picture, this.#actions(picture));
    list.append(figure.element);
  }

  #moveFinished() {
    const finished = [...this.#latest.children].filter((element) => this.#figures.get(element).isFinished);
    this.#earlier.prepend(...finished);
  }

  async #remove(pictures) {
    for (const picture of pictures) {
      const frames = this.#frames();
      const place = frames.indexOf(this.#frameOf(picture));
      this.#drop(this.#figureOf(picture));
      this.#tidy();
      (frames[place + 1] ?? frames[place - 1] ?? document.getElementById("prompt")).focus();
    }
    await this.#store.remove(pictures.map(({ id }) => id));
    const what = pictures.length === 1 ? "The picture is" : `${pictures.length} pictures are`;
    const undo = async () => {
      this.#notices.hide("removed");
      for (const { url: _, ...picture } of pictures) await this.#store.put(picture);
      for (const picture of pictures) this.#hang(withUrl(picture), this.#earlier);
      this.#sort();
      this.#tidy();
    };
    this.#notices.show("removed", `${what} taken off the wall.`, {
      actions: [["Undo", undo], ["Dismiss", () => this.#notices.hide("removed")]],
    });
  }

  #sort() {
    const figures = [...this.#earlier.children].map((element) => this.#figures.get(element));
    figures.sort((a, b) => newestFirst(a.picture, b.picture));
    this.#earlier.append(...figures.map((figure) => figure.element));
  }

  #drop(figure) {
    this.#figures.delete(figure.element);
    figure.element.remove();
    if (figure.picture) setTimeout(() => URL.revokeObjectURL(figure.picture.url), 1000); // a fade may still show it
  }

  #actions(picture, handlers = this.#handlers) {
    return actionsFor(picture, handlers, this.#announce);
  }

  #figureOf(picture) {
    return [...this.#figures.values()].find((figure) => figure.picture?.id === picture.id);
  }

  #frameOf(picture) {
    return this.#figureOf(picture)?.frame;
  }

  #frames() {
    return [...document.querySelectorAll("#wall .frame")];
  }

  #pictures() {
    return this.#frames().map((frame) => this.#figures.get(frame.closest("li")).picture).filter((found) => found !== null);
  }

  #neighbour(picture, by) {
    const pictures = this.#pictures();
    return pictures[pictures.findIndex(({ id }) => id === picture.id) + by] ?? null;
  }

  // What depends on how many pictures there are.
  #tidy() {
    const pictures = this.#pictures();
    const numBytes = pictures.reduce((sum, { blob }) => sum + blob.size, 0);
    this.#latest.dataset.count = String(this.#latest.childElementCount);
    document.getElementById("empty").hidden = this.#figures.size > 0;
    document.getElementById("earlier-section").hidden = this.#earlier.childElementCount === 0;
    document.getElementById("keeping").hidden = pictures.length === 0;
    const where = this.#store.isLasting ? "kept in this browser alone" : "until this tab is closed";
    const many = pictures.length === 1 ? "1 picture" : `${pictures.length} pictures`;
    document.getElementById("keeping-text").textContent = `${many}, ${where} (${readable(numBytes)}).`;
    const frames = this.#frames();
    if (frames.length > 0 && !frames.some((frame) => frame.tabIndex === 0)) this.#rove(frames[0]);
  }

  // One frame is in the order of Tab; arrows reach the others.
  #rove(chosen) {
    if (!chosen) return;
    for (const frame of this.#frames()) frame.tabIndex = frame === chosen ? 0 : -1;
  }

  #onKey(event) {
    const frames = this.#frames();
    const place = frames.indexOf(event.target);
    if (place < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowLeft: () => frames[place - 1],
      ArrowRight: () => frames[place + 1],
      ArrowUp: () => across(frames, place, -1),
      ArrowDown: () => across(frames, place, 1),
      Home: () => frames[0],
      End: () => frames.at(-1),
    };
    if (event.key === "Delete" && this.#figures.get(event.target.closest("li")).picture) {
      this.#remove([this.#figures.get(event.target.closest("li")).picture]);
    } else if (event.key in moves) {
      moves[event.key]()?.focus();
    } else {
      return;
    }
    event.preventDefault();
  }
}

// On a phone the wall lies under the desk, and a long wall may be turned to its end: what was asked for would form unseen.
function showWhereHidden(frame) {
  const { top } = frame.getBoundingClientRect();
  if (top >= 0 && top < innerHeight * 0.75) return;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  frame.scrollIntoView({ behavior: isCalm ? "auto" : "smooth", block: "start" });
}

// The frame above or below: in the nearest row in that direction, the one whose middle is nearest.
function across(frames, place, direction) {
  const here = frames[place].getBoundingClientRect();
  const middle = (box) => box.left + box.width / 2;
  const beyond = frames
    .map((frame) => ({ frame, box: frame.getBoundingClientRect() }))
    .filter(({ box }) => (direction > 0 ? box.top > here.bottom - 1 : box.bottom < here.top + 1));
  const distance = ({ box }) => 10 * Math.abs(box.top - here.top) + Math.abs(middle(box) - middle(here));
  return beyond.sort((a, b) => distance(a) - distance(b))[0]?.frame;
}

function withUrl(picture) {
  return { ...picture, url: URL.createObjectURL(picture.blob) };
}

function readable(numBytes) {
  return numBytes < 1e6 ? `${Math.ceil(numBytes / 1e3)} kB` : `${(numBytes / 1e6).toFixed(1)} MB`;
}
