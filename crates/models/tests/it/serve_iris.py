"""Saves an iris model, serves it with `mlflow models serve` and asks: `serve_iris.py PORT FOLDER REQUESTS`. Prints status,
content type and body of each answer as one JSON list."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import mlflow
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

port, folder, requests = sys.argv[1:]
data = load_iris(as_frame=True)
model = LogisticRegression(max_iter=500).fit(data.data, data.target)
signature = infer_signature(data.data, data.target)
mlflow.sklearn.save_model(model, folder, signature=signature, serialization_format="cloudpickle")
command = ["-m", "mlflow", "models", "serve", "-m", folder, "-h", "127.0.0.1", "-p", port, "--env-manager", "local"]
# The command starts its server by the name of a program.
env = dict(os.environ, PATH=os.path.dirname(sys.executable) + ":" + os.environ["PATH"])
log = open("serve.log", "wb")
server = subprocess.Popen([sys.executable, *command], start_new_session=True, stdout=log, stderr=log, env=env)
try:
    base = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(base + "/ping").read()
            break
        except OSError:
            if server.poll() is not None:
                sys.exit(open("serve.log").read())
            time.sleep(0.1)
    answers = []
    for kind, body in json.loads(requests):
        request = urllib.request.Request(base + "/invocations", body.encode(), {"Content-Type": kind})
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as problem:
            answer = problem
        answers.append([answer.status, answer.headers.get_content_type(), answer.read().decode()])
    print(json.dumps(answers))
finally:
    os.killpg(server.pid, signal.SIGKILL)
