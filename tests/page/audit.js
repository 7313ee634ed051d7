// What can be checked of a page's accessibility by looking at it: returns sentences, one a fault. Run in the page.
() => {
  const faults = [];
  const isSeen = (element) => element.checkVisibility({ opacityProperty: false, visibilityProperty: true });
  const named = (element) => element.outerHTML.slice(0, 90);

  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`the id ${id} is there twice`);

  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const name of ["aria-labelledby", "aria-describedby"]) {
      for (const id of (element.getAttribute(name) ?? "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) faults.push(`${named(element)} names ${id}, which is not there`);
      }
    }
  }

  for (const element of document.querySelectorAll("input, select, textarea, button, a, progress, dialog, summary")) {
    const labels = [...(element.labels ?? [])].map((label) => label.textContent);
    const by = element.getAttribute("aria-labelledby");
    const name = element.getAttribute("aria-label") ?? (by && document.getElementById(by).textContent) ?? labels[0];
    const isField = element.matches("input, select, textarea, progress, dialog");
    const text = name ?? (isField ? "" : element.textContent);
    if (isSeen(element) && !text.trim()) faults.push(`${named(element)} has no name`);
  }
  for (const image of document.images) if (!image.hasAttribute("alt")) faults.push(`${named(image)} has no alt`);
  if (!document.documentElement.lang) faults.push("the page has no language");
  if (document.querySelectorAll("h1").length !== 1) faults.push("the page has not one h1");
  if (document.querySelectorAll("main").length !== 1) faults.push("the page has not one main");

  // Contrast, from the styles as computed (WCAG 2.2, 1.4.3 and 1.4.11).
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((level) => {
      const part = level / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      // The prompt is see-through: what is behind it is its neighbour, which carries the marks.
      const source = at.id === "prompt" ? document.getElementById("marks") : at;
      const colour = rgba(getComputedStyle(source).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !isSeen(element) || element.closest(".marks, script, option")) continue;
    if (element.closest(":disabled") || getComputedStyle(element).clipPath !== "none") continue;
    const style = getComputedStyle(element);
    const ratio = contrast(rgba(style.color), behind(element));
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${named(element)}`);
  }
  for (const field of document.querySelectorAll("input, textarea, select:enabled")) {
    if (!isSeen(field)) continue;
    const ratio = contrast(rgba(getComputedStyle(field).borderTopColor), behind(field.parentElement));
    if (ratio < 3) faults.push(`a field's edge has contrast ${ratio.toFixed(2)}: ${named(field)}`);
  }

  // Room for a finger (WCAG 2.2, 2.5.8): 24 pixels, but for links within a sentence.
  for (const target of document.querySelectorAll("button, input, select, textarea, a, summary")) {
    const box = target.getBoundingClientRect();
    if (!isSeen(target) || target.matches(".link, .skip, summary")) continue;
    if (box.height < 24 || box.width < 24) faults.push(`too small for a finger: ${named(target)}`);
  }
  return faults;
};
