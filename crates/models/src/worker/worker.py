"""Millgate's model worker: one process, one model, one request at a time.

Started as `python -I -X faulthandler worker.py` with one end of a socket pair as descriptor 0. Only the standard
library is imported until LOAD. Predictions go through MLflow's own scoring server functions, so the answers are
those of `mlflow models serve`. When the socket closes, the process ends at once.
"""

import io
import json
import os
import queue
import socket
import struct
import sys
import threading
import traceback

HELLO, LOAD, READY, FAILED, PREDICT_JSON = 1, 2, 3, 4, 5
RESULT_JSON, ERROR, PING, PONG, STOP = 8, 10, 11, 12, 14
HEAD = struct.Struct("<IBQ")
LIMIT = 1 << 31

own = os.dup(0)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
os.close(null)
wire = socket.socket(fileno=own)
lock = threading.Lock()
work = queue.SimpleQueue()


def send(kind, request, payload):
    with lock:
        wire.sendall(HEAD.pack(len(payload) + 9, kind, request) + payload)


def receive(count):
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        got = wire.recv_into(view)
        if not got:
            os._exit(0)
        view = view[got:]
    return bytes(buffer)


def listen():
    try:
        while True:
            length, kind, request = HEAD.unpack(receive(HEAD.size))
            if not 9 <= length <= LIMIT:
                os._exit(70)
            payload = receive(length - 9)
            if kind == PING:
                send(PONG, request, b"")
            elif kind == STOP:
                os._exit(0)
            else:
                work.put((kind, request, payload))
    except OSError:
        os._exit(0)


def rss():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def unwritable(text):
    """Where an answer holds a number that JSON cannot hold; None where it does not. The names are lists' places and
    members' names, from the row on."""
    if "NaN" not in text and "Infinity" not in text:
        return None
    odd = object()
    answer = json.loads(text, parse_constant=lambda _: odd)
    stack = [(answer, ())]
    found = None
    while stack:
        value, place = stack.pop()
        if value is odd:
            found = place
            break
        if isinstance(value, dict):
            stack.extend((item, place + (name,)) for name, item in reversed(list(value.items())))
        elif isinstance(value, list):
            stack.extend((item, place + (index,)) for index, item in reversed(list(enumerate(value))))
    if found is None:
        return None
    if found[:1] == ("predictions",):
        found = found[1:]
    # One output per member: {"name": [row, row]}.
    if len(found) > 1 and isinstance(found[0], str) and isinstance(found[1], int):
        found = (found[1], found[0]) + found[2:]
    words = []
    for what, part in zip(("row", "column"), found):
        words.append(f"{what} {part}" if isinstance(part, int) else f"column `{part}`")
    return ", ".join(words) or "its only value"


class Model:
    def __init__(self, folder, strict):
        self.strict = strict
        os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] = "true"
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.pyfunc import scoring_server

        self.server = scoring_server
        self.problem = MlflowException
        self.version = mlflow.__version__
        config = os.environ.get("SERVING_MODEL_CONFIG")
        if config:
            self.model = mlflow.pyfunc.load_model(folder, model_config=json.loads(config))
        else:
            self.model = mlflow.pyfunc.load_model(folder)
        self.schema = self.model.metadata.get_input_schema()

    def predict(self, request, content_type, body):
        try:
            answer = self.server.invocations(body, content_type, self.model, self.schema)
        except self.problem as problem:
            status = problem.get_http_status_code()
            # As the reference answers, without the stack trace: that is for our log only.
            fields = json.loads(problem.serialize_as_json())
            trace = fields.pop("stack_trace", None)
            cause = (trace or "").strip().splitlines()[-1:] or [str(problem)]
            self.refuse(request, status, json.dumps(fields), cause[0], trace)
            return
        if answer.status != 200:
            self.refuse(request, answer.status, answer.response, answer.response, None)
            return
        place = unwritable(answer.response) if self.strict else None
        if place is not None:
            send(ERROR, request, json.dumps({"class": "model", "status": 500, "place": place}).encode())
            return
        send(RESULT_JSON, request, answer.response.encode())

    def refuse(self, request, status, body, cause, trace):
        if trace:
            print(trace, file=sys.stderr, flush=True)
        kind = cause.split(":", 1)[0].rsplit(".", 1)[-1].strip()
        detail = {
            "class": "user" if 400 <= status < 500 else "model",
            "status": status,
            # Only what looks like a class: the line may as well be the caller's data.
            "type": kind if kind.isidentifier() and kind.endswith(("Error", "Exception")) else "",
            "body": body,
        }
        send(ERROR, request, json.dumps(detail).encode())


def main():
    hello = {"protocol": 1, "python": sys.version.split()[0], "pid": os.getpid()}
    send(HELLO, 0, json.dumps(hello).encode())
    threading.Thread(target=listen, daemon=True).start()
    model = None
    while True:
        kind, request, payload = work.get()
        try:
            if kind == LOAD:
                asked = json.loads(payload)
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True, errors="replace")
                model = Model(asked["model"], asked["strict"])
                ready = {"mlflow": model.version, "python": hello["python"], "rss": rss()}
                send(READY, request, json.dumps(ready).encode())
            elif kind == PREDICT_JSON:
                (length,) = struct.unpack_from("<H", payload)
                content_type = payload[2 : 2 + length].decode("ascii")
                model.predict(request, content_type, payload[2 + length :])
            else:
                os._exit(71)
        except SystemExit:
            os._exit(72)
        except BaseException as problem:
            trace = traceback.format_exc()
            print(trace, file=sys.stderr, flush=True)
            failed = {"type": type(problem).__name__, "message": str(problem)[:2000]}
            if kind == LOAD:
                send(FAILED, request, json.dumps(failed).encode())
                os._exit(73)
            body = {"error_code": "INTERNAL_ERROR", "message": "the model's code raised " + failed["type"]}
            detail = {"class": "model", "status": 500, "type": failed["type"], "body": json.dumps(body)}
            send(ERROR, request, json.dumps(detail).encode())


main()
