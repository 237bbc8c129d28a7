// The Vercel AI SDK and OpenAI's package for JavaScript: `node --test`, with the service's URL in
// SERVICE_URL and the model's name in SERVICE_MODEL.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = `${process.env.SERVICE_URL}/v1`;
const name = process.env.SERVICE_MODEL;
const apiKey = "none";
const openai = createOpenAI({ baseURL, apiKey });
const models = {
  "responses": openai.responses(name),
  "chat": openai.chat(name),
  "compatible": createOpenAICompatible({
    name: "own", baseURL, apiKey, supportsStructuredOutputs: true,
  })(name),
  "messages": createAnthropic({ baseURL, apiKey })(name),
};
const person = z.object({ name: z.string(), age: z.number().int() });
const hello = "Hello, wörld 😀!";
const tools = {
  get_weather: tool({
    description: "Tells the weather.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => (city === "Paris" ? "18 degrees Celsius" : "unknown"),
  }),
};
const asked = { prompt: "Tell me of the rainfall in Paris", tools, stopWhen: isStepCount(3) };

for (const [protocol, model] of Object.entries(models)) {
  test(`${protocol}: an answer`, async () => {
    assert.equal((await generateText({ model, prompt: "Hi" })).text, hello);
  });

  test(`${protocol}: a stream`, async () => {
    const pieces = [];
    for await (const piece of streamText({ model, prompt: "Hi" }).textStream) pieces.push(piece);
    assert.equal(pieces.join(""), hello);
  });

  test(`${protocol}: a tool is called and its result read`, async () => {
    const done = await generateText({ model, ...asked });
    assert.equal(done.text, "It is 18 degrees in Paris.");
    assert.equal(done.steps.length, 2);
  });

  test(`${protocol}: a tool is called in a stream and its result read`, async () => {
    assert.equal(await streamText({ model, ...asked }).text, "It is 18 degrees in Paris.");
  });

  test(`${protocol}: an answer has a type`, async () => {
    const output = Output.object({ schema: person, name: "person" });
    const done = await generateText({ model, prompt: "Who?", output });
    assert.deepEqual(done.output, { name: "Ada", age: 36 });
  });
}

test("reasoning is told apart", async () => {
  const done = await generateText({ model: models.compatible, prompt: "Hi" });
  assert.equal(done.reasoningText, "A greeting.");
});

test("openai: an answer has a type", async () => {
  const client = new OpenAI({ baseURL, apiKey });
  const done = await client.chat.completions.parse({
    model: name,
    messages: [{ role: "user", content: "Who?" }],
    response_format: zodResponseFormat(person, "person"),
  });
  assert.deepEqual(done.choices[0].message.parsed, { name: "Ada", age: 36 });
});

test("openai: a response in a stream", async () => {
  const client = new OpenAI({ baseURL, apiKey });
  const done = await client.responses.stream({ model: name, input: "Hi" }).finalResponse();
  assert.equal(done.output_text, hello);
});
