// What a picture is made from, under the names of the interface, and the ways to write it down. Pure.
//
// A recipe is {prompt, negative_prompt?, model, size, num_inference_steps, guidance_scale, seed}: what
// POST /v1/generate takes for one picture.

export const MAX_SEED = 2 ** 32 - 1;

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

// Picture i of a job is drawn with seed + i, around the end of the seeds where need be.
export function recipeOf(recipe, index) {
  return { ...recipe, seed: (recipe.seed + index) % (MAX_SEED + 1) };
}

export function factsOf({ model, size, num_inference_steps: steps, guidance_scale: guidance, seed }) {
  return [
    ["Model", model],
    ["Size", size.replace("x", " × ")],
    ["Steps", String(steps)],
    ["Guidance", String(guidance)],
    ["Seed", String(seed)],
  ];
}

export function fileName({ prompt, seed }) {
  const words = prompt.toLowerCase().normalize("NFKD").match(/[a-z0-9]+/g) ?? ["picture"];
  return `${words.join("-").slice(0, 60)}-${seed}.png`;
}

export function asCurl(recipe, origin, needsKey) {
  return [
    `curl -s ${quoted(`${origin}/v1/generate`)}`,
    "-H 'Content-Type: application/json' -H 'Accept: image/png'",
    ...(needsKey ? ['-H "Authorization: Bearer $EMMDIT_API_KEY"'] : []),
    `-d ${quoted(JSON.stringify(recipe))}`,
    `-o ${quoted(fileName(recipe))}`,
  ].join(" \\\n  ");
}

// The standard library alone, so that it runs wherever Python does. Our values are written alike in JSON and Python.
export function asPython(recipe, origin, needsKey) {
  const fields = Object.entries(recipe).map(([name, value]) => `    ${JSON.stringify(name)}: ${JSON.stringify(value)},`);
  const key = needsKey ? ', "Authorization": "Bearer " + os.environ["EMMDIT_API_KEY"]' : "";
  return `import json
${needsKey ? "import os\n" : ""}import urllib.request

recipe = {
${fields.join("\n")}
}
request = urllib.request.Request(
    ${JSON.stringify(`${origin}/v1/generate`)},
    data=json.dumps(recipe).encode(),
    headers={"Content-Type": "application/json", "Accept": "image/png"${key}},
)
with urllib.request.urlopen(request) as answer, open(${JSON.stringify(fileName(recipe))}, "wb") as file:
    file.write(answer.read())
`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
