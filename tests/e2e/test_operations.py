"""Rerank, moderations and providers' own APIs, by the official client libraries where they have them."""

import io
import json

import anthropic
import cohere
import openai
import pytest

from conftest import PROVIDER_KEY, Gateway

HELLO = [{"role": "user", "content": "Hello"}]
TEXT = "Hello from the fake provider."
KEY = "sk-caller-operations-0123456789"

CONFIG = f"""
version: 1
providers:
  cohere: {{{{ kind: cohere, base_url: "{{root}}", api_key: "env:FAKE_KEY", breaker: {{{{ enabled: false }}}} }}}}
  openai: {{{{ kind: openai, base_url: "{{root}}/v1", api_key: "env:FAKE_KEY", breaker: {{{{ enabled: false }}}} }}}}
  by-responses: {{{{ kind: openai, api: responses, base_url: "{{root}}/v1", api_key: "env:FAKE_KEY", breaker: {{{{ enabled: false }}}} }}}}
  claude: {{{{ kind: anthropic, base_url: "{{root}}/v1", api_key: "env:FAKE_KEY", breaker: {{{{ enabled: false }}}} }}}}
  ollama: {{{{ kind: ollama-native, base_url: "{{root}}", breaker: {{{{ enabled: false }}}} }}}}
endpoints:
  - {{{{ name: rank, type: llm/v1/rerank, route: cohere/rerank-v3.5 }}}}
  - {{{{ name: judge, type: llm/v1/moderations, route: openai/omni-moderation-latest }}}}
native:
  openai: {{{{ provider: openai }}}}
  anthropic: {{{{ provider: claude }}}}
  cohere: {{{{ provider: cohere }}}}
access: {{{{ keys: required, allow_provider_models: true, static: [ {{{{ name: caller, key: "{KEY}" }}}} ] }}}}
"""


@pytest.fixture(scope="module")
def gateway(fake, tmp_path_factory):
    child = Gateway(tmp_path_factory.mktemp("operations"), CONFIG.format(root=fake.url))
    yield child
    child.stop()


@pytest.fixture
def client(gateway):
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0)


def test_rerank(gateway):
    body = {"model": "rank", "query": "q", "documents": ["a long text", "a", "a text"], "top_n": 2}
    answer = gateway.post("/v2/rerank", body, headers={"Authorization": f"Bearer {KEY}"})
    assert [result["index"] for result in answer.json()["results"]] == [1, 2]
    assert answer.headers["x-millgate-cost-usd"] == "0.002000000"


@pytest.mark.parametrize("make", [cohere.Client, cohere.ClientV2])
def test_cohere_client(gateway, make):
    client = make(api_key=KEY, base_url=gateway.url, max_retries=0)
    answer = client.rerank(model="rank", query="q", documents=["a long text", "a", "a text"], top_n=2)
    assert [result.index for result in answer.results] == [1, 2]
    with pytest.raises(cohere.errors.NotFoundError):
        client.rerank(model="nobody", query="q", documents=["a"])
    with pytest.raises(cohere.errors.UnauthorizedError):
        make(api_key="wrong", base_url=gateway.url, max_retries=0).rerank(
            model="rank", query="q", documents=["a"]
        )


def test_moderations_without_a_model(client):
    results = client.moderations.create(input=["good", "bad"]).results
    assert [result.flagged for result in results] == [False, True]


def test_files_images_and_audio(client, fake):
    content = b"{}\n" * 1_000_000
    stored = client.files.create(file=("batch.jsonl", io.BytesIO(content)), purpose="batch")
    assert stored.bytes > len(content)
    assert dict(fake.last()["headers"])["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert len(client.files.content("2000").read()) == 2000
    assert client.files.delete("file-1").deleted
    assert client.images.generate(prompt="x", model="gpt-image-1").usage.total_tokens == 30
    assert client.audio.speech.create(model="tts-1", voice="alloy", input="hi").read() == b"ID3sound"
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve("missing")
    assert caught.value.code == "upstream_not_found"


def test_own_apis(gateway):
    client = openai.OpenAI(base_url=gateway.url + "/openai/v1", api_key=KEY, max_retries=0)
    assert client.chat.completions.create(model="ok", messages=HELLO).choices[0].message.content == TEXT
    stream = client.chat.completions.create(model="ok", messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
    claude = anthropic.Anthropic(base_url=gateway.url + "/anthropic", api_key=KEY, max_retries=0)
    with claude.messages.stream(model="ok", max_tokens=9, messages=HELLO) as stream:
        assert stream.get_final_text() == TEXT
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=gateway.url + "/anthropic", api_key="no", max_retries=0).models.list()


def test_cohere_chats_by_its_own_api(gateway, fake):
    client = cohere.ClientV2(api_key=KEY, base_url=gateway.url + "/cohere", max_retries=0)
    answer = client.chat(model="ok", messages=HELLO)
    assert answer.message.content[0].text == TEXT
    assert dict(fake.last()["headers"])["authorization"] == f"Bearer {PROVIDER_KEY}"
    events = list(client.chat_stream(model="ok", messages=HELLO))
    assert "".join(e.delta.message.content.text for e in events if e.type == "content-delta") == TEXT
    assert events[-1].delta.usage.tokens.output_tokens > 0
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
    called = client.chat(model="tool", messages=HELLO, tools=tools).message
    assert json.loads(called.tool_calls[0].function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "sunny"}
    client.chat(model="ok", messages=[*HELLO, called, result], tools=tools)
    assert "sunny" in fake.last()["body"]
    form = {"type": "json_object", "json_schema": schema}
    assert json.loads(client.chat(model="json", messages=HELLO, response_format=form).message.content[0].text)
    assert json.loads(fake.last()["body"])["response_format"] == form
    with pytest.raises(cohere.errors.TooManyRequestsError):
        client.chat(model="status-429-retry-1", messages=HELLO)


@pytest.mark.parametrize("provider", ["cohere", "by-responses", "ollama"])
def test_chats_by_other_apis(gateway, client, provider):
    answer = client.chat.completions.create(model=f"{provider}/ok", messages=HELLO, max_tokens=50)
    assert answer.choices[0].message.content == TEXT
    stream = client.chat.completions.create(model=f"{provider}/ok", messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == TEXT
    call = client.chat.completions.create(model=f"{provider}/tool", messages=HELLO).choices[0]
    assert call.finish_reason == "tool_calls"
    assert json.loads(call.message.tool_calls[0].function.arguments) == {"city": "Paris"}
    claude = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    with claude.messages.stream(model=f"{provider}/ok", max_tokens=50, messages=HELLO) as stream:
        assert stream.get_final_text() == TEXT
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=f"{provider}/status-500", messages=HELLO)
