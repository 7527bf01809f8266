"""The process: signals, reload, the other commands."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from conftest import GATEWAY, IRIS, Child, environment, free_port, until

LLM = """\
version: 1
providers: {{ fake: {{ kind: openai-compatible, base_url: "{base}", api_key: env:FAKE_KEY }} }}
endpoints:
  - {{ name: ok, type: llm/v1/chat, route: fake/ok }}
  - {{ name: slow, type: llm/v1/chat, route: fake/chunks-20-100ms }}
{more}server: {{ drain_delay: 200ms, drain_timeout: 10s }}
"""
HELLO = [{"role": "user", "content": "Hello"}]


def stream(running, seen):
    body = {"model": "slow", "messages": HELLO, "stream": True}
    with httpx.stream("POST", running.url + "/v1/chat/completions", json=body, timeout=30) as answer:
        for line in answer.iter_lines():
            seen.append(line)


def test_sigterm_lets_a_stream_finish_and_exits_with_0(gateway, fake):
    running = gateway(LLM.format(base=fake.base, more=""))
    seen = []
    thread = threading.Thread(target=stream, args=(running, seen))
    thread.start()
    until(lambda: len(seen) > 3, "the stream")
    running.signal(signal.SIGTERM)
    until(lambda: running.http.get("/readyz").status_code == 503, "readiness to say no", 5)
    thread.join(20)
    assert "data: [DONE]" in seen
    assert running.wait(15) == 0


def test_sigint_ends_an_idle_gateway_at_once(gateway, fake):
    running = gateway(LLM.format(base=fake.base, more=""))
    began = time.monotonic()
    running.signal(signal.SIGINT)
    assert running.wait(10) == 0
    assert time.monotonic() - began < 3


def generation(running):
    answer = running.post("/v1/chat/completions", {"model": "ok", "messages": HELLO})
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-millgate-config"])


@pytest.mark.parametrize("way", ["file", "rename", "hangup"])
def test_a_good_file_is_taken_and_a_bad_one_changes_nothing(gateway, fake, way):
    running = gateway(LLM.format(base=fake.base, more=""))
    first = generation(running)

    def write(text):
        if way == "rename":
            other = running.config.with_suffix(".new")
            other.write_text(text)
            os.replace(other, running.config)
        else:
            running.config.write_text(text)
        if way == "hangup":
            running.signal(signal.SIGHUP)

    write(LLM.format(base=fake.base, more="  - { name: new, type: llm/v1/chat, route: fake/ok }\n"))
    call = {"model": "new", "messages": HELLO}
    until(lambda: running.post("/v1/chat/completions", call).status_code == 200, "the new endpoint", 15)
    second = generation(running)
    assert second > first
    write("version: 1\nendpoints: [ { name: broken, colour: red } ]\n")
    until(lambda: "colour" in running.log, "a complaint", 15)
    assert generation(running) == second
    assert running.post("/v1/chat/completions", call).status_code == 200


def test_a_bad_file_at_start_is_exit_2_with_every_problem_and_its_place(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("version: 1\nendpoints:\n  - name: a\n    typ: llm/v1/chat\n    route: nobody/x\n  - colour: red\n")
    for arguments in (["start", "--config-path", path], ["check", path]):
        done = subprocess.run([GATEWAY, *arguments], capture_output=True, text=True, timeout=20)
        assert done.returncode == 2, done
        assert f"{path}:4:" in done.stderr and f"{path}:6:" in done.stderr, done.stderr
        assert "type" in done.stderr
        assert done.stdout == ""


def test_a_public_address_without_keys_is_refused(tmp_path):
    path = tmp_path / "open.yaml"
    path.write_text("version: 1\nproviders: { mock: { kind: mock } }\nendpoints: [ { name: a, type: llm/v1/chat, route: mock/echo } ]\n")
    arguments = [GATEWAY, "start", "--config-path", path, "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "keys: required" in done.stderr


def test_secrets_stand_neither_in_logs_nor_in_metrics_nor_in_the_canonical_form(gateway, fake, tmp_path):
    more = "access: { keys: required, static: [ { name: alice, key: env:CALLER_KEY } ] }\n"
    key = "mg-canary-caller-990011"
    running = gateway(LLM.format(base=fake.base, more="") + more, env={"CALLER_KEY": key, "MILLGATE_LOG": "debug"})
    headers = {"Authorization": f"Bearer {key}"}
    for model in ("ok", "nobody"):
        running.post("/v1/chat/completions", {"model": model, "messages": HELLO}, headers=headers)
    running.post("/v1/chat/completions", {"model": "ok"}, headers={"Authorization": "Bearer sk-canary-wrong"})
    running.post("/v1/chat/completions?key=sk-canary-query", {"model": "ok", "messages": HELLO}, headers=headers)
    assert "canary" not in running.http.get("/metrics").text
    until(lambda: '"alice"' in running.log, "the access log", 5)
    done = subprocess.run(
        [GATEWAY, "check", "--print", running.config], capture_output=True, text=True,
        env=environment(CALLER_KEY=key, FAKE_KEY="sk-canary-x"),
    )
    assert done.returncode == 0 and "canary" not in done.stdout + done.stderr
    # The fixture looks through the whole log at the end.


def curl_lines(text):
    """The commands that the demo prints, each with its continuation lines."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("curl ")]


def test_the_demos_commands_work_as_printed(tmp_path):
    child = Child([GATEWAY, "demo", "--port", free_port()], tmp_path, "demo", env=environment())
    try:
        until(lambda: "Stop with Ctrl-C" in child.log, "the greeting", 30)
        lines = curl_lines(child.log)
        assert len(lines) >= 5, child.log
        for line in lines:
            done = subprocess.run(
                ["bash", "-c", line + " --fail-with-body --max-time 20"], capture_output=True, text=True
            )
            assert done.returncode == 0 and done.stdout, (line, done)
    finally:
        child.stop()


SPLIT = IRIS["dataframe_split"]
RECORDS = [dict(zip(SPLIT["columns"], row)) for row in SPLIT["data"]]


class TestModelsServe:
    """`millgate models serve` beside `mlflow models serve`, asked the same."""

    @pytest.fixture(scope="class")
    def servers(self, tmp_path_factory, registry):
        folder = tmp_path_factory.mktemp("serve")
        uri = "models:/IrisClassifier/Production"
        env = environment(MLFLOW_TRACKING_URI=registry.url, MLFLOW_DISABLE_TELEMETRY="true")
        ports = free_port(), free_port()
        ours = Child(
            [GATEWAY, "models", "serve", "-m", uri, "-p", ports[0], "-h", "127.0.0.1", "--data-dir", folder / "data"],
            folder, "millgate", env=env,
        )
        theirs = Child(
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "-p", ports[1], "-h", "127.0.0.1",
             "--env-manager", "local"],
            folder, "mlflow", env=env, start_new_session=True,
        )
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for url, child in zip(urls, (ours, theirs)):
            until(lambda: httpx.get(url + "/ping").status_code == 200, f"a server: {child.log[-2000:]}", 90)
        yield urls
        ours.stop()
        os.killpg(theirs.process.pid, signal.SIGTERM)
        theirs.process.wait(20)

    BODIES = {
        "split": IRIS,
        "records": {"dataframe_records": RECORDS},
        "inputs": {"inputs": RECORDS},
        "instances": {"instances": RECORDS},
        "columns-in-another-order": {"dataframe_records": [dict(reversed(r.items())) for r in RECORDS]},
        "more-columns": {"dataframe_records": [{**r, "more": 1} for r in RECORDS]},
        "integers-for-doubles": {"dataframe_split": {"columns": SPLIT["columns"], "data": [[5, 3, 1, 0]]}},
    }

    @pytest.mark.parametrize("name", BODIES)
    def test_the_answers_are_equal(self, servers, name):
        ours, theirs = (httpx.post(url + "/invocations", json=self.BODIES[name]) for url in servers)
        assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
        assert ours.headers["content-type"] == theirs.headers["content-type"]

    def test_csv_answers_are_equal(self, servers):
        text = "\n".join([",".join(SPLIT["columns"])] + [",".join(map(str, r)) for r in SPLIT["data"]])
        headers = {"Content-Type": "text/csv"}
        ours, theirs = (httpx.post(url + "/invocations", content=text, headers=headers) for url in servers)
        assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())

    @pytest.mark.parametrize(
        "body", ["{", "[1]", "{}", json.dumps({"inputs": [], "instances": []}), json.dumps({"dataframe_split": {"columns": ["x"], "data": [[1]]}})]
    )
    def test_refusals_have_the_same_status(self, servers, body):
        headers = {"Content-Type": "application/json"}
        ours, theirs = (httpx.post(url + "/invocations", content=body, headers=headers) for url in servers)
        assert ours.status_code == theirs.status_code, (ours.text, theirs.text)
        assert {"error_code", "message"} <= set(ours.json())

    def test_the_small_paths_are_equal(self, servers):
        for path in ("/ping", "/health", "/version"):
            ours, theirs = (httpx.get(url + path) for url in servers)
            if path != "/health":
                assert (ours.status_code, ours.text) == (theirs.status_code, theirs.text), path
            assert ours.status_code == theirs.status_code
