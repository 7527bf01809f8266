# Third part: the model. What has no columns goes through MLflow's own scoring server functions, so the answers are
# those of `mlflow models serve`.

# Flavours whose answer for a row depends on that row alone, and whose wrapper is called directly after the gateway's
# check of the input: MLflow's own check costs more than most predictions.
ROWWISE = {"mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.onnx", "mlflow.pytorch"}
# The direct way uses names that are not public: only where it was tested.
DIRECT = {(3, 17)}
NUMBERS = {"f": 1, "d": 2}


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


def choose_backend(folder):
    """Keras computes with what the model was saved with: it does not look itself, and takes TensorFlow where nothing is said."""
    try:
        with open(os.path.join(folder, "MLmodel"), encoding="utf-8") as file:
            words = [line.split(":", 1) for line in file if line.strip().startswith("keras_backend:")]
    except OSError:
        return
    for _, value in words:
        value = value.strip().strip("'\"")
        if value in ("jax", "numpy", "openvino", "tensorflow", "torch"):
            os.environ.setdefault("KERAS_BACKEND", value)


class Model:
    """A loaded model. `asked` is what LOAD says: {model, strict, columns, chat}."""

    def __init__(self, asked):
        self.strict = asked["strict"]
        os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] = "true"
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
        choose_backend(asked["model"])
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.pyfunc import scoring_server

        self.server = scoring_server
        self.problem = MlflowException
        self.version = mlflow.__version__
        self.model = mlflow.pyfunc.load_model(asked["model"])
        self.schema = self.model.metadata.get_input_schema()
        self.layouts = Layouts()
        self.flavor = getattr(self.model, "loader_module", None)
        self.columns, self.direct, self.why = self.look(asked["columns"])
        self.chat = Chat(self.model, asked["chat"], MlflowException) if asked.get("chat") else None

    def look(self, wanted):
        """Whether columns are taken, how the model is then called, and why not."""
        if not wanted and self.flavor not in ROWWISE:
            return False, False, "its rows may depend on each other, or on more than their columns"
        try:
            import numpy
            import pandas  # noqa: F401
        except ImportError as problem:
            return False, False, f"the environment has no {problem.name}"
        self.numpy = numpy
        try:
            version = tuple(map(int, self.version.split(".")[:2]))
        except ValueError:
            version = None
        plain = self.model.metadata.get_params_schema() is None
        self.call = getattr(self.model, "_predict_fn", None)
        direct = version in DIRECT and plain and self.flavor in ROWWISE and self.call is not None
        return True, direct, None

    def predict_json(self, wire, request, payload):
        (length,) = struct.unpack_from("<H", payload)
        content_type = payload[2 : 2 + length].decode("ascii")
        body = bytes(payload[2 + length :])
        try:
            answer = self.server.invocations(body, content_type, self.model, self.schema)
        except self.problem as problem:
            # As the reference answers, without the stack trace: that is for our log only.
            fields = json.loads(problem.serialize_as_json())
            trace = fields.pop("stack_trace", None)
            cause = (trace or "").strip().splitlines()[-1:] or [str(problem)]
            refuse(wire, request, problem.get_http_status_code(), json.dumps(fields), cause[0], trace)
            return
        if answer.status != 200:
            refuse(wire, request, answer.status, answer.response, answer.response, None)
            return
        if not self.strict or self.is_writable(wire, request, answer.response):
            wire.send(RESULT_JSON, request, answer.response.encode())

    def predict_columns(self, wire, request, payload):
        data, params, rows = self.layouts.read(payload)
        try:
            if self.direct:
                raw = self.call(data)
            elif params is None:
                raw = self.model.predict(data)
            else:
                raw = self.model.predict(data, params=params)
        except Exception as problem:
            # What MLflow answers: its own errors with their status, all others as the input's fault.
            own = isinstance(problem, self.problem)
            status = problem.get_http_status_code() if own else 400
            refuse(wire, request, status, "", type(problem).__name__, traceback.format_exc())
            return
        self.answer(wire, request, raw, rows)

    def answer(self, wire, request, raw, rows):
        numpy = self.numpy
        if type(raw) is numpy.ndarray and raw.ndim in (1, 2) and len(raw) == sum(rows) and raw.size:
            kind = NUMBERS.get(raw.dtype.char)
            if kind is None and raw.dtype.kind in "iu" and raw.dtype != numpy.uint64:
                kind = 0
                raw = raw.astype("<i8", copy=False)
            if kind is not None:
                width = raw.shape[1] if raw.ndim == 2 else 0
                wire.send(RESULT_ARRAY, request, struct.pack("<BI", kind, width), raw.tobytes())
                return
        answer = self.server._get_jsonable_obj(raw, pandas_orient="records")
        if len(rows) == 1:
            text = self.text(answer)
            if self.is_writable(wire, request, text):
                wire.send(RESULT_JSON, request, text.encode())
            return
        parts = split(answer, rows)
        texts = parts and [self.text(part) for part in parts]
        if texts is None or any("NaN" in text or "Infinity" in text for text in texts):
            # Asked again one by one, each gets its own answer, or its own error.
            what = "length" if parts is None else "numbers"
            wire.send(ERROR, request, json.dumps({"class": "batch", "status": 500, "type": what}).encode())
            return
        texts = [text.encode() for text in texts]
        lengths = struct.pack(f"<{len(texts)}I", *map(len, texts))
        wire.send(RESULT_PARTS, request, lengths, *texts)

    def text(self, answer):
        return json.dumps({"predictions": answer}, cls=self.server.NumpyEncoder)

    def is_writable(self, wire, request, text):
        place = unwritable(text)
        if place is not None:
            wire.send(ERROR, request, json.dumps({"class": "model", "status": 500, "place": place}).encode())
        return place is None


def refuse(wire, request, status, body, cause, trace):
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
    wire.send(ERROR, request, json.dumps(detail).encode())


def serve(wire):
    """One model, one request at a time, until the socket closes."""
    hello(wire)
    model = None
    while True:
        kind, request, payload = wire.receive()
        try:
            if kind == PREDICT_COLUMNS:
                model.predict_columns(wire, request, payload)
            elif kind == PREDICT_JSON:
                model.predict_json(wire, request, payload)
            elif kind == CHAT:
                model.chat.ask(wire, request, payload)
            elif kind == CANCEL:
                # It came too late: that stream had ended.
                pass
            elif kind == PING:
                wire.send(PONG, request)
            elif kind == STOP:
                os._exit(0)
            elif kind == LOAD:
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True, errors="replace")
                model = Model(json.loads(payload))
                ready = {
                    "mlflow": model.version,
                    "flavor": model.flavor,
                    "rowwise": model.flavor in ROWWISE,
                    "columns": model.columns,
                    "direct": model.direct,
                    "why": model.why,
                    "streams": model.chat is not None and model.chat.streams,
                }
                wire.send(READY, request, json.dumps(ready).encode())
            else:
                os._exit(71)
        except SystemExit:
            os._exit(72)
        except BaseException as problem:
            trace = traceback.format_exc()
            print(trace, file=sys.stderr, flush=True)
            failed = {"type": type(problem).__name__, "message": str(problem)[:2000]}
            if kind == LOAD:
                wire.send(FAILED, request, json.dumps(failed).encode())
                os._exit(73)
            body = {"error_code": "INTERNAL_ERROR", "message": "the model's code raised " + failed["type"]}
            detail = {"class": "model", "status": 500, "type": failed["type"], "body": json.dumps(body)}
            wire.send(ERROR, request, json.dumps(detail).encode())
