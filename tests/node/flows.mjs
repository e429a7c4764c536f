// The official Node SDK against a router: every flow once, and the result of each as one JSON object.
//
// usage: node flows.mjs BASE_URL [FLOW ...]      (without names: all flows)

import OpenAI, { APIError } from "openai";

const [baseURL, ...names] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "a-client-key", timeout: 10_000 });
const messages = [{ role: "user", content: "Hi" }];

const chat = (model, more = {}) => client.chat.completions.create({ model, messages, ...more });

async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");

function toolCalls(chunks) {
  const calls = [];
  for (const part of chunks.flatMap((chunk) => chunk.choices[0]?.delta?.tool_calls ?? [])) {
    calls[part.index] ??= { id: part.id, name: part.function.name, arguments: "" };
    calls[part.index].arguments += part.function.arguments;
  }
  return calls;
}

/** The error that was raised, and the text that arrived before it. */
async function failure(model, more) {
  let text = "";
  try {
    const answer = await chat(model, more);
    if (more?.stream) for await (const chunk of answer) text += textOf([chunk]);
    return { raised: null, text };
  } catch (error) {
    const { status, code, type, message, requestID } = error;
    const attempts = error.headers?.get("x-router-attempts");
    return {
      raised: error.constructor.name, isAPIError: error instanceof APIError, status, code, type, message, requestID, attempts, text,
    };
  }
}

const flows = {
  async stream() {
    const chunks = await read(await chat("quick", { stream: true }));
    return { text: textOf(chunks), finish: chunks.at(-1).choices[0].finish_reason };
  },
  async usage() {
    const chunks = await read(await chat("quick", { stream: true, stream_options: { include_usage: true } }));
    return { text: textOf(chunks), choices: chunks.at(-1).choices, usage: chunks.at(-1).usage };
  },
  async tools() {
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
    return toolCalls(await read(await chat("tools", { stream: true, tools })));
  },
  async answer() {
    const answer = await chat("quick");
    return { text: answer.choices[0].message.content, usage: answer.usage, requestID: answer._request_id };
  },
  async headers() {
    const { data, response, request_id } = await chat("quick", { stream: true }).withResponse();
    await read(data);
    const names = ["x-request-id", "x-router-endpoint", "x-router-attempts", "server-timing"];
    return { requestID: request_id, ...Object.fromEntries(names.map((name) => [name, response.headers.get(name)])) };
  },
  async completion() {
    const streamed = await read(await client.completions.create({ model: "quick", prompt: "Hi", stream: true }));
    const answer = await client.completions.create({ model: "quick", prompt: "Hi" });
    return { streamed: streamed.map((chunk) => chunk.choices[0].text).join(""), text: answer.choices[0].text };
  },
  async embeddings() {
    const both = await client.embeddings.create({ model: "quick", input: ["one", "two"] });
    return both.data.map((item) => Array.from(item.embedding));
  },
  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed, one: (await client.models.retrieve("quick")).id };
  },
  async failover() {
    const { data, response } = await chat("failover", { stream: true }).withResponse();
    return { text: textOf(await read(data)), endpoint: response.headers.get("x-router-endpoint") };
  },
  async pings() {
    return textOf(await read(await chat("pinged", { stream: true })));
  },
  unknown: () => failure("not-served"),
  refused: () => failure("refused"),
  down: () => failure("down-for-node"),
  cut: () => failure("cut", { stream: true }),
  unfinished: () => failure("unfinished", { stream: true }),
  breaks: () => failure("breaks", { stream: true }),
  async leaving() {
    const stream = await chat("endless", { stream: true });
    for await (const chunk of stream) if (textOf([chunk])) break; // leaving the loop aborts the request
    return "left";
  },
};

const results = {};
for (const name of names.length ? names : Object.keys(flows)) results[name] = await flows[name]();
console.log(JSON.stringify(results));
