// The pictures that this browser keeps, in IndexedDB: {id, recipe, blob, madeAt, seconds}, bounded in number and bytes.
//
// Where the browser allows no storage (some private windows) everything goes on, in memory and until the reload.

const NAME = "emmdit";
const PICTURES = "pictures";
const MAX_PICTURES = 200;
const MAX_BYTES = 256 * 1024 ** 2;

export class Store {
  #database;

  constructor(database) {
    this.#database = database;
  }

  static async open() {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(PICTURES, { keyPath: "id" });
      return new Store(await answer(request));
    } catch {
      return new Store(null);
    }
  }

  get isLasting() {
    return this.#database !== null;
  }

  // Newest first.
  async all() {
    if (!this.isLasting) return [];
    const pictures = await answer(this.#pictures("readonly").getAll());
    return pictures.sort(newestFirst);
  }

  // Keeps a picture; resolves to the ids of the oldest ones that had to go for it.
  async put(picture) {
    if (!this.isLasting) return [];
    await answer(this.#pictures("readwrite").put(picture));
    let numBytes = 0;
    const tooMany = (await this.all()).filter(({ blob }, place) => {
      numBytes += blob.size;
      return place >= MAX_PICTURES || (numBytes > MAX_BYTES && place > 0);
    });
    await this.remove(tooMany.map(({ id }) => id));
    return tooMany.map(({ id }) => id);
  }

  async remove(ids) {
    if (!this.isLasting) return;
    await Promise.all(ids.map((id) => answer(this.#pictures("readwrite").delete(id))));
  }

  #pictures(mode) {
    return this.#database.transaction(PICTURES, mode).objectStore(PICTURES);
  }
}

export function newestFirst(a, b) {
  return b.madeAt - a.madeAt || (a.id < b.id ? -1 : 1);
}

function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
