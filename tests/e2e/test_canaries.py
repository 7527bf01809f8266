"""Secrets and callers' texts are searched in everything that leaves a gateway: answers, headers, logs, metrics, traces of
errors, the admin API, the command line, and every file that it keeps."""

import base64
import json
import subprocess
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from conftest import GATEWAY, Gateway, environment

OWNER = "mg-canary-owner-0123456789abcdef"
PROVIDER = "sk-canary-provider-0123456789abcdef"
SPARE = "sk-canary-spare-0123456789abcdef"
STORED = "sk-canary-stored-0123456789abcdef"
MASTER = "canary-master-0123456789abcdef-0123"
HOOK = "whsec-canary-hook-0123456789"
CLIENT = "canary-client-secret-0123456789"
WRONG = "mg-canary-wrong-0123456789abcdef"
PROMPT, ANSWER = "canary prompt of a caller", "canary answer of a model"


class Hostile(BaseHTTPRequestHandler):
    """A provider that sends back whatever it was sent, in each place there is."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = self.headers.get("authorization") or self.headers.get("x-api-key") or ""
        model = body.get("model", "")
        key = seen.removeprefix("Bearer ")
        if model == "ok":
            message = {"role": "assistant", "content": ANSWER}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "ok",
                      "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                      "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
            return self.reply(200, json.dumps(answer))
        if model == "stream":
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                     "choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}]}
            events = f"data: {json.dumps(chunk)}\n\ndata: {json.dumps({'error': {'message': f'bad key {key}'}})}\n\n"
            return self.reply(200, events, "text/event-stream")
        if model == "html":
            return self.reply(200, f"<html>{seen} {key}</html>", "text/html")
        if model == "broken":
            self.wfile.write(f"HTTP/1.1 2x0 {key}\r\n{seen}\r\n\r\n".encode())
            self.close_connection = True
            return None
        if model == "redirect":
            return self.reply(302, "", location=f"https://example.com/?key={key}")
        status = int(model)
        error = {"message": f"Incorrect API key provided: {key}. {PROMPT}", "type": "invalid", "code": key, "param": seen}
        return self.reply(status, json.dumps({"error": error}), **{"x-echo": key, "retry-after": "1"})

    do_GET = do_POST

    def reply(self, status, text, kind="application/json", **headers):
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hostile():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


STATUSES = ["400", "401", "403", "404", "408", "413", "422", "429", "500", "502", "503", "529"]
MODELS = ["ok", "stream", "html", "broken", "redirect", *STATUSES]


def config(hostile, tmp_path, more=""):
    (tmp_path / "spare").write_text(SPARE)
    endpoints = "\n".join(f"  - {{ name: m-{model}, type: llm/v1/chat, route: hostile/{model} }}" for model in MODELS)
    return f"""\
version: 1
providers:
  hostile: {{ kind: openai, base_url: '{hostile}', api_key: env:PROVIDER_SECRET, models: {{ '*': {{ usd_per_million_tokens: {{ input: 1, output: 1 }} }} }}, breaker: {{ enabled: false }}, pacing: off }}
  claude: {{ kind: anthropic, base_url: '{hostile}', api_key: 'file:{tmp_path}/spare', breaker: {{ enabled: false }}, pacing: off }}
endpoints:
{endpoints}
  - {{ name: claude, type: llm/v1/chat, route: claude/401 }}
native: {{ raw: {{ provider: hostile }} }}
registries: {{ default: {{ uri: 'http://127.0.0.1:9', webhook_secret: env:HOOK_SECRET }} }}
limits: [ {{ requests: 1000, per: second, by: key }} ]
budgets: [ {{ name: all, usd: 10, per: month }} ]
secrets: {{ master_key: env:MASTER_SECRET }}
audit: {{ calls: true }}
access:
  keys: required
  static: [ {{ name: owner, key: env:OWNER_SECRET, roles: [admin] }} ]
{more}
"""


def forms(canary):
    """How a secret may stand somewhere."""
    raw = canary.encode()
    encoded = [base64.b64encode(raw[at:]).rstrip(b"=")[4:-4] for at in range(3)]
    return {raw, urllib.parse.quote(canary, safe="").encode(), raw.hex().encode(), json.dumps(canary).strip('"').encode(), *encoded}


def test_no_secret_and_no_text_of_a_caller_leaves(tmp_path, hostile):
    env = {"PROVIDER_SECRET": PROVIDER, "OWNER_SECRET": OWNER, "MASTER_SECRET": MASTER, "HOOK_SECRET": HOOK, "MILLGATE_LOG": "debug"}
    child = Gateway(tmp_path, config(hostile, tmp_path), env=env)
    # What leaves, by where; callers get what models say, and nobody else does.
    told, answered = [], []

    def see(where, answer):
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        told.append((where, f"{head}\n".encode()))
        answered.append((where, answer.content))
        return answer

    headers = {"Authorization": f"Bearer {OWNER}"}
    http = httpx.Client(base_url=child.url, headers=headers, timeout=30)
    try:
        # Calls in three dialects, and through the provider's own API.
        message = [{"role": "user", "content": PROMPT}]
        for model in MODELS:
            for stream in (False, True):
                body = {"model": f"m-{model}", "max_tokens": 5, "messages": message, "stream": stream}
                see(model, http.post("/v1/chat/completions", json=body))
                see(model, http.post("/v1/messages", json=body))
            body = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}
            see(model, http.post(f"/v1beta/models/m-{model}:generateContent?key={OWNER}", json=body))
        see("claude", http.post("/v1/messages", json={"model": "claude", "max_tokens": 5, "messages": message}))
        # What is no call, with secrets where they do not belong.
        see("path", http.get(f"/nothing/here?api_key={OWNER}"))
        see("body", http.post("/v1/chat/completions", content=f'{{"model": "m-ok", "messages": [{PROMPT}'.encode()))
        see("field", http.post("/v1/chat/completions", json={"model": "m-ok", "messages": message, "temperature": PROMPT}))
        for key in (WRONG, f"{OWNER}x"):
            see("key", httpx.get(f"{child.url}/v1/models", headers={"Authorization": f"Bearer {key}"}))
            see("key", httpx.get(f"{child.url}/v1/models", headers={"x-api-key": key}))
        see("hook", http.post("/webhooks/mlflow/default", content=PROMPT, headers={"x-mlflow-signature": "v1,x"}))
        # Administration: secrets set, changed, refused; configurations good and bad, with a key in clear text.
        see("secret", http.put("/admin/v1/secrets/stored", json={"value": STORED}))
        bad = config(hostile, tmp_path, f"provders: {{ x: {{ api_key: {STORED} }} }}")
        clear = config(hostile, tmp_path).replace("env:PROVIDER_SECRET", STORED)
        for text in (bad, clear):
            see("validate", http.post("/admin/v1/config/validate", content=text, headers={"content-type": "application/yaml"}))
        issued = http.post("/admin/v1/keys", json={"name": "app", "tags": {"a": "b"}})
        assert issued.status_code == 201, issued.text
        key = issued.json()["key"]
        see("issued", httpx.post(f"{child.url}/v1/chat/completions", headers={"Authorization": f"Bearer {key}"},
                                 json={"model": "m-ok", "messages": message}))
        description = http.get("/admin/v1/openapi.json").json()
        for path, methods in description["paths"].items():
            if "get" in methods and "{" not in path:
                see(path, http.get(path if path.startswith("/admin") else f"/admin/v1{path}"))
        for path in ("/metrics", "/openapi.json", "/v1/models", "/health", "/api/2.0/endpoints/", "/admin/v1/keys/app"):
            see(path, http.get(path))
        # A file that is changed by hand: good, with the key in clear text, and bad.
        child.config.write_text(clear)
        http.post("/v1/chat/completions", json={"model": "m-401", "messages": message})
        child.config.write_text(bad)
        see("ready", http.get("/ready"))
        commands = [["config", "show"], ["config", "history"], ["secrets", "list"], ["keys", "list"], ["usage"], ["limits"], ["budgets"],
                    ["doctor", "--config-path", child.config], ["audit", "export", "--data-dir", tmp_path / "data"]]
        for command in commands:
            ran = subprocess.run([GATEWAY, *command], capture_output=True, timeout=60,
                                 env=environment(MILLGATE_ADMIN_KEY=OWNER, MILLGATE_URL=child.url, **env))
            told.append((" ".join(map(str, command)), ran.stdout + ran.stderr))
        with open(f"/proc/{child.process.pid}/cmdline", "rb") as line:
            told.append(("command line", line.read()))
    finally:
        child.stop()
    for path in tmp_path.rglob("*"):
        # What the test wrote itself.
        if path.is_file() and path not in (child.config, tmp_path / "spare"):
            told.append((str(path.relative_to(tmp_path)), path.read_bytes()))
    files = [where for where, _ in told]
    assert any("sqlite" in where or where.endswith(".db") for where in files) and any("audit" in where for where in files), files

    found = []
    secrets = [OWNER, PROVIDER, SPARE, STORED, MASTER, HOOK, CLIENT, WRONG, key]
    for canary in secrets:
        found += [(canary, where) for where, text in told + answered for form in forms(canary) if form in text]
    # Callers hear their own words and the model's; logs, metrics and files do not.
    for canary in (PROMPT, ANSWER):
        found += [(canary, where) for where, text in told for form in forms(canary) if form in text]
    assert not found, found
    places, size = len(told) + len(answered), sum(len(text) for _, text in told + answered)
    # What is searched for can be found at all.
    assert any(ANSWER.encode() in text for _, text in answered)
    print(f"{len(secrets)} secrets and 2 texts searched in {places} outputs, {size} bytes: none found")
