// The official Node SDK as a client of loadtest/faults/clients.py: reads questions and writes their results, one line of JSON each.
//
// usage: node ask.mjs BASE_URL [TIMEOUT_SECONDS]      (default: the SDK's own)

import { createInterface } from "node:readline";
import OpenAI from "openai";

const [baseURL, timeout] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", ...(timeout && { timeout: 1000 * Number(timeout) }) });

async function ask({ model, messages, stream }) {
  const outcome = { kind: "answer", text: "", error: "" };
  const take = (chunk, part) => {
    outcome.text += part?.content ?? "";
    outcome.model = chunk.model ?? outcome.model;
    outcome.usage = chunk.usage ?? outcome.usage;
  };
  try {
    if (stream) {
      const chunks = await client.chat.completions.create({
        model, messages, stream: true, stream_options: { include_usage: true },
      });
      for await (const chunk of chunks) take(chunk, chunk.choices[0]?.delta);
    } else {
      const answer = await client.chat.completions.create({ model, messages });
      take(answer, answer.choices[0].message);
    }
  } catch (error) { // any error is a result for the judge
    Object.assign(outcome, { kind: "error", error: `${error.constructor.name}: ${error.message}` });
    Object.assign(outcome, { status: error.status, code: error.code && String(error.code) });
  }
  return outcome;
}

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  ask(question).then((outcome) => console.log(JSON.stringify({ number: question.number, ...outcome })));
}
