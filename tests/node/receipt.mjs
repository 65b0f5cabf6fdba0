// Stream with a receipt through OpenAI's Node SDK and print what it saw as JSON. Usage: node receipt.mjs BASE_URL KEY FORM
import OpenAI from "openai";

const [baseURL, apiKey, form] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, defaultHeaders: { "X-Sluice-Receipt": form } });
const body = { model: "tiny", messages: [{ role: "user", content: "x" }], max_tokens: 5, stream: true };

let content = "";
let receipt = null;
for await (const chunk of await client.chat.completions.create(body)) {
  content += chunk.choices[0]?.delta?.content ?? "";
  receipt = chunk.sluice_receipt ?? receipt;
}
console.log(JSON.stringify({ content, receipt }));
