// Small things that outlive a reload: what was typed, what is under way (localStorage), the key (this tab alone:
// sessionStorage). Where the browser allows neither, or has something else there, the page goes on without.

export function recall(name, otherwise, storage = "localStorage") {
  try {
    return JSON.parse(window[storage].getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value, storage = "localStorage") {
  try {
    window[storage].setItem(name, JSON.stringify(value));
  } catch {
    return; // full, or forbidden
  }
}
