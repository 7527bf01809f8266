"""The documentation's pages that promise to be true, run command by command.

A fenced block with a file's name behind its language is written to that file. In a `console` block lines that begin with `$ ` are
commands; what stands below one is what it must print, where `...` stands for anything. A command that only looks is asked again until
it prints that. One that ends with `&` goes on in the background.
"""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

from conftest import GATEWAY, ROOT, Issuer, environment, free_port

LOOKS = ("curl -s --retry", "./as-admin usage", "./as-admin budgets", "millgate rollout status", "millgate models", "millgate keys list", "millgate usage")


def blocks(text):
    for match in re.finditer(r"^```(\w+)(?: +(\S+))?\n(.*?)^```$", text, re.M | re.S):
        yield match.groups()


def commands(block):
    """Commands and what each must print."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif found[-1][0].endswith("\\"):
            found[-1][0] += "\n" + line
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


def fits(expected, printed):
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    # A table's columns are as wide as what was printed.
    pattern = re.sub(r"(\\ ){2,}", r" +", pattern)
    return re.fullmatch(pattern, printed.strip(), re.S) is not None


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, folder, ports):
        self.folder = folder
        self.ports = ports
        self.children = []
        self.env = environment()
        self.env["PATH"] = str(GATEWAY.parent) + os.pathsep + self.env["PATH"]
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            self.env.pop(name, None)
        self.env.update(MLFLOW_DISABLE_TELEMETRY="true", GIT_PYTHON_REFRESH="quiet")

    def own(self, text):
        """The page's ports are taken on this machine."""
        for port, own in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(own), text)
        return text

    def run(self, command, expected):
        command, expected = self.own(command), self.own(expected)
        if command.startswith("export "):
            for pair in shlex.split(command)[1:]:
                name, _, value = pair.partition("=")
                self.env[name] = value
            return
        if command.endswith("&"):
            self.children.append(
                subprocess.Popen(["bash", "-c", "exec " + command[:-1]], cwd=self.folder, env=self.env, start_new_session=True)
            )
            return
        end = time.monotonic() + (90 if command.startswith(LOOKS) else 0)
        while True:
            done = subprocess.run(
                ["bash", "-c", command], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=180
            )
            printed = done.stdout if done.stdout.strip() else done.stderr
            if fits(expected, printed):
                return
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-4000:] for path in self.folder.glob("*.log"))
                raise AssertionError(f"$ {command}\n{printed}{done.stderr}\nexpected:\n{expected}\n{logs}")
            time.sleep(0.3)

    def stop(self):
        for child in self.children:
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


@pytest.fixture
def reader(tmp_path):
    one = Reader(tmp_path, {5000: free_port(), 5001: free_port()})
    one.env["MILLGATE_URL"] = one.own("http://127.0.0.1:5000")
    yield one
    one.stop()


def read(page, reader):
    seen = 0
    for language, name, block in blocks((ROOT / "docs" / page).read_text()):
        if name:
            # Written whole at once, as an editor does that saves a file.
            path = reader.folder / name
            new = path.with_name(path.name + ".new")
            new.write_text(reader.own(block))
            new.replace(path)
        elif language == "console":
            for command, expected in commands(block):
                if command.startswith("millgate start"):
                    command = command.replace("millgate start", "millgate start --port 5000", 1)
                reader.run(command, expected)
                seen += 1
    assert seen > 5


def test_serve_your_models(reader):
    read("serve-your-models.md", reader)


def test_run_for_a_company(reader, tmp_path):
    issuer = Issuer(tmp_path / "issuer")
    try:
        reader.env["OIDC_ISSUER"] = issuer.url
        reader.env["TOKEN"] = issuer.token(groups=["ml"], team="search")
        read("run-for-a-company.md", reader)
    finally:
        issuer.stop()
