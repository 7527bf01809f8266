"""What people build with: LangChain's chat models and Mistral's client."""

import base64

import anthropic
import openai
import pydantic
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from conftest import until

TEXT = "Hello from the fake provider."
TARGETS = pytest.mark.parametrize("prefix", ["", "claude-", "gemini-"])
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 24).decode()


class Answer(pydantic.BaseModel):
    """What the fake provider says as JSON."""

    answer: int


@tool
def get_weather(city: str) -> str:
    """Tells the weather."""
    return f"sunny in {city}"


def openai_model(llm, name, **more):
    return ChatOpenAI(model=name, base_url=llm.url + "/v1", api_key=llm.key, max_retries=0, **more)


def anthropic_model(llm, name, **more):
    return ChatAnthropic(
        model=name, base_url=llm.url, api_key=llm.key, max_retries=0, max_tokens=100, **more
    )


MODELS = pytest.mark.parametrize("make", [openai_model, anthropic_model])


@MODELS
@TARGETS
def test_langchain(llm, fake, make, prefix):
    model = make(llm, prefix + "ok")
    answer = model.invoke("Hello")
    assert answer.text == TEXT
    assert answer.usage_metadata["input_tokens"] == 9
    assert "".join(piece.text for piece in model.stream("Hello")) == TEXT
    picture = {"type": "image", "base64": PIXEL, "mime_type": "image/png"}
    message = HumanMessage([{"type": "text", "text": "What is it?"}, picture])
    assert model.invoke([message]).text == TEXT
    assert PIXEL in fake.last()["body"]


@MODELS
@TARGETS
def test_langchain_tools(llm, fake, make, prefix):
    asked = [HumanMessage("Hello")]
    called = make(llm, prefix + "tool").bind_tools([get_weather]).invoke(asked)
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = make(llm, prefix + "ok").bind_tools([get_weather]).invoke([*asked, called, result])
    assert answer.text == TEXT
    assert "sunny in Paris" in fake.last()["body"]
    pieces = None
    for piece in make(llm, prefix + "tool").bind_tools([get_weather]).stream(asked):
        pieces = piece if pieces is None else pieces + piece
    assert pieces.tool_calls[0]["args"] == {"city": "Paris"}


@TARGETS
def test_langchain_schema(llm, prefix):
    model = openai_model(llm, prefix + "json").with_structured_output(Answer, method="json_schema")
    assert model.invoke("Hello").answer == 42


def test_langchain_embeddings(llm):
    model = OpenAIEmbeddings(
        model="embeddings", base_url=llm.url + "/v1", api_key=llm.key, check_embedding_ctx_length=False
    )
    assert len(model.embed_documents(["a", "b"])) == 2


@TARGETS
def test_mistral_client(llm, fake, prefix):
    client = Mistral(api_key=llm.key, server_url=llm.url)
    messages = [{"role": "user", "content": "Hello"}]
    answer = client.chat.complete(model=prefix + "ok", messages=messages)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.prompt_tokens == 9
    stream = client.chat.stream(model=prefix + "ok", messages=messages)
    assert "".join(event.data.choices[0].delta.content or "" for event in stream if event.data.choices) == TEXT
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
    called = client.chat.complete(model=prefix + "tool", messages=messages, tools=tools, tool_choice="any")
    assert called.choices[0].message.tool_calls[0].function.name == "get_weather"
    parsed = client.chat.parse(Answer, model=prefix + "json", messages=messages)
    assert parsed.choices[0].message.parsed.answer == 42
    picture = {"type": "image_url", "image_url": f"data:image/png;base64,{PIXEL}"}
    content = [{"type": "text", "text": "What is it?"}, picture]
    client.chat.complete(model=prefix + "ok", messages=[{"role": "user", "content": content}])
    assert PIXEL in fake.last()["body"]
    with pytest.raises(SDKError) as refused:
        client.chat.complete(model=prefix + "status-429-retry-1", messages=messages)
    assert refused.value.status_code == 429


@MODELS
@TARGETS
def test_langchain_errors(llm, make, prefix):
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
        make(llm, prefix + "status-429-retry-1").invoke("Hello")
    # A stream that breaks off is an error, never a short answer.
    with pytest.raises((openai.APIError, anthropic.APIError)):
        for _ in make(llm, prefix + "cut-stream").stream("Hello"):
            pass


def cancelled(llm, endpoint):
    lines = llm.http.get("/metrics").text.splitlines()
    series = [line for line in lines if f'endpoint="{endpoint}"' in line and 'outcome="cancelled"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in series if line.startswith("millgate_requests_total"))


@MODELS
@TARGETS
def test_langchain_cancel(llm, make, prefix):
    name = prefix + "slow"
    before = cancelled(llm, name)
    stream = make(llm, name).stream("Hello")
    next(stream)
    stream.close()
    until(lambda: cancelled(llm, name) > before, "the call to be cancelled", seconds=10)


@TARGETS
def test_mistral_cancel(llm, prefix):
    name = prefix + "slow"
    before = cancelled(llm, name)
    client = Mistral(api_key=llm.key, server_url=llm.url)
    with client.chat.stream(model=name, messages=[{"role": "user", "content": "Hello"}]) as stream:
        next(iter(stream))
    until(lambda: cancelled(llm, name) > before, "the call to be cancelled", seconds=10)
