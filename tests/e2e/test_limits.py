"""Limits, budgets and the ledger through kills, and over two replicas behind nginx."""

import json
import os
import random
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from conftest import GATEWAY, Child, Gateway, free_port, until

OWNER = "mg-owner-key-0123456789ab"
PRICED = "models: { '*': { usd_per_million_tokens: { input: 1, output: 10 } } }"


def config(fake, more, access=True):
    keys = f"access: {{ keys: required, static: [ {{ name: owner, key: {OWNER}, roles: [admin], owner: {{ team: core }} }} ] }}"
    return f"""\
version: 1
providers:
  openai: {{ kind: openai, api_key: sk-test-0123456789, base_url: {fake.base}, {PRICED} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: openai/ok }}
  - {{ name: slow, type: llm/v1/chat, route: openai/slow-head-3000ms }}
{keys if access else ''}
{more}
"""


def ask(url, model="chat", key=OWNER, tokens=7):
    body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "x"}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def admin(url, path):
    answer = httpx.get(f"{url}/admin/v1/{path}", headers={"Authorization": f"Bearer {OWNER}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_kills_at_random_moments_lose_at_most_what_had_just_ended(tmp_path, fake):
    """A call costs 79,000 nano-USD (9 and 7 tokens)."""
    chance = random.Random(11)
    text = config(fake, "budgets: [ { name: all, usd: 100, per: year } ]")
    old, killed_with = 0, 0
    kills = 5
    for attempt in range(kills):
        child = Gateway(tmp_path, text, name=f"gateway-{attempt}")
        ended = []

        def call(child=child, ended=ended):
            for _ in range(1000):
                try:
                    answer = ask(child.url)
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                ended.append(time.monotonic())

        def open_call(child=child):
            with pytest.raises(httpx.TransportError):
                ask(child.url, model="slow")

        threads = [threading.Thread(target=call) for _ in range(4)] + [threading.Thread(target=open_call)]
        [thread.start() for thread in threads]
        time.sleep(chance.uniform(0.8, 1.4))
        at = time.monotonic()
        child.process.kill()
        child.process.wait()
        [thread.join() for thread in threads]
        killed_with += len(ended)
        # Written five times a second: what ended more than a second before is there.
        old += sum(1 for moment in ended if moment < at - 1.0)

    child = Gateway(tmp_path, text, name="gateway-last")
    try:
        rows = {row["group"]["endpoint"]: row for row in admin(child.url, "usage?by=endpoint")["rows"]}
        counted = rows["chat"]["requests"]
        assert old <= counted <= killed_with + 4 * kills, (old, counted, killed_with)
        # Those that were under way count with what they had reserved, which is more than a call uses.
        spent = rows["chat"]["cost_nano_usd"]
        assert counted * 79_000 <= spent <= counted * 79_000 + 4 * kills * 300_000, (counted, spent)
        # Calls that were under way count with what they had reserved.
        assert rows["slow"]["requests"] == kills and rows["slow"]["cost_nano_usd"] > 0, rows
        total = sum(row["cost_nano_usd"] for row in rows.values())
        budget = admin(child.url, "budgets")["budgets"][0]["spent"][0]
        assert round(float(budget["spent_usd"]) * 1e9) == total
        print(f"{kills} kills: {killed_with} calls had ended, {counted} are in the ledger, {killed_with - counted} of the last second lost")
    finally:
        child.stop()


def test_in_durable_mode_kills_at_random_moments_lose_nothing(tmp_path, fake):
    chance = random.Random(12)
    text = config(fake, "ledger: { mode: durable }\nbudgets: [ { name: all, usd: 100, per: year } ]")
    answered, begun, kills = 0, 0, 5
    for attempt in range(kills):
        child = Gateway(tmp_path, text, name=f"durable-{attempt}")
        ended, sent = [], []

        def call(child=child, ended=ended, sent=sent):
            for _ in range(1000):
                sent.append(1)
                try:
                    answer = ask(child.url)
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                ended.append(1)

        threads = [threading.Thread(target=call) for _ in range(4)]
        [thread.start() for thread in threads]
        time.sleep(chance.uniform(0.5, 1.0))
        child.process.kill()
        child.process.wait()
        [thread.join() for thread in threads]
        answered += len(ended)
        begun += len(sent)
    child = Gateway(tmp_path, text, name="durable-last")
    try:
        rows = admin(child.url, "usage?by=endpoint")["rows"]
        counted, spent = sum(row["requests"] for row in rows), sum(row["cost_nano_usd"] for row in rows)
        # Each that was answered is there, and no more than were sent.
        assert answered <= counted <= begun, (answered, counted, begun)
        # With what it cost, or what it had reserved.
        assert spent >= 79_000 * answered, (spent, answered)
        budget = admin(child.url, "budgets")["budgets"][0]["spent"][0]
        assert round(float(budget["spent_usd"]) * 1e9) == spent
        print(f"{kills} kills: {answered} calls were answered, {counted} of {begun} sent are in the ledger, none lost")
    finally:
        child.stop()


def test_in_durable_mode_a_killed_stream_counts_with_more_than_it_had_told(tmp_path, fake):
    """Nobody said how long it may be: more than was assumed at first is written down before it comes."""
    text = config(fake, "ledger: { mode: durable }").replace(
        "endpoints:\n", "endpoints:\n  - { name: long, type: llm/v1/chat, route: openai/chunks-6000-1ms }\n"
    )
    child = Gateway(tmp_path, text, name="stream")
    body = {"model": "long", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {OWNER}"}
    told = 0
    with pytest.raises(httpx.TransportError):
        with httpx.stream("POST", f"{child.url}/v1/chat/completions", json=body, headers=headers, timeout=30) as answer:
            for line in answer.iter_lines():
                told += line.startswith("data:")
                if told == 2500:
                    child.process.kill()
    child.process.wait()
    child = Gateway(tmp_path, text, name="stream-after")
    try:
        (row,) = admin(child.url, "usage?by=endpoint")["rows"]
        # A chunk counts as a token of 10,000 nano-USD.
        assert row["group"]["endpoint"] == "long" and row["requests"] == 1, row
        assert told * 10_000 <= row["cost_nano_usd"] <= (told + 2_000) * 10_000, (told, row)
        print(f"a stream without max_tokens, killed after {told} tokens: {row['cost_nano_usd'] // 10_000} are in the ledger")
    finally:
        child.stop()


def test_in_durable_mode_streams_that_end_while_more_is_written_down_count_once(tmp_path, fake):
    text = config(fake, "ledger: { mode: durable }").replace(
        "endpoints:\n", "endpoints:\n  - { name: long, type: llm/v1/chat, route: openai/chunks-1500-0ms }\n"
    )
    child = Gateway(tmp_path, text, name="ends")
    body = {"model": "long", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {OWNER}"}
    for _ in range(20):
        answer = httpx.post(f"{child.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200 and "[DONE]" in answer.text
    time.sleep(1)
    child.process.kill()
    child.process.wait()
    child = Gateway(tmp_path, text, name="ends-after")
    try:
        (row,) = admin(child.url, "usage?by=endpoint")["rows"]
        assert row["requests"] == 20, row
    finally:
        child.stop()


def test_the_sdk_sees_limits_and_people_see_usage(tmp_path, fake):
    limits = "limits: [ { requests: 3, per: hour, by: key }, { tokens: 100000, per: day, window: calendar, by: team } ]"
    child = Gateway(tmp_path, config(fake, limits))
    try:
        client = openai.OpenAI(api_key=OWNER, base_url=child.url + "/v1", max_retries=0)
        for left in (2, 1, 0):
            raw = client.chat.completions.with_raw_response.create(
                model="chat", max_tokens=5, messages=[{"role": "user", "content": "x"}]
            )
            assert raw.headers["x-ratelimit-remaining-requests"] == str(left)
            assert int(raw.headers["x-ratelimit-remaining-tokens"]) < 100000
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x"}])
        assert refused.value.code == "rate_limit_exceeded"
        assert 0 < int(refused.value.response.headers["retry-after"]) <= 1200

        def millgate(*arguments):
            env = {"MILLGATE_ADMIN_KEY": OWNER, "MILLGATE_URL": child.url, "PATH": "/usr/bin"}
            done = subprocess.run([GATEWAY, *arguments], env=env, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stderr
            return done.stdout

        usage = millgate("usage", "--by", "team,model")
        assert usage.splitlines()[1].split() == ["core", "ok", "3", "0", "27", "21", "0", "0.000237000", "0"], usage
        assert usage.splitlines()[2].split()[0] == "total"
        assert millgate("usage", "--by", "team", "--format", "csv").splitlines()[1].startswith("core,3,0,27,21,")
        assert "AI and Machine Learning" in millgate("usage", "--format", "focus")
        assert "owner" in millgate("limits")
        report = json.loads(millgate("usage", "--output", "json"))
        assert report["total"]["cost_nano_usd"] == 3 * 79_000
        assert millgate("budgets").split()[:2] == ["BUDGET", "BY"]
    finally:
        child.stop()


NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream replicas {{ server 127.0.0.1:{one}; server 127.0.0.1:{two}; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""


@pytest.fixture
def company(tmp_path, fake):
    """Two replicas on one PostgreSQL and one Redis, behind nginx."""
    postgres = os.environ.get("MILLGATE_TEST_POSTGRES")
    programs = [shutil.which(name) for name in ("redis-server", "nginx", "psql")]
    if not postgres or not all(programs):
        assert not os.environ.get("CI"), "CI must have PostgreSQL, redis-server and nginx"
        pytest.skip("PostgreSQL, redis-server or nginx is missing")
    redis_port = free_port()
    redis = Child(["redis-server", "--port", redis_port, "--bind", "127.0.0.1", "--save", ""], tmp_path, "redis")
    # A database of its own: others have spent in the usual one.
    name = f"company_{os.getpid()}_{redis_port}"
    subprocess.run(["psql", postgres, "-q", "-c", f"CREATE DATABASE {name}"], check=True, timeout=30)
    more = f"""\
store: {postgres.rsplit('/', 1)[0]}/{name}
shared: {{ redis: redis://127.0.0.1:{redis_port}/, replicas: 2 }}
limits: [ {{ requests: 30, per: hour, by: key, only: {{ keys: ['limited-*'] }} }} ]
budgets: [ {{ name: trial, usd: 0.0009, per: month, by: key, only: {{ keys: ['trial-*'] }} }} ]
"""
    text = config(fake, more).replace("static:", "key_pepper: the-pepper-of-all-replicas-of-this-test, static:")
    replicas = [Gateway(tmp_path / f"replica-{number}", text) for number in (1, 2)]
    port = free_port()
    (tmp_path / "nginx.conf").write_text(
        NGINX.format(folder=tmp_path, one=replicas[0].port, two=replicas[1].port, port=port)
    )
    nginx = Child(["nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path], tmp_path, "nginx")
    url = f"http://127.0.0.1:{port}"
    until(lambda: httpx.get(url + "/health").status_code == 200, "nginx")
    yield url, replicas, redis
    for child in [nginx, *replicas, redis]:
        child.stop()


def issue(url, name):
    made = httpx.post(f"{url}/admin/v1/keys", json={"name": name}, headers={"Authorization": f"Bearer {OWNER}"})
    assert made.status_code == 201, made.text
    return made.json()


def test_two_replicas_behind_nginx_are_one_gateway(company):
    url, replicas, redis = company
    limited, trial, revoked = (issue(url, name) for name in ("limited-1", "trial-1", "short-lived"))
    for replica in replicas:
        for key in (limited, trial, revoked):
            listed = lambda key=key, replica=replica: httpx.get(  # noqa: E731
                f"{replica.url}/v1/models", headers={"Authorization": f"Bearer {key['key']}"}
            )
            until(lambda listed=listed: listed().status_code == 200, "a key is known at both")

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: ask(url, key=limited["key"]).status_code, range(100)))
    assert (statuses.count(200), statuses.count(429)) == (30, 70)

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda _: ask(url, key=trial["key"]).status_code, range(200)))
    spent = statuses.count(200) * 79_000
    assert set(statuses) == {200, 429} and 8 * 79_000 <= spent <= 900_000, statuses

    # What both have written is one ledger, and one count.
    time.sleep(1)
    rows = {row["group"]["key"]: row for row in admin(url, "usage?by=key")["rows"]}
    assert rows["trial-1"]["cost_nano_usd"] == spent and rows["limited-1"]["requests"] == 30

    answer = httpx.delete(f"{url}/admin/v1/keys/{revoked['issued']['id']}", headers={"Authorization": f"Bearer {OWNER}"})
    assert answer.status_code == 200
    at = time.monotonic()
    for replica in replicas:
        until(lambda replica=replica: ask(replica.url, key=revoked["key"]).status_code == 401, "the revocation counts")
    took = time.monotonic() - at
    assert took < 1.5, took

    # A Redis that has lost everything: budgets begin with what the ledger says.
    redis.process.kill()
    redis.process.wait()
    assert ask(url, key=trial["key"]).status_code == 503
    again = Child(redis.process.args, redis.out_path.parent, "redis-again")
    try:
        seen = []
        until(lambda: seen.append(ask(url, key=trial["key"]).status_code) or seen[-1] != 503, "Redis is back", 5)
        assert seen[-1] == 429, f"what was spent before counts: {seen}"
        assert ask(url, key=issue(url, "trial-2")["key"]).status_code in (200, 401)
    finally:
        again.stop()
    print(f"two replicas: 30 of 100 admitted, {spent} of 900,000 nano-USD spent, a revocation after {took:.2f} s at both")
