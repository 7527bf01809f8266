"""OpenAI's Responses API and Google's API, by their official client libraries."""

import json

import openai
import pydantic
import pytest
from google import genai
from google.genai import errors, types

from conftest import PROVIDER_KEY

TEXT = "Hello from the fake provider."
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"type": "function", "name": "get_weather", "parameters": TOOL, "strict": False}
TARGETS = pytest.mark.parametrize("prefix", ["", "claude-", "gemini-"])


@pytest.fixture
def client(llm):
    return openai.OpenAI(base_url=llm.url + "/v1", api_key=llm.key, max_retries=0)


@pytest.fixture
def google(llm):
    return genai.Client(api_key=llm.key, http_options=types.HttpOptions(base_url=llm.url))


# ---- Responses ----


@TARGETS
def test_response(client, prefix):
    answer = client.responses.create(model=prefix + "ok", input="Hello", instructions="Be brief.")
    assert answer.output_text == TEXT
    assert answer.status == "completed"
    assert answer.usage.total_tokens >= 16


@TARGETS
def test_response_stream(client, prefix):
    with client.responses.stream(model=prefix + "ok", input="Hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [e.type for e in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
    assert final.output_text == TEXT
    assert final.usage.input_tokens == 9


@pytest.mark.parametrize("prefix", ["claude-", "gemini-"])
def test_response_tools(client, fake, prefix):
    answer = client.responses.create(model=prefix + "tool", input="Hello", tools=[FUNCTION])
    call = next(item for item in answer.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    items = [{"role": "user", "content": "Hello"}]
    items += [item.model_dump(exclude_none=True) for item in answer.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    again = client.responses.create(model=prefix + "ok", input=items, tools=[FUNCTION])
    assert again.output_text == TEXT
    assert "sunny" in fake.last()["body"]
    with client.responses.stream(model=prefix + "tool", input="Hello", tools=[FUNCTION]) as stream:
        final = stream.get_final_response()
    call = next(item for item in final.output if item.type == "function_call")
    assert json.loads(call.arguments) == {"city": "Paris"}


@pytest.mark.parametrize("prefix", ["claude-", "gemini-"])
def test_response_reasoning_and_schema(client, prefix):
    class Answer(pydantic.BaseModel):
        answer: int

    parsed = client.responses.parse(model=prefix + "json", input="Hello", text_format=Answer)
    assert parsed.output_parsed.answer == 42
    thought = client.responses.create(model=prefix + "reasoning", input="Hello", reasoning={"effort": "low"})
    reasoning = next(item for item in thought.output if item.type == "reasoning")
    assert reasoning.summary[0].text == "Let me think."


def test_response_refusals(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="claude-ok", input="Hello", previous_response_id="resp_1")
    assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="claude-status-429-retry-1", input="Hello")
    with pytest.raises(openai.APIError):
        for _ in client.responses.create(model="claude-cut-stream", input="Hello", stream=True):
            pass


# ---- Google ----


@TARGETS
def test_google_generate(google, prefix):
    answer = google.models.generate_content(
        model=prefix + "ok",
        contents="Hello",
        config=types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.5),
    )
    assert answer.text == TEXT
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.usage_metadata.prompt_token_count == 9


@TARGETS
def test_google_stream(google, prefix):
    chunks = list(google.models.generate_content_stream(model=prefix + "ok", contents="Hello"))
    assert "".join(chunk.text or "" for chunk in chunks) == TEXT
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert chunks[-1].usage_metadata.prompt_token_count == 9


@TARGETS
def test_google_tools(google, fake, prefix):
    tool = types.Tool(
        function_declarations=[types.FunctionDeclaration(name="get_weather", parameters_json_schema=TOOL)]
    )
    config = types.GenerateContentConfig(tools=[tool])
    answer = google.models.generate_content(model=prefix + "tool", contents="Hello", config=config)
    assert answer.function_calls[0].args == {"city": "Paris"}
    contents = [
        types.Content(role="user", parts=[types.Part(text="Hello")]),
        answer.candidates[0].content,
        types.Content(
            role="user",
            parts=[types.Part.from_function_response(name="get_weather", response={"result": "sunny"})],
        ),
    ]
    again = google.models.generate_content(model=prefix + "ok", contents=contents, config=config)
    assert again.text == TEXT
    assert "sunny" in fake.last()["body"]


def test_google_embeddings_counts_and_models(google):
    answer = google.models.embed_content(model="vectors", contents=["a", "b"])
    assert [e.values for e in answer.embeddings] == [[0.25, -0.5, 0.125, 1.0]] * 2
    assert google.models.embed_content(model="embeddings", contents="a").embeddings[0].values[3] == 1.0
    assert google.models.count_tokens(model="gemini-ok", contents="Hello").total_tokens == 42
    assert google.models.count_tokens(model="ok", contents="Hello you").total_tokens == 3
    assert "models/gemini-ok" in [model.name for model in google.models.list()]
    assert google.models.get(model="gemini-ok").name == "models/gemini-ok"


def test_google_errors(google, llm):
    with pytest.raises(errors.ClientError) as refused:
        google.models.generate_content(model="nobody", contents="Hello")
    assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")
    with pytest.raises(errors.ClientError) as limited:
        google.models.generate_content(model="claude-status-429-retry-1", contents="Hello")
    assert limited.value.status == "RESOURCE_EXHAUSTED"
    with pytest.raises(errors.ServerError):
        google.models.generate_content(model="status-500", contents="Hello")
    with pytest.raises(errors.ClientError) as stranger:
        other = genai.Client(api_key="mg-wrong", http_options=types.HttpOptions(base_url=llm.url))
        other.models.generate_content(model="ok", contents="Hello")
    assert stranger.value.code == 401
    assert PROVIDER_KEY not in str(limited.value)
