"""The audit log and the store of keys through kills at random moments: what was acknowledged is there."""

import json
import random
import subprocess
import threading
import time

import httpx

from conftest import GATEWAY, Gateway

OWNER = "mg-owner-key-0123456789ab"
CONFIG = f"""\
version: 1
providers: {{ mock: {{ kind: mock }} }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: mock/echo }}
audit: {{ calls: true, max_segment: 4KiB }}
access: {{ keys: required, static: [ {{ name: owner, key: {OWNER}, roles: [admin] }} ] }}
"""


def audit(folder, *arguments):
    return subprocess.run(
        [GATEWAY, "audit", *arguments, "--data-dir", folder / "data"], capture_output=True, text=True, timeout=60
    )


def test_kills_at_random_moments_lose_no_acknowledged_change(tmp_path):
    chance = random.Random(7)
    acknowledged, kills = {}, 6
    for attempt in range(kills):
        child = Gateway(tmp_path, CONFIG, name=f"gateway-{attempt}")
        headers = {"Authorization": f"Bearer {OWNER}"}

        def change(child=child, attempt=attempt, headers=headers):
            for number in range(1000):
                name = f"key-{attempt}-{number}"
                try:
                    made = httpx.post(f"{child.url}/admin/v1/keys", json={"name": name}, headers=headers)
                    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
                    httpx.post(f"{child.url}/v1/chat/completions", json=body, headers=headers)
                except httpx.TransportError:
                    return
                assert made.status_code == 201, made.text
                acknowledged[name] = made.json()["key"]

        threads = [threading.Thread(target=change) for _ in range(1)]
        [thread.start() for thread in threads]
        time.sleep(chance.uniform(0.2, 0.8))
        child.process.kill()
        child.process.wait()
        [thread.join() for thread in threads]
        verified = audit(tmp_path, "verify")
        assert verified.returncode == 0, verified.stdout

    assert len(acknowledged) > kills
    exported = audit(tmp_path, "export", "--kind", "change")
    records = [json.loads(line) for line in exported.stdout.splitlines()]
    done = {record["after"]["name"] for record in records if record["phase"] == "done"}
    assert acknowledged.keys() <= done
    assert not any(key in exported.stdout for key in acknowledged.values())
    calls = audit(tmp_path, "export", "--kind", "call").stdout.count("/v1/chat/completions")
    assert calls > 0
    # And every acknowledged key is good.
    child = Gateway(tmp_path, CONFIG, name="gateway-last")
    try:
        # The running gateway gives the same records.
        asked = subprocess.run(
            [GATEWAY, "audit", "export", "--kind", "change", "--url", child.url],
            env={"MILLGATE_ADMIN_KEY": OWNER, "PATH": "/usr/bin"}, capture_output=True, text=True, timeout=60,
        )
        assert [json.loads(line) for line in asked.stdout.splitlines()] == records, asked.stderr
        for key in acknowledged.values():
            listed = httpx.get(f"{child.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert listed.status_code == 200
    finally:
        child.stop()
    print(f"{kills} kills, {len(acknowledged)} acknowledged keys, {len(records)} records of changes: all there")

    # A byte of a record is changed: it is found, and the gateway does not go on as if nothing had been.
    segment = sorted((tmp_path / "data/audit").glob("audit-*.jsonl"))[0]
    text = segment.read_text()
    line = 1 + text[: text.index('"principal":"owner"')].count("\n")
    segment.write_text(text.replace('"principal":"owner"', '"principal":"other"', 1))
    verified = audit(tmp_path, "verify")
    assert verified.returncode == 1 and f"{segment}:{line}: record {line} was changed" in verified.stdout, verified.stdout
    # Without the key that is said, and no other one is made.
    (tmp_path / "data/audit-key").rename(tmp_path / "audit-key")
    verified = audit(tmp_path, "verify")
    assert verified.returncode == 1 and "audit-key is gone" in verified.stderr, verified
    assert not (tmp_path / "data/audit-key").exists()
    (tmp_path / "audit-key").rename(tmp_path / "data/audit-key")
    started = subprocess.run(
        [GATEWAY, "start", "--config-path", tmp_path / "millgate.yaml", "--data-dir", tmp_path / "data", "--port", "0"],
        capture_output=True, text=True, timeout=60,
    )
    assert started.returncode == 1 and "audit log" in started.stderr, started.stderr


def test_the_first_administrator_is_left_in_a_file(tmp_path):
    config = "version: 1\nproviders: { mock: { kind: mock } }\nendpoints:\n" \
             "  - { name: chat, type: llm/v1/chat, route: mock/echo }\naccess: { keys: required }\n"
    child = Gateway(tmp_path, config)
    try:
        file = tmp_path / "data/first-admin-key"
        assert file.stat().st_mode & 0o777 == 0o600
        key = file.read_text().strip()
        assert key.startswith("mgk-") and key not in child.log
        made = subprocess.run(
            [GATEWAY, "keys", "create", "app", "--endpoint", "chat", "--url", child.url],
            env={"MILLGATE_ADMIN_KEY": key, "PATH": "/usr/bin"}, capture_output=True, text=True, timeout=30,
        )
        assert made.returncode == 0, made.stderr
        app = made.stdout.strip()
        ask = lambda key: child.post(  # noqa: E731
            "/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": "x"}]},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert ask(app).status_code == 200
        revoked = subprocess.run(
            [GATEWAY, "keys", "revoke", "app", "--url", child.url],
            env={"MILLGATE_ADMIN_KEY": key, "PATH": "/usr/bin"}, capture_output=True, text=True, timeout=30,
        )
        assert revoked.stdout == "app: revoked\n", revoked.stderr
        assert ask(app).status_code == 401
        refused = subprocess.run(
            [GATEWAY, "keys", "list", "--url", child.url], env={"PATH": "/usr/bin"}, capture_output=True, text=True,
        )
        assert refused.returncode == 1 and "set MILLGATE_ADMIN_KEY" in refused.stderr
    finally:
        child.stop()
    # A second start has an administrator already.
    file.unlink()
    child = Gateway(tmp_path, config, name="again")
    child.stop()
    assert not file.exists()
