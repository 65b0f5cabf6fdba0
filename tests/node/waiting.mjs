// Wait in a gateway's queue with OpenAI's Node SDK and print what became of it as JSON. Usage: node waiting.mjs URL KEY
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "x" }];

async function seen() {
  let chunks = 0;
  let content = "";
  try {
    const options = { model: "tiny", messages, max_tokens: 5, stream: true };
    for await (const chunk of await client.chat.completions.create(options)) {
      chunks += 1;
      content += chunk.choices[0]?.delta?.content ?? "";
    }
  } catch (error) {
    return { chunks, error: error.constructor.name, code: error.code, message: error.message };
  }
  return { chunks, content };
}

console.log(JSON.stringify(await seen()));
