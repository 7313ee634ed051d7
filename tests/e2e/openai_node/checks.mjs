// One check of the unmodified npm package: `node checks.mjs ADDRESS CHECK` prints what happened as one line of JSON.
import OpenAI from "openai";

const [address, check] = process.argv.slice(2);
const codes = [];

function client(options = {}) {
  const counted = async (...request) => {
    const response = await fetch(...request);
    codes.push(response.status);
    return response;
  };
  return new OpenAI({ baseURL: `${address}/v1`, apiKey: "unused", maxRetries: 0, fetch: counted, ...options });
}

const PROMPT = "a red apple";

async function failureOf(promise) {
  try {
    await promise;
  } catch (error) {
    return { kind: error.constructor.name, code: error.code, param: error.param, type: error.type, codes };
  }
  return { kind: "nothing", codes };
}

async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const CHECKS = {
  async base64() {
    const answer = await client().images.generate({ prompt: PROMPT, n: 2, seed: 7, output_format: "webp" });
    const heads = answer.data.map((item) => Buffer.from(item.b64_json, "base64").subarray(8, 12).toString());
    return { heads, seeds: answer.data.map((item) => item.seed), usage: answer.usage.total_tokens };
  },
  async links() {
    const answer = await client().images.generate({ prompt: PROMPT, response_format: "url" });
    return { type: (await fetch(answer.data[0].url)).headers.get("content-type") };
  },
  async stream() {
    const events = await collect(await client().images.generate({ prompt: PROMPT, stream: true }));
    return { types: events.map((event) => event.type), quality: events[0].quality };
  },
  async models() {
    const listed = [];
    for await (const model of client().models.list()) listed.push(model.id);
    return { listed, one: (await client().models.retrieve(listed[0])).id };
  },
  mistake: () => failureOf(client({ maxRetries: 2 }).images.generate({ prompt: PROMPT, size: "1x1" })),
  unknown: () => failureOf(client({ maxRetries: 2 }).images.generate({ prompt: PROMPT, model: "gpt-image-2" })),
  full: () => failureOf(client().images.generate({ prompt: PROMPT })),
  failed: () => failureOf(client({ maxRetries: 2 }).images.generate({ prompt: PROMPT })),
  timeout: () => failureOf(client({ timeout: 500 }).images.generate({ prompt: PROMPT })),
  midstream: async () => failureOf(collect(await client().images.generate({ prompt: PROMPT, stream: true }))),
  async retried() {
    const began = performance.now();
    await client({ maxRetries: 2 }).images.generate({ prompt: PROMPT });
    return { codes, seconds: (performance.now() - began) / 1000 };
  },
};

console.log(JSON.stringify(await CHECKS[check]()));
