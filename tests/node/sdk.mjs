// Exercise a gateway with OpenAI's Node SDK and print what it saw as JSON. Usage: node sdk.mjs BASE_URL KEY
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say something about rivers and sluices." }];
const options = { model: "tiny", messages, max_tokens: 12, temperature: 0 };

async function plain() {
  const answer = await client.chat.completions.create(options);
  return { content: answer.choices[0].message.content, usage: answer.usage, request_id: answer._request_id };
}

async function stream(extra) {
  let content = "";
  const usages = [];
  for await (const chunk of await client.chat.completions.create({ ...options, stream: true, ...extra })) {
    content += chunk.choices[0]?.delta?.content ?? "";
    if (chunk.usage) usages.push(chunk.usage);
  }
  return { content, usages };
}

async function abort() {
  const long = { ...options, max_tokens: 1900, ignore_eos: true, stream: true };
  const answer = await client.chat.completions.create(long);
  let chunks = 0;
  for await (const _ of answer) {
    chunks += 1;
    if (chunks === 5) answer.controller.abort();
  }
  return { chunks };
}

async function failure(attempt) {
  try {
    await attempt();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
  throw new Error("this should have failed");
}

const create = (change, other = client) => () => other.chat.completions.create({ ...options, ...change });
const stranger = new OpenAI({ baseURL, apiKey: "sk-sluice-wrong", maxRetries: 0 });
const listed = [];
for await (const model of client.models.list()) listed.push(model.id);

console.log(
  JSON.stringify({
    plain: await plain(),
    stream: await stream({}),
    stream_usage: await stream({ stream_options: { include_usage: true } }),
    abort: await abort(),
    unknown_model: await failure(create({ model: "nope" })),
    bad_key: await failure(create({}, stranger)),
    wrong_type: await failure(create({ messages: "hi" })),
    too_long: await failure(create({ messages: [{ role: "user", content: "river ".repeat(4000) }] })),
    models: listed,
  }),
);
