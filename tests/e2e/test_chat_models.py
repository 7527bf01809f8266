"""Registered models that chat, spoken to by every kind of client: saved by MLflow, asked through the gateway."""

import json
import pathlib
import socket
import sys
import time

import anthropic
import cloudpickle
import mlflow
import openai
import pytest
from google import genai

import agents
from conftest import Gateway, observed, until

cloudpickle.register_pickle_by_value(agents)
NAMES = ("Whole", "Streamed", "Agent", "Responder")
CONFIG = """\
version: 1
providers: {{ mock: {{ kind: mock }} }}
models: {{ python: "{python}" }}
endpoints:
  - {{ name: whole, type: llm/v1/chat, route: "file://{models}/Whole" }}
  - {{ name: streamed, type: llm/v1/chat, route: "file://{models}/Streamed", serving: {{ timeout: 20s }} }}
  - name: agent
    type: llm/v1/chat
    route: "file://{models}/Agent"
    serving: {{ usd_per_million_tokens: {{ input: 1000, output: 10000 }} }}
  - {{ name: responder, type: llm/v1/chat, route: "file://{models}/Responder" }}
  - {{ name: code, type: llm/v1/chat, route: "file://{models}/code" }}
  - {{ name: plain, type: llm/v1/chat, route: "file://{models}/Plain" }}
  - {{ name: nonsense, type: llm/v1/chat, route: "file://{models}/Nonsense" }}
  - {{ name: no-chat, type: llm/v1/chat, route: "file://{models}/NoChat" }}
  - {{ name: hasty, type: llm/v1/chat, route: "file://{models}/Whole", serving: {{ timeout: 1s }} }}
  - name: safe
    type: llm/v1/chat
    route: {{ fallback: [ "file://{models}/Streamed", mock/echo ] }}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    models = folder / "models"
    # Agents are traced by themselves, into a database where the tests run.
    mlflow.tracing.disable()

    def save(name, task=None, model=None):
        metadata = {"task": task} if task else None
        model = model or getattr(agents, name)()
        mlflow.pyfunc.save_model(str(models / name), python_model=model, pip_requirements=[], metadata=metadata)

    for name in NAMES:
        save(name)
    for name in ("Plain", "Nonsense"):
        save(name, "llm/v1/chat")
    save("NoChat", model=agents.Plain())
    code = folder / "code.py"
    code.write_text(agents_source())
    save("code", model=str(code))
    # MLflow 3.17 waits for itself in `log_model` while tracing is off: `trace_disabled` calls what it wraps under its own lock.
    mlflow.tracing.enable()
    config = CONFIG.format(python=sys.executable, models=models)
    child = Gateway(folder / "gateway", config)
    child.models = models
    yield child
    child.stop()
    assert "canary" not in child.out_path.read_text(), "a model's words stand in the access log"


def agents_source():
    """A model from code: the file itself is the model."""
    source = pathlib.Path(agents.__file__).read_text()
    return source + "\nfrom mlflow.models import set_model\nset_model(Responder())\n"


def ready(served, name):
    def asked():
        answer = served.post("/v1/chat/completions", {"model": name, "messages": user("hi")})
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    until(asked, name, 120)


def user(text):
    return [{"role": "user", "content": text}]


TALK = [{"role": "system", "content": "be brief"}, *user("one"), {"role": "assistant", "content": "two"}, *user("go on")]
SAID = {
    "whole": "system user assistant go on at 0.5",
    "streamed": "system user assistant go on ",
    "agent": "system user assistant go on ",
    "responder": "system user assistant user: go on",
    "code": "system user assistant user: go on",
}


def sdk(served):
    return openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("name", SAID)
def test_openais_client_gets_the_models_words_whole_and_streamed(served, name):
    ready(served, name)
    client = sdk(served)
    answer = client.chat.completions.create(model=name, messages=TALK, temperature=0.5)
    assert answer.choices[0].message.content == SAID[name]
    assert answer.choices[0].finish_reason == "stop" and not answer.choices[0].message.tool_calls
    assert answer.model == name
    if name != "whole":
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    pieces, reasons, usage = [], [], None
    stream = client.chat.completions.create(
        model=name, messages=TALK, temperature=0.5, stream=True, stream_options={"include_usage": True}
    )
    for part in stream:
        usage = part.usage or usage
        for choice in part.choices:
            pieces.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
            assert not choice.delta.tool_calls
    assert "".join(pieces) == SAID[name] and reasons[-1] == "stop"
    # Piece by piece where the model does so.
    assert len([piece for piece in pieces if piece]) >= (1 if name == "whole" else 3), pieces
    if name == "streamed":
        assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3)


def said_by(answer):
    """The words of a chat model's own answer."""
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"]
    if "messages" in answer:
        return answer["messages"][-1]["content"]
    return "".join(part["text"] for item in answer["output"] for part in item.get("content") or [])


def test_the_words_are_those_that_mlflow_gets(served):
    rows = []
    for name, kind in (("whole", "Whole"), ("streamed", "Streamed"), ("agent", "Agent"), ("responder", "Responder")):
        ready(served, name)
        asked = {"input": TALK} if name == "responder" else {"messages": TALK}
        theirs = said_by(mlflow.pyfunc.load_model(str(served.models / kind)).predict(asked))
        answer = served.post("/v1/chat/completions", {"model": name, "messages": TALK})
        same = answer.json()["choices"][0]["message"]["content"] == theirs
        maker = getattr(agents, kind)
        streams = "predict_stream" in vars(maker)
        rows.append(
            {
                "model": maker.__mro__[1].__name__ + (" with predict_stream" if streams else ""),
                "flavour": "python_function",
                "runtime": answer.headers["x-millgate-runtime"],
                "beside": "the same words" if same else theirs,
            }
        )
    observed("chat", rows)


@pytest.mark.parametrize("name", ["whole", "streamed", "agent", "responder"])
def test_other_dialects_reach_them_too(served, name):
    ready(served, name)
    said = SAID[name].replace("at 0.5", "at 1")
    claude = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    talk = {"system": "be brief", "messages": TALK[1:], "max_tokens": 99}
    answer = claude.messages.create(model=name, **talk)
    assert "".join(block.text for block in answer.content) == said and answer.stop_reason == "end_turn"
    with claude.messages.stream(model=name, **talk) as stream:
        assert "".join(stream.text_stream) == said
    answer = sdk(served).responses.create(model=name, instructions="be brief", input=TALK[1:])
    assert answer.output_text == said
    events = [e.type for e in sdk(served).responses.create(model=name, input="go on", stream=True)]
    assert events[0] == "response.created" and events[-1] == "response.completed"
    gemini = genai.Client(api_key="none", http_options={"base_url": served.url})
    answer = gemini.models.generate_content(model=name, contents="go on")
    alone = {"whole": "go on at 1", "responder": "user: go on"}.get(name, "go on ")
    assert answer.text == alone
    pieces = [part.text or "" for part in gemini.models.generate_content_stream(model=name, contents="go on")]
    assert "".join(pieces) == alone
    answer = served.post(f"/gateway/{name}/invocations", {"messages": TALK, "temperature": 1.0})
    assert answer.json()["choices"][0]["message"]["content"] == said
    assert answer.headers["x-millgate-runtime"] == "worker" and answer.headers["x-millgate-model-version"]


def test_tools_go_in_and_calls_come_out(served):
    ready(served, "streamed")
    function = {"name": "add", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    answer = sdk(served).chat.completions.create(
        model="streamed", messages=user("sum"), tools=[{"type": "function", "function": function}]
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", '{"x": 1}')
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("name", ["agent", "responder"])
def test_a_call_that_an_agent_leaves_unanswered_is_the_callers(served, name):
    ready(served, name)
    asked = {"model": name, "messages": user("call")}
    answer = sdk(served).chat.completions.create(**asked)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, answer.choices[0].finish_reason) == ("look", "tool_calls")
    parts = [choice for part in sdk(served).chat.completions.create(**asked, stream=True) for choice in part.choices]
    names = [call.function.name for choice in parts for call in choice.delta.tool_calls or [] if call.function.name]
    assert names == ["look"] and parts[-1].finish_reason == "tool_calls"
    claude = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    answer = claude.messages.create(**asked, max_tokens=9)
    assert [block.name for block in answer.content] == ["look"] and answer.stop_reason == "tool_use"


def test_custom_inputs_reach_an_agent(served):
    ready(served, "agent")
    asked = {"model": "agent", "messages": user("custom"), "extra_body": {"custom_inputs": {"shelf": 7}}}
    assert sdk(served).chat.completions.create(**asked).choices[0].message.content == "{'shelf': 7}"


def test_a_plain_model_that_says_so_chats_as_well(served):
    ready(served, "plain")
    assert sdk(served).chat.completions.create(model="plain", messages=user("a b")).choices[0].message.content == "A B"


def test_what_fails_before_the_first_word_has_a_status_and_after_it_an_event(served):
    ready(served, "streamed")
    for stream in (False, True):
        body = {"model": "streamed", "messages": user("fail"), "stream": stream}
        answer = served.post("/v1/chat/completions", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_failed"), answer.text
        assert "RuntimeError" in answer.text and "canary" not in answer.text
    answer = served.post("/v1/chat/completions", {"model": "streamed", "messages": user("so late "), "stream": True})
    assert answer.status_code == 200
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-1])["error"]["code"] == "model_failed" and "[DONE]" not in answer.text
    assert "canary" not in answer.text
    talk = {"model": "streamed", "messages": user("so late"), "max_tokens": 9, "stream": True}
    answer = served.post("/v1/messages", talk, headers={"anthropic-version": "2023-06-01"})
    assert "event: error" in answer.text and "message_stop" not in answer.text
    answer = served.post("/v1/chat/completions", {"model": "streamed", "messages": user("so abort"), "stream": True})
    assert '"worker_crashed"' in answer.text and "[DONE]" not in answer.text
    ready(served, "streamed")
    nonsense = {"model": "nonsense", "messages": user("x")}
    until(lambda: served.post("/v1/chat/completions", nonsense).status_code == 500, "the model that is none", 60)
    assert "its answer is none to a chat" in served.post("/v1/chat/completions", nonsense).text
    ready(served, "agent")
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    answer = served.post(
        "/v1/chat/completions", {"model": "agent", "messages": [{"role": "user", "content": [picture]}]}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_rejected_input"), answer.text


def test_a_model_that_hangs_is_a_timeout(served):
    ready(served, "hasty")
    answer = served.post("/v1/chat/completions", {"model": "hasty", "messages": user("doze")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "worker_timeout")


def test_a_caller_who_leaves_or_dawdles_stops_the_model(served):
    ready(served, "streamed")
    asked = {"model": "streamed", "messages": user("count 500"), "stream": True}
    with served.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = answer.iter_lines()
        for _ in range(6):
            next(lines)

    def seen():
        body = {"model": "streamed", "messages": user("seen"), "stream": True}
        answer = served.post("/v1/chat/completions", body)
        words = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        return int(words[0]["choices"][0]["delta"]["content"] or words[1]["choices"][0]["delta"]["content"])

    began = time.monotonic()
    assert seen() < 100, "the model went on for a caller who had left"
    assert time.monotonic() - began < 5

    # Who does not read makes the model wait: 2,000 pieces of 10 kB are not gathered for it.
    raw = socket.create_connection(("127.0.0.1", served.port))
    body = json.dumps({"model": "streamed", "messages": user("flood 2000"), "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    raw.sendall(head.encode() + body)
    time.sleep(2)
    raw.close()
    assert seen() < 1000


def test_where_it_fails_a_provider_answers(served):
    ready(served, "safe")
    client = sdk(served)
    assert client.chat.completions.create(model="safe", messages=user("well")).choices[0].message.content == "well "
    answer = client.chat.completions.with_raw_response.create(model="safe", messages=user("fail"))
    assert answer.headers["x-millgate-target"] == "mock/echo" and answer.headers["x-millgate-attempts"] == "2"
    assert "fail" in answer.parse().choices[0].message.content
    stream = client.chat.completions.create(model="safe", messages=user("fail"), stream=True)
    assert "fail" in "".join(part.choices[0].delta.content or "" for part in stream if part.choices)


def test_usage_is_estimated_where_the_model_gives_none_and_costs_only_where_a_price_is_set(served):
    ready(served, "whole")
    answer = served.post("/v1/chat/completions", {"model": "whole", "messages": user("x y z")})
    assert answer.headers["x-millgate-estimated"] == "true" and "x-millgate-cost-usd" not in answer.headers

    def logged():
        lines = [json.loads(line) for line in served.out_path.read_text().splitlines() if line.startswith("{")]
        mine = [line for line in lines if line.get("endpoint") == "whole" and line.get("status") == 200]
        return mine and mine[-1]

    line = until(logged, "the record")
    assert line["usage_estimated"] is True and line["input_tokens"] > 0 and line["output_tokens"] > 0, line
    assert not line.get("cost_usd")
    # Where the configuration says a price, the model's own count costs: 7 tokens in, 3 out.
    ready(served, "agent")
    answer = served.post("/v1/chat/completions", {"model": "agent", "messages": user("x")})
    assert float(answer.headers["x-millgate-cost-usd"]) == 0.037


def test_a_model_that_does_not_chat_is_not_loaded_and_the_reason_is_told(served):
    def told():
        answer = served.post("/v1/chat/completions", {"model": "no-chat", "messages": user("x")})
        assert answer.status_code == 503, answer.text
        return answer if "no chat model" in answer.text else None

    answer = until(told, "the reason", 60)
    assert "names no task" in answer.text and "type: predict" in answer.text
    models = {one["endpoint"]: one for one in served.http.get("/readyz").json()["models"]}
    assert models["no-chat"]["state"] == "FAILED"
    ready(served, "responder")
    models = {one["endpoint"]: one for one in served.http.get("/readyz").json()["models"]}
    assert models["responder"]["input"] == "chat, answered piece by piece"
