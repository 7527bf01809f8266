"""A PostgreSQL that is away while the gateway runs, and when it starts."""

import os
import socket
import subprocess
import threading
import time

import httpx
import pytest

from conftest import GATEWAY, Gateway, environment, free_port, until
from test_limits import OWNER, admin, ask, config, issue


class Line:
    """A line to a server that can be cut: nobody listens then, and what was open breaks."""

    def __init__(self, host, port):
        self.to, self.port = (host, port), free_port()
        self.open, self.listener = [], None
        self.connect()

    def connect(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                ours, _ = listener.accept()
            except OSError:
                return
            theirs = socket.create_connection(self.to)
            self.open += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def carry(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def cut(self):
        if self.listener:
            # Closing alone does not wake who waits in `accept`.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        for end in self.open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.open = []


@pytest.fixture
def line():
    """A database of its own, and the line to it."""
    postgres = os.environ.get("MILLGATE_TEST_POSTGRES")
    if not postgres:
        assert not os.environ.get("CI"), "CI must have PostgreSQL"
        pytest.skip("PostgreSQL is missing")
    server, name = postgres.rsplit("/", 1)[0], f"away_{os.getpid()}_{free_port()}"
    subprocess.run(["psql", postgres, "-q", "-c", f"CREATE DATABASE {name}"], check=True, timeout=30)
    login, _, place = server.removeprefix("postgres://").rpartition("@")
    host, _, port = place.partition(":")
    line = Line(host, int(port))
    line.uri = f"postgres://{login}@127.0.0.1:{line.port}/{name}"
    yield line
    line.cut()


def written(line, fake, access=""):
    more = f"""\
store: {line.uri}
secrets: {{ master_key: a-master-key-of-thirty-two-characters }}
budgets: [ {{ name: teams, usd: 1, per: month, by: team, only: {{ keys: ['counted-*'] }} }} ]
"""
    text = config(fake, more).replace("static:", f"key_pepper: the-pepper-of-all-replicas-of-this-test, {access} static:")
    return text


def test_a_start_without_the_store_serves_what_was_last_known(tmp_path, fake, line):
    text = written(line, fake)
    child = Gateway(tmp_path, text, name="before")
    provider = httpx.put(
        f"{child.url}/admin/v1/secrets/provider",
        json={"value": "sk-stored-0123456789"},
        headers={"Authorization": f"Bearer {OWNER}"},
    )
    assert provider.status_code in (200, 201), provider.text
    child.stop()
    # The provider's key is a stored secret from now on.
    text = text.replace("api_key: sk-test-0123456789", "api_key: 'secret:provider'")
    child = Gateway(tmp_path, text, name="stored")
    free, team = (issue(child.url, name)["key"] for name in ("free", "team"))
    body = {"name": "counted-1", "team": "search"}
    made = httpx.post(f"{child.url}/admin/v1/keys", json=body, headers={"Authorization": f"Bearer {OWNER}"})
    assert made.status_code == 201, made.text
    counted = made.json()["key"]
    assert [ask(child.url, key=key).status_code for key in (free, team, counted)] == [200] * 3
    gone = issue(child.url, "gone")
    path = f"{child.url}/admin/v1/keys/{gone['issued']['id']}"
    assert httpx.delete(path, headers={"Authorization": f"Bearer {OWNER}"}).status_code == 200
    file = tmp_path / "data/store-last-known"
    until(lambda: file.exists(), "what is known is kept")
    # Once more behind the last change: it is looked for every five seconds.
    at = time.time()
    until(lambda: file.stat().st_mtime > at or time.time() > at + 6, "the file is written")
    assert file.stat().st_mode & 0o777 == 0o600
    assert free.encode() not in file.read_bytes() and b"counted-1" not in file.read_bytes()
    child.stop()

    line.cut()
    child = Gateway(tmp_path, text, name="away")
    try:
        assert "the store cannot be reached: issued keys are those known last" in child.log
        assert ask(child.url, key=free).status_code == 200
        assert dict(fake.last()["headers"])["authorization"] == "Bearer sk-stored-0123456789"
        assert ask(child.url, key=gone["key"]).status_code == 401, "a revocation stays one"
        refused = ask(child.url, key=counted)
        assert refused.status_code == 503 and refused.headers["retry-after"], refused.text
        assert refused.json()["error"]["code"] == "dependency_unavailable"
        change = httpx.post(
            f"{child.url}/admin/v1/keys", json={"name": "x"}, headers={"Authorization": f"Bearer {OWNER}"}, timeout=30
        )
        assert change.status_code == 503, change.text
        assert child.http.get("/readyz").status_code == 200
        assert 'millgate_dependency_up{name="store"} 0' in child.http.get("/metrics").text

        line.connect()
        at = time.monotonic()
        until(lambda: ask(child.url, key=counted).status_code == 200, "the budget knows what was spent")
        took = time.monotonic() - at
        assert took < 5, took
        assert issue(child.url, "after")["key"].startswith("mgk-")
        until(lambda: 'millgate_dependency_up{name="store"} 1' in child.http.get("/metrics").text, "the metric")
        usage = lambda: {row["group"]["key"]: row["requests"] for row in admin(child.url, "usage?by=key")["rows"]}  # noqa: E731
        until(lambda: usage().get("free") == 2, "the call without the store is in the ledger")
        (spent,) = admin(child.url, "budgets")["budgets"][0]["spent"]
        assert round(float(spent["spent_usd"]) * 1e9) == 79_000 * usage()["counted-1"], (spent, usage())
        print(f"the store is used again {took:.1f} s after its return")
    finally:
        child.stop()


def test_what_is_too_old_or_not_ours_is_no_start_and_keys_end_with_it(tmp_path, fake, line):
    text = written(line, fake, "last_known_max_age: 2s,")
    child = Gateway(tmp_path, text, name="before")
    key = issue(child.url, "short")["key"]
    assert ask(child.url, key=key).status_code == 200
    file = tmp_path / "data/store-last-known"
    until(lambda: file.exists(), "what is known is kept")
    line.cut()
    answer = until(lambda: (answer := ask(child.url, key=key)).status_code != 200 and answer, "keys are too old", 20)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "dependency_unavailable", answer.text
    assert ask(child.url).status_code == 200, "keys of the file need no store"
    child.stop()

    def start():
        arguments = [GATEWAY, "start", "--config-path", tmp_path / "millgate.yaml", "--data-dir", tmp_path / "data"]
        return subprocess.run(
            [*map(str, arguments), "--port", "0"], env=environment(), capture_output=True, text=True, timeout=60
        )

    refused = start()
    assert refused.returncode == 1 and "the store:" in refused.stderr, refused.stderr
    assert "postgres://" not in refused.stderr
    sealed = bytearray(file.read_bytes())
    sealed[100] ^= 1
    file.write_bytes(sealed)
    (tmp_path / "millgate.yaml").write_text(text.replace("2s", "1d"))
    assert start().returncode == 1, "what was changed is not believed"
