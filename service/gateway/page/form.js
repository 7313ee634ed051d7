// The desk: what is asked for. Reads the fields, checks them as the model's limits say, and remembers them.

import { recall, remember } from "./memory.js";
import { MAX_SEED, randomSeed } from "./recipe.js";
import { nearest, pieces, replaceWord, unknownWords } from "./words.js";
import { create } from "./figure.js";

const REMEMBERED = "emmdit.form";
const FIELD_OF = { num_inference_steps: "steps", guidance_scale: "guidance", negative_prompt: "negative" };
const NAMES = { n: "Pictures", steps: "Steps", guidance: "Guidance", seed: "Seed", size: "Size", model: "Model" };
const $ = (id) => document.getElementById(id);

export class Form {
  #models = [];
  #kept = recall(REMEMBERED, {});
  #onDraw;

  // `onDraw(recipe, n)` is called with what was asked for.
  constructor(onDraw) {
    this.#onDraw = onDraw;
    for (const [name, value] of Object.entries(this.#kept)) if ($(name)) $(name).value = value;
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw();
    });
    $("form").addEventListener("input", (event) => this.#onInput(event.target));
    $("dice").addEventListener("click", () => {
      $("seed").value = String(randomSeed());
      this.#onInput($("seed"));
    });
  }

  // What can be asked for, the default model first. Called again whenever the server is asked; mostly nothing is new.
  setModels(models) {
    const isNew = JSON.stringify(models.map(described)) !== JSON.stringify(this.#models.map(described));
    this.#models = models;
    if (!isNew) return;
    const chosen = $("model").value || this.#kept.model;
    $("model").replaceChildren(...models.map(({ id }) => new Option(id)));
    $("model").value = models.some(({ id }) => id === chosen) ? chosen : models[0].id;
    $("model-field").classList.toggle("single", models.length === 1);
    this.#useModel(this.#kept.model === $("model").value ? this.#kept : {});
  }

  get model() {
    return this.#models.find(({ id }) => id === $("model").value);
  }

  // Everything of a recipe, its seed too.
  fill(recipe) {
    if (this.#models.some(({ id }) => id === recipe.model)) $("model").value = recipe.model;
    $("prompt").value = recipe.prompt;
    $("negative").value = recipe.negative_prompt ?? "";
    this.#useModel({ size: recipe.size, steps: recipe.num_inference_steps, guidance: recipe.guidance_scale });
    $("seed").value = String(recipe.seed);
    $("n").value = "1";
    this.#remember();
    this.focus();
  }

  focus() {
    $("prompt").focus();
  }

  draw() {
    this.#clearErrors();
    const { model } = this;
    if (!$("prompt").value.trim()) return this.#refuse("prompt", "Write what shall be drawn.");
    if (!model) return this.#refuse("prompt", "The server has not said yet what it can draw. One moment.");
    for (const id of ["n", "steps", "guidance", "seed"]) {
      const field = $(id);
      const isTooLarge = id === "seed" && Number(field.value) > MAX_SEED;
      if (field.validity.valid && !isTooLarge) continue;
      const allowed = id === "seed" ? `0 to ${MAX_SEED}, or nothing for a new one each time` : `${field.min} to ${field.max}`;
      return this.#refuse(id, `${NAMES[id]}: ${allowed}.`);
    }
    const negative = $("negative").value.trim();
    const recipe = {
      prompt: $("prompt").value,
      ...(negative ? { negative_prompt: negative } : {}),
      model: model.id,
      size: $("size").value,
      num_inference_steps: $("steps").valueAsNumber,
      guidance_scale: $("guidance").valueAsNumber,
      seed: $("seed").value === "" ? randomSeed() : Number($("seed").value),
    };
    this.#onDraw(recipe, $("n").valueAsNumber);
  }

  // What the server refused, beside the field that it names.
  showRefusal(error) {
    const id = FIELD_OF[error.param] ?? error.param;
    this.#refuse($(id) ? id : "prompt", error.message);
  }

  #onInput(field) {
    if (field.id === "model") this.#useModel({});
    if (field.id === "prompt") this.#checkWords();
    this.#clearErrors();
    this.#remember();
  }

  // Limits, defaults and words of the chosen model; `values` stand instead of its defaults where it allows them.
  #useModel(values) {
    const { model } = this;
    $("model-says").textContent = model.description;
    $("size").replaceChildren(...model.sizes.map((size) => new Option(size.replace("x", " × "), size)));
    $("size").value = model.sizes.includes(values.size) ? values.size : model.default_size;
    $("size").disabled = model.sizes.length === 1;
    $("n").max = model.max_n;
    $("steps").max = model.max_num_inference_steps;
    $("guidance").max = model.max_guidance_scale;
    $("steps").value = within(values.steps, 1, model.max_num_inference_steps) ?? model.default_num_inference_steps;
    $("guidance").value = within(values.guidance, 0, model.max_guidance_scale) ?? model.default_guidance_scale;
    $("prompt").maxLength = model.max_prompt_chars;
    $("starters").hidden = model.example_prompts.length === 0;
    $("starters").replaceChildren(...model.example_prompts.map((prompt) => this.#starter(prompt)));
    $("knows").hidden = model.vocabulary === null;
    $("knows-summary").textContent = `It knows ${model.vocabulary?.length} words`;
    $("vocabulary").replaceChildren(...(model.vocabulary ?? []).map((word) => create("li", "", word)));
    this.#checkWords();
  }

  #starter(prompt) {
    const chip = create("button", "chip", prompt);
    chip.type = "button";
    chip.addEventListener("click", () => this.#setPrompt(prompt));
    return chip;
  }

  #setPrompt(prompt) {
    $("prompt").value = prompt;
    this.#onInput($("prompt"));
    this.focus();
  }

  // The marks lie under the prompt, word for word, and underline what the model does not know.
  #checkWords() {
    const prompt = $("prompt").value;
    const vocabulary = this.model?.vocabulary ?? null;
    const marked = pieces(prompt, vocabulary ?? []).map(({ text, isUnknown }) =>
      isUnknown && vocabulary ? create("mark", "", text) : document.createTextNode(text),
    );
    $("marks").replaceChildren(...marked, "\u200b");
    const unknown = vocabulary ? unknownWords(prompt, vocabulary) : [];
    const shown = unknown.map((word) => this.#unknownWord(word, nearest(word, vocabulary)));
    $("words").replaceChildren(...(unknown.length > 0 ? ["This model does not know ", ...between(shown), "."] : []));
  }

  #unknownWord(word, meant) {
    const line = create("span");
    line.append(create("em", "", word));
    if (meant === null) return line;
    const button = create("button", "link", meant);
    button.type = "button";
    button.addEventListener("click", () => this.#setPrompt(replaceWord($("prompt").value, word, meant)));
    line.append(" (", button, "?)");
    return line;
  }

  #refuse(id, message) {
    const place = $(id === "prompt" ? "prompt-error" : "settings-error");
    place.textContent = message;
    place.hidden = false;
    if (id === "negative") $(id).closest("details").open = true;
    $(id).setAttribute("aria-invalid", "true");
    if (id !== "prompt") $(id).setAttribute("aria-describedby", "settings-error");
    $(id).focus();
  }

  #clearErrors() {
    for (const id of ["prompt-error", "settings-error"]) $(id).hidden = true;
    for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  }

  #remember() {
    const ids = ["prompt", "model", "size", "n", "steps", "guidance", "seed", "negative"];
    this.#kept = Object.fromEntries(ids.map((id) => [id, $(id).value]));
    remember(REMEMBERED, this.#kept);
  }
}

// What of a model the desk depends on: not how many workers it has at this moment.
function described({ num_workers: _, is_ready: __, workers: ___, ...rest }) {
  return rest;
}

function within(value, least, most) {
  const number = Number(value === "" ? NaN : (value ?? NaN));
  return number >= least && number <= most ? number : null;
}

function between(elements) {
  return elements.flatMap((element, index) => (index === 0 ? [element] : [index === elements.length - 1 ? " and " : ", ", element]));
}
