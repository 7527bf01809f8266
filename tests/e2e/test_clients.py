"""The providers' own client libraries, unchanged but for the address."""

import asyncio
import json

import anthropic
import openai
import pydantic
import pytest

from conftest import PROVIDER_KEY

HELLO = [{"role": "user", "content": "Hello"}]
TEXT = "Hello from the fake provider."
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def client(llm):
    return openai.OpenAI(base_url=llm.url + "/v1", api_key=llm.key, max_retries=0)


@pytest.fixture
def claude(llm):
    return anthropic.Anthropic(base_url=llm.url, api_key=llm.key, max_retries=0)


BOTH = pytest.mark.parametrize("model", ["ok", "claude-ok"])


@BOTH
def test_openai_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=50)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.total_tokens == 16


@BOTH
def test_openai_stream(client, model):
    stream = client.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage.prompt_tokens == 9


@BOTH
def test_openai_async(llm, model):
    async def run():
        async with openai.AsyncOpenAI(base_url=llm.url + "/v1", api_key=llm.key, max_retries=0) as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(model=model, messages=HELLO) for _ in range(20))
            )
            text = ""
            async for chunk in await client.chat.completions.create(model=model, messages=HELLO, stream=True):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            return answers, text

    answers, text = asyncio.run(run())
    assert {a.choices[0].message.content for a in answers} == {TEXT}
    assert text == TEXT


@pytest.mark.parametrize("model", ["tool", "claude-tool"])
def test_openai_tools(client, fake, model):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": TOOL}}]
    answer = client.chat.completions.create(model=model, messages=HELLO, tools=tools)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert answer.choices[0].finish_reason == "tool_calls"
    assert "get_weather" in fake.last()["body"]
    with client.chat.completions.stream(model=model, messages=HELLO, tools=tools) as stream:
        final = stream.get_final_completion()
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {"city": "Paris"}
    # The conversation goes on with the tool's result.
    messages = HELLO + [
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert client.chat.completions.create(model=model.replace("tool", "ok"), messages=messages, tools=tools)


def test_openai_json_schema(client, fake):
    class Answer(pydantic.BaseModel):
        answer: int

    parsed = client.chat.completions.parse(model="json", messages=HELLO, response_format=Answer)
    assert parsed.choices[0].message.parsed.answer == 42
    assert json.loads(fake.last()["body"])["response_format"]["json_schema"]["strict"] is True


def test_openai_embeddings_in_their_default_encoding(client, fake):
    answer = client.embeddings.create(model="embeddings", input=["a", "b"])
    assert json.loads(fake.last()["body"])["encoding_format"] == "base64"
    assert [d.embedding for d in answer.data] == [[0.25, -0.5, 0.125, 1.0]] * 2
    floats = client.embeddings.create(model="embeddings", input="a", encoding_format="float")
    assert floats.data[0].embedding == [0.25, -0.5, 0.125, 1.0]


def test_openai_completions(client):
    assert client.completions.create(model="completions", prompt="Hello").choices[0].text == TEXT
    pieces = client.completions.create(model="completions", prompt="Hello", stream=True)
    assert "".join(p.choices[0].text for p in pieces if p.choices) == TEXT


def test_openai_models(client):
    assert {"ok", "embeddings"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("ok").id == "ok"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_openai_errors_have_their_classes(client, llm):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="ok", messages=[])
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="status-429-retry-1", messages=HELLO)
    assert caught.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="status-500", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=llm.url + "/v1", api_key="wrong").chat.completions.create(model="ok", messages=HELLO)
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="cut-stream", messages=HELLO, stream=True))


@pytest.mark.parametrize("model", ["ok", "claude-ok"])
def test_anthropic_messages(claude, fake, model):
    answer = claude.messages.create(model=model, max_tokens=50, messages=HELLO, system="Be brief.")
    assert answer.content[0].text == TEXT
    assert (answer.stop_reason, answer.usage.input_tokens) == ("end_turn", 9)
    sent = fake.last()
    assert sent["path"] == ("/v1/messages" if model.startswith("claude") else "/v1/chat/completions")
    assert "canary-caller" not in json.dumps(sent["headers"])
    assert PROVIDER_KEY in json.dumps(sent["headers"])


@pytest.mark.parametrize("model", ["ok", "claude-ok"])
def test_anthropic_stream(claude, model):
    with claude.messages.stream(model=model, max_tokens=50, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == TEXT
        assert stream.get_final_message().stop_reason == "end_turn"


@pytest.mark.parametrize("model", ["tool", "claude-tool"])
def test_anthropic_tools(claude, model):
    tools = [{"name": "get_weather", "input_schema": TOOL}]
    answer = claude.messages.create(model=model, max_tokens=50, messages=HELLO, tools=tools)
    assert answer.stop_reason == "tool_use"
    assert answer.content[-1].input == {"city": "Paris"}
    with claude.messages.stream(model=model, max_tokens=50, messages=HELLO, tools=tools) as stream:
        assert stream.get_final_message().content[-1].input == {"city": "Paris"}


@pytest.mark.parametrize("model", ["ok", "claude-ok"])
def test_anthropic_async(llm, model):
    async def run():
        async with anthropic.AsyncAnthropic(base_url=llm.url, api_key=llm.key, max_retries=0) as client:
            return await client.messages.create(model=model, max_tokens=50, messages=HELLO)

    assert asyncio.run(run()).content[0].text == TEXT


def test_anthropic_errors_have_their_classes(claude):
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.RateLimitError):
        claude.messages.create(model="claude-status-429-retry-1", max_tokens=5, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="claude-ok", max_tokens=5, messages=[])
