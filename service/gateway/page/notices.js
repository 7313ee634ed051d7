// What has gone wrong and what can be done about it, above the pictures: one line a trouble, until it is over.

export class Notices {
  #place;
  #announce;
  #lines = new Map();

  constructor(place, announce) {
    this.#place = place;
    this.#announce = announce;
  }

  // `actions` is [[label, function]]. The same `id` again replaces what was said. Returns the element for a countdown,
  // which is seen and not read out.
  show(id, text, { tone = "quiet", detail = "", actions = [] } = {}) {
    const line = document.createElement("div");
    line.className = "notice";
    line.dataset.tone = tone;
    const words = document.createElement("p");
    words.append(text);
    const countdown = document.createElement("span");
    countdown.className = "countdown";
    countdown.ariaHidden = "true";
    words.append(" ", countdown);
    if (detail) words.append(Object.assign(document.createElement("small"), { textContent: detail }));
    line.append(words);
    for (const [label, run] of actions) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: label });
      button.addEventListener("click", run);
      line.append(button);
    }
    const previous = this.#lines.get(id);
    if (previous?.text !== text) this.#announce(text);
    if (previous) previous.line.replaceWith(line);
    else this.#place.append(line);
    this.#lines.set(id, { line, text });
    return countdown;
  }

  hide(id) {
    const found = this.#lines.get(id);
    if (!found) return;
    const hadFocus = found.line.contains(document.activeElement);
    found.line.remove();
    this.#lines.delete(id);
    if (hadFocus) document.getElementById("prompt").focus();
  }
}
