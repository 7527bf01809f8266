// The JavaScript clients, unchanged but for the address: plain, streamed, tool loop, schema, image, error, cancel, each through
// providers of three dialects.
import assert from "node:assert/strict";
import test from "node:test";

import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const url = process.env.GATEWAY_URL;
const apiKey = process.env.GATEWAY_KEY;
const TEXT = "Hello from the fake provider.";
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const messages = [{ role: "user", content: "Hello" }];
const prefixes = ["", "claude-", "gemini-"];
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const lastRequest = async () => {
  const requests = await (await fetch(process.env.FAKE_URL + "/__requests")).json();
  return requests[requests.length - 1];
};

for (const prefix of prefixes) {
  test(`openai: chat through ${prefix || "openai-"}`, async (t) => {
    const client = new OpenAI({ baseURL: url + "/v1", apiKey, maxRetries: 0 });
    await t.test("plain", async () => {
      const answer = await client.chat.completions.create({ model: prefix + "ok", messages });
      assert.equal(answer.choices[0].message.content, TEXT);
      assert.equal(answer.usage.prompt_tokens, 9);
    });
    await t.test("streamed", async () => {
      const stream = await client.chat.completions.create({
        model: prefix + "ok", messages, stream: true, stream_options: { include_usage: true },
      });
      let text = "";
      let usage;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
      }
      assert.equal(text, TEXT);
      assert.equal(usage.prompt_tokens, 9);
    });
    await t.test("tool loop by its runner", async () => {
      let asked;
      const runner = client.chat.completions.runTools({
        model: prefix + "tool",
        messages: [...messages],
        tools: [{
          type: "function",
          function: {
            name: "get_weather", parameters: schema, parse: JSON.parse,
            function: ({ city }) => { asked = city; runner.abort(); return "sunny"; },
          },
        }],
      });
      await runner.done().catch((error) => assert.ok(error instanceof OpenAI.APIUserAbortError, String(error)));
      assert.equal(asked, "Paris");
    });
    await t.test("schema", async () => {
      const answer = await client.chat.completions.parse({
        model: prefix + "json", messages,
        response_format: {
          type: "json_schema",
          json_schema: { name: "answer", schema: { type: "object", properties: { answer: { type: "integer" } }, required: ["answer"], additionalProperties: false }, strict: true },
        },
      });
      assert.equal(JSON.parse(answer.choices[0].message.content).answer, 42);
    });
    await t.test("image", async () => {
      const content = [
        { type: "text", text: "What is it?" },
        { type: "image_url", image_url: { url: "data:image/png;base64," + PIXEL } },
      ];
      const answer = await client.chat.completions.create({ model: prefix + "ok", messages: [{ role: "user", content }] });
      assert.equal(answer.choices[0].message.content, TEXT);
      assert.ok((await lastRequest()).body.includes(PIXEL));
    });
    await t.test("error", async () => {
      await assert.rejects(
        client.chat.completions.create({ model: prefix + "status-429-retry-1", messages }),
        (error) => error instanceof OpenAI.RateLimitError && error.headers.get("retry-after") === "1",
      );
      const broken = await client.chat.completions.create({ model: prefix + "cut-stream", messages, stream: true });
      await assert.rejects(async () => { for await (const _ of broken); }, OpenAI.APIError);
    });
    await t.test("cancel", async () => {
      const stream = await client.chat.completions.create({ model: "slow", messages, stream: true });
      for await (const _ of stream) break;
      assert.ok(stream.controller.signal.aborted);
    });
  });

  test(`openai: responses through ${prefix || "openai-"}`, async () => {
    const client = new OpenAI({ baseURL: url + "/v1", apiKey, maxRetries: 0 });
    const answer = await client.responses.create({ model: prefix + "ok", input: "Hello" });
    assert.equal(answer.output_text, TEXT);
    const stream = client.responses.stream({ model: prefix + "ok", input: "Hello" });
    assert.equal((await stream.finalResponse()).output_text, TEXT);
  });

  test(`anthropic: messages through ${prefix || "openai-"}`, async () => {
    const client = new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
    const asked = { model: prefix + "ok", max_tokens: 64, messages };
    assert.equal((await client.messages.create(asked)).content[0].text, TEXT);
    assert.equal((await client.messages.stream(asked).finalMessage()).content[0].text, TEXT);
    await assert.rejects(client.messages.create({ ...asked, model: prefix + "status-429-retry-1" }), Anthropic.RateLimitError);
  });

  const kits = {
    "openai chat": createOpenAI({ baseURL: url + "/v1", apiKey }).chat,
    "openai responses": createOpenAI({ baseURL: url + "/v1", apiKey }).responses,
    "openai-compatible": createOpenAICompatible({ name: "millgate", baseURL: url + "/v1", apiKey, supportsStructuredOutputs: true, includeUsage: true }),
    anthropic: createAnthropic({ baseURL: url + "/v1", apiKey }),
    google: createGoogleGenerativeAI({ baseURL: url + "/v1beta", apiKey }),
  };
  for (const [name, kit] of Object.entries(kits)) {
    test(`ai sdk, ${name}, through ${prefix || "openai-"}`, async (t) => {
      const model = (name) => kit(prefix + name);
      const more = { maxRetries: 0 };
      await t.test("plain", async () => {
        const { text, usage, finishReason } = await generateText({ model: model("ok"), prompt: "Hello", ...more });
        assert.deepEqual([text, finishReason], [TEXT, "stop"]);
        assert.equal(usage.inputTokens, 9);
      });
      await t.test("streamed", async () => {
        const result = streamText({ model: model("ok"), prompt: "Hello", ...more });
        let text = "";
        for await (const piece of result.textStream) text += piece;
        assert.equal(text, TEXT);
        assert.equal((await result.usage).inputTokens, 9);
      });
      await t.test("tool", async () => {
        let asked;
        const weather = tool({ inputSchema: z.object({ city: z.string() }), execute: ({ city }) => { asked = city; return "sunny"; } });
        const result = await generateText({
          model: model("tool"), prompt: "Hello", tools: { get_weather: weather }, stopWhen: stepCountIs(2), ...more,
        });
        assert.equal(asked, "Paris");
        // The second step sent the result back.
        assert.equal(result.steps.length, 2);
        assert.ok((await lastRequest()).body.includes("sunny"));
      });
      await t.test("schema", async () => {
        const { object } = await generateObject({ model: model("json"), prompt: "Hello", schema: z.object({ answer: z.number() }), ...more });
        assert.equal(object.answer, 42);
      });
      await t.test("image", async () => {
        const content = [{ type: "text", text: "What is it?" }, { type: "image", image: PIXEL, mediaType: "image/png" }];
        const { text } = await generateText({ model: model("ok"), messages: [{ role: "user", content }], ...more });
        assert.equal(text, TEXT);
        assert.ok((await lastRequest()).body.includes(PIXEL));
      });
      await t.test("error", async () => {
        await assert.rejects(
          generateText({ model: model("status-429-retry-1"), prompt: "Hello", ...more }),
          (error) => error.statusCode === 429,
        );
      });
      await t.test("cancel", async () => {
        const controller = new AbortController();
        const result = streamText({ model: kit("slow"), prompt: "Hello", abortSignal: controller.signal, ...more });
        let pieces = 0;
        for await (const part of result.fullStream) {
          if (part.type === "text-delta" && ++pieces === 2) controller.abort();
        }
        assert.ok(pieces >= 2 && pieces < 20, String(pieces));
      });
    });
  }
}
