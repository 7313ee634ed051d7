// One picture looked at closely, with its label beside it. The browser's own dialog keeps the focus and gives it back.

import { create } from "./figure.js";
import { factsOf } from "./recipe.js";

export class Viewer {
  #dialog = document.getElementById("viewer");
  #image = document.getElementById("viewer-picture");
  #earlier = document.getElementById("viewer-earlier");
  #later = document.getElementById("viewer-later");
  #picture = null;
  #wall = null;
  #afterwards = () => {};

  constructor() {
    this.#earlier.addEventListener("click", () => this.#turn(-1));
    this.#later.addEventListener("click", () => this.#turn(1));
    document.getElementById("viewer-close").addEventListener("click", () => this.close());
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#turn(-1);
      else if (event.key === "ArrowRight") this.#turn(1);
    });
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close(); // beside the sheet
    });
    this.#dialog.addEventListener("close", () => {
      this.#wall.onClose(this.#picture);
      this.#afterwards();
      this.#afterwards = () => {};
    });
  }

  // `wall` knows the neighbours of a picture, what can be done with it, and what has the focus afterwards.
  connect(wall) {
    this.#wall = wall;
  }

  open(picture) {
    this.#show(picture);
    this.#dialog.showModal();
  }

  // What comes `afterwards` may take the focus elsewhere.
  close(afterwards = () => {}) {
    this.#afterwards = afterwards;
    this.#dialog.close();
  }

  #turn(by) {
    const picture = this.#wall.neighbour(this.#picture, by);
    if (picture) this.#show(picture);
  }

  #show(picture) {
    this.#picture = picture;
    const [width, height] = picture.recipe.size.split("x");
    Object.assign(this.#image, { src: picture.url, width: Number(width), height: Number(height) });
    this.#image.alt = picture.recipe.prompt;
    document.getElementById("viewer-words").textContent = picture.recipe.prompt;
    const facts = factsOf(picture.recipe);
    if (picture.recipe.negative_prompt) facts.unshift(["Without", picture.recipe.negative_prompt]);
    if (picture.seconds !== null) facts.push(["Drawn in", `${picture.seconds.toFixed(1)} s`]);
    facts.push(["Drawn on", new Date(picture.madeAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })]);
    const rows = facts.flatMap(([name, value]) => [create("dt", "", name), create("dd", "", value)]);
    document.getElementById("viewer-facts").replaceChildren(...rows);
    document.getElementById("viewer-actions").replaceChildren(...this.#wall.actions(picture));
    this.#earlier.disabled = this.#wall.neighbour(picture, -1) === null;
    this.#later.disabled = this.#wall.neighbour(picture, 1) === null;
  }
}
