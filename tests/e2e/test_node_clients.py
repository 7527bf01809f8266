"""The JavaScript clients. `npm ci` has put them beside the script; `cargo xtask test` does that."""

import os
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent / "node"


def test_node_clients(llm, fake):
    modules = os.environ.get("MILLGATE_TEST_NODE_MODULES")
    if not modules or not shutil.which("node"):
        assert not os.environ.get("CI"), "node and the clients are there in CI"
        pytest.skip("no node, or MILLGATE_TEST_NODE_MODULES is not set: run `cargo xtask test`")
    script = pathlib.Path(modules).parent / "clients.test.mjs"
    shutil.copy(HERE / "clients.test.mjs", script)
    environment = {**os.environ, "GATEWAY_URL": llm.url, "GATEWAY_KEY": llm.key, "FAKE_URL": fake.url}
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", str(script)],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-60000:] + done.stderr[-2000:]
    assert "# fail 0" in done.stdout
