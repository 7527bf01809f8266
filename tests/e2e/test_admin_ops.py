"""The configuration and secrets of a running gateway, by its commands, over restarts and a new master key."""

import subprocess

import httpx

from conftest import GATEWAY, Gateway, environment

OWNER = "mg-owner-key-0123456789ab"
ONE, TWO = "sk-canary-one-0123456789", "sk-canary-two-0123456789"
OLD, NEW = "old-master-key-of-the-test-0123456789", "new-master-key-of-the-test-0123456789"


def config(fake, key, master=""):
    return f"""\
version: 1
providers:
  fake: {{ kind: openai, base_url: '{fake.base}', api_key: '{key}' }}
endpoints:
  - {{ name: chat, type: llm/v1/chat, route: fake/ok }}
access: {{ keys: required, static: [ {{ name: owner, key: env:OWNER, roles: [admin, invoke] }} ] }}
secrets: {{ {master} }}
"""


def run(child, *arguments, given=None):
    env = environment(MILLGATE_ADMIN_KEY=OWNER, MILLGATE_URL=child.url)
    return subprocess.run([GATEWAY, *arguments], env=env, input=given, capture_output=True, text=True, timeout=60)


def key_sent(child, fake):
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    answer = child.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {OWNER}"})
    assert answer.status_code == 200, answer.text
    return fake.last()["headers"]


def test_configuration_and_secrets_by_command(tmp_path, fake):
    env = {"OWNER": OWNER, "FIRST_KEY": ONE, "OLD": OLD, "NEW": NEW}
    child = Gateway(tmp_path, config(fake, "env:FIRST_KEY", "master_key: env:OLD"), env=env)
    try:
        assert ONE in str(key_sent(child, fake))
        next_file = tmp_path / "next.yaml"
        next_file.write_text(config(fake, "secret:fake", "master_key: env:OLD"))
        refused = run(child, "config", "apply", next_file)
        assert refused.returncode == 1 and "millgate secrets set fake" in refused.stderr, refused.stderr
        made = run(child, "secrets", "set", "fake", given=TWO + "\n")
        assert made.stdout == "fake: set (version 1)\n", made.stderr
        shown = run(child, "config", "diff", next_file)
        assert shown.returncode == 1 and "+  fake: { kind: openai" in shown.stdout, shown.stdout
        applied = run(child, "config", "apply", next_file, "--reason", "the store keeps it")
        assert "serving version 2" in applied.stdout, applied.stderr
        assert TWO in str(key_sent(child, fake))
        assert child.config.read_text() == next_file.read_text()
        history = run(child, "config", "history").stdout
        assert "the store keeps it" in history and "owner" in history, history
        assert TWO not in run(child, "secrets", "list").stdout + run(child, "config", "show").stdout
        # By hand, too.
        child.config.write_text(config(fake, "env:FIRST_KEY", "master_key: env:OLD") + "# by hand\n")
        for _ in range(100):
            history = run(child, "config", "history").stdout
            if " file " in history:
                break
        assert " file " in history, history
        undone = run(child, "config", "undo")
        assert "serving version 4" in undone.stdout, undone.stderr
        assert TWO in str(key_sent(child, fake))
        # A request that comes twice over a restart: the key is made once.
        headers = {"Authorization": f"Bearer {OWNER}", "Idempotency-Key": "once"}
        first = httpx.post(f"{child.url}/admin/v1/keys", json={"name": "app"}, headers=headers)
        assert first.status_code == 201
    finally:
        child.stop()

    # The next start with another master key: what the old one encrypted is put under the new one.
    both = config(fake, "secret:fake", "master_key: env:NEW, previous_master_keys: [ env:OLD ]")
    child = Gateway(tmp_path, both, env=env, name="both")
    try:
        assert TWO in str(key_sent(child, fake))
        again = httpx.post(f"{child.url}/admin/v1/keys", json={"name": "app"}, headers=headers)
        assert (again.status_code, again.text) == (201, first.text)
        assert again.headers["idempotency-replayed"] == "true"
    finally:
        child.stop()
    command = "master_key_command: [ sh, -c, 'echo $NEW' ]"
    child = Gateway(tmp_path, config(fake, "secret:fake", command), env=env, name="new")
    try:
        assert TWO in str(key_sent(child, fake))
    finally:
        child.stop()
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file():
            held = file.read_bytes()
            assert TWO.encode() not in held and first.json()["key"].encode() not in held, file
    # Without it the gateway says so and does not start.
    wrong = config(fake, "secret:fake", "master_key: env:OLD")
    (tmp_path / "millgate.yaml").write_text(wrong)
    started = subprocess.run(
        [GATEWAY, "start", "--config-path", tmp_path / "millgate.yaml", "--data-dir", tmp_path / "data", "--port", "0"],
        env=environment(**env), capture_output=True, text=True, timeout=60,
    )
    assert started.returncode == 2 and "encrypted with another master key" in started.stderr, started.stderr
