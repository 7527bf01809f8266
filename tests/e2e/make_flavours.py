"""Saves a model of each flavour that needs packages of its own, and prints what MLflow's scoring functions answer.

    make_flavours.py FOLDER [tensorflow]

Runs on the interpreter with those packages; TensorFlow, which brings a Keras backend of its own, in a process for itself. `cases.json` beside each model holds `[content type, body, answer]`; the last line of
output is JSON: the models by name, and the URI of each.
"""

import json
import os
import pathlib
import sys
import types
import warnings

warnings.filterwarnings("ignore")
os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] = "true"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import mlflow
import numpy
import pandas
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server

FOLDER = pathlib.Path(sys.argv[1])
URIS = {}
rng = numpy.random.default_rng(3)
table = pandas.DataFrame(rng.normal(size=(80, 3)), columns=list("abc"))
table["s"] = rng.choice(["x", "y", "z"], 80)
labels = numpy.where(table.a + table.b > 0, "yes", "no")


def split(frame):
    return {"dataframe_split": json.loads(frame.to_json(orient="split", index=False))}


def records(frame):
    return {"dataframe_records": json.loads(frame.to_json(orient="records"))}


def note(name, bodies, uri=None):
    """Keeps what MLflow answers to each body."""
    folder = FOLDER / name
    URIS[name] = uri or f"file://{folder}"
    loaded = mlflow.pyfunc.load_model(uri or str(folder))
    cases = []
    for body in bodies:
        kind, text = ("application/json", json.dumps(body)) if not isinstance(body, str) else ("text/csv", body)
        said = scoring_server.invocations(text.encode(), kind, loaded, loaded.metadata.get_input_schema())
        assert said.status == 200, (name, said.response)
        cases.append([kind, text, said.response])
    folder.mkdir(exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))


def catboost():
    import catboost

    frame = table
    fitted = catboost.CatBoostClassifier(
        iterations=8, depth=3, verbose=False, cat_features=["s"], allow_writing_files=False, random_seed=1
    ).fit(frame, labels)
    signature = infer_signature(frame, fitted.predict(frame))
    mlflow.catboost.save_model(fitted, str(FOLDER / "catboost-classifier"), signature=signature)
    note("catboost-classifier", [split(frame[:1]), records(frame[:7]), frame[:3].to_csv(index=False)])
    numbers = table[["a", "b"]]
    fitted = catboost.CatBoostRegressor(
        iterations=8, depth=3, verbose=False, allow_writing_files=False, random_seed=1
    ).fit(numbers, table.c)
    signature = infer_signature(numbers, fitted.predict(numbers))
    mlflow.catboost.save_model(fitted, str(FOLDER / "catboost-regressor"), signature=signature)
    note("catboost-regressor", [split(numbers[:5]), {"inputs": {"a": [1.0, 2.5], "b": [0.5, -1.0]}}])


def statsmodels():
    import statsmodels.api as sm

    numbers = table[["a", "b"]]
    for name, fitted in (
        ("statsmodels-ols", sm.OLS(table.c, numbers).fit()),
        ("statsmodels-logit", sm.Logit((table.a > table.c).astype(int), numbers).fit(disp=False)),
    ):
        signature = infer_signature(numbers, fitted.predict(numbers))
        mlflow.statsmodels.save_model(fitted, str(FOLDER / name), signature=signature)
        note(name, [split(numbers[:1]), records(numbers[:9])])


def torch():
    """PyTorch, and Hugging Face's pipelines on it."""
    try:
        import torch
    except ImportError:
        return
    if not hasattr(torch, "export"):
        # MLflow imports it also where nothing is exported; PyTorch before 2.1 has none.
        sys.modules["torch.export"] = types.SimpleNamespace(Dim=None)
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    rows = rng.normal(size=(20, 4)).astype("float32")
    signature = infer_signature(rows, net(torch.tensor(rows)).detach().numpy())
    mlflow.pytorch.save_model(
        net, str(FOLDER / "torch-tensor"), signature=signature, serialization_format="pickle", pip_requirements=["torch"]
    )
    note("torch-tensor", [{"inputs": rows[:1].tolist()}, {"instances": rows[:9].tolist()}])
    frame = pandas.DataFrame(rows, columns=list("abcd"))
    signature = infer_signature(frame, net(torch.tensor(rows)).detach().numpy())
    mlflow.pytorch.save_model(
        net, str(FOLDER / "torch-table"), signature=signature, serialization_format="pickle", pip_requirements=["torch"]
    )
    note("torch-table", [split(frame[:3])])
    transformers(torch)


def transformers(torch):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "very"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    torch.manual_seed(2)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=len(words), **small)).eval()
    pipeline = transformers.pipeline("text-classification", model=bert, tokenizer=fast)
    mlflow.transformers.save_model(
        pipeline, str(FOLDER / "transformers-classifier"), input_example=["a very good film"],
        pip_requirements=["transformers", "torch"],
    )
    note("transformers-classifier", [{"inputs": ["a very good film", "bad film"]}, {"inputs": ["bad"]}])
    torch.manual_seed(4)
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(words), bos_token_id=2, eos_token_id=3, **sizes)
    ).eval()
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    pipeline = transformers.pipeline("text-generation", model=gpt, tokenizer=fast)
    mlflow.transformers.save_model(
        pipeline, str(FOLDER / "transformers-chat"), task="llm/v1/chat", pip_requirements=["transformers", "torch"]
    )
    asked = {"messages": [{"role": "user", "content": "a good film"}], "max_tokens": 5}
    note("transformers-chat", [asked])


def keras():
    """Keras with another backend than TensorFlow. What the backend is stands in the model, not in the worker's environment."""
    os.environ["KERAS_BACKEND"] = "openvino"
    import keras

    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    net = keras.Sequential([keras.Input((4,)), dense(16, activation="tanh"), dense(3, activation="softmax")])
    rows = rng.normal(size=(20, 4)).astype("float32")
    signature = infer_signature(rows, net.predict(rows, verbose=0))
    mlflow.keras.save_model(net, str(FOLDER / "keras-tensor"), signature=signature, pip_requirements=["keras"])
    note("keras-tensor", [{"inputs": rows[:1].tolist()}, {"instances": rows[:9].tolist()}])


def tensorflow():
    """A Keras network on TensorFlow, and a module of TensorFlow's own with a signature."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    assert keras.backend.backend() == "tensorflow"
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    net = keras.Sequential([keras.Input((4,)), dense(16, activation="tanh"), dense(3, activation="softmax")])
    rows = rng.normal(size=(20, 4)).astype("float32")
    pip = {"pip_requirements": ["tensorflow-cpu"]}
    signature = infer_signature(rows, net.predict(rows, verbose=0))
    mlflow.tensorflow.save_model(net, str(FOLDER / "tensorflow-keras"), signature=signature, **pip)
    note("tensorflow-keras", [{"inputs": rows[:1].tolist()}, {"instances": rows[:9].tolist()}])

    class Affine(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(tf.random.normal((4, 2), seed=1))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
        def __call__(self, values):
            return tf.matmul(values, self.weights)

    module = Affine()
    signature = infer_signature(rows, module(rows).numpy())
    mlflow.tensorflow.save_model(module, str(FOLDER / "tensorflow-module"), signature=signature, **pip)
    note("tensorflow-module", [{"inputs": rows[:2].tolist()}])


def prophet():
    from prophet import Prophet

    days = pandas.DataFrame({"ds": pandas.date_range("2026-01-01", periods=90)})
    days["y"] = numpy.sin(numpy.arange(90) / 7) + numpy.arange(90) / 30
    # Without its bounds, which are drawn anew for each answer.
    fitted = Prophet(uncertainty_samples=0, weekly_seasonality=False, daily_seasonality=False).fit(days, seed=1)
    asked = days[["ds"]]
    signature = infer_signature(asked, fitted.predict(asked))
    mlflow.prophet.save_model(fitted, str(FOLDER / "prophet"), signature=signature, pip_requirements=["prophet"])
    note("prophet", [{"dataframe_split": {"columns": ["ds"], "data": [["2026-05-01"], ["2026-05-02"]]}}])


class Forecast(mlflow.pyfunc.PythonModel):
    """As mlflow.prophet answers: a table with dates."""

    def predict(self, context, model_input, params=None):
        when = pandas.to_datetime(model_input["ds"])
        middle = when.dt.dayofyear / 10.0
        return pandas.DataFrame({"ds": when, "yhat": middle, "yhat_lower": middle - 1.5, "yhat_upper": middle + 1.5})


class Scaled(mlflow.pyfunc.PythonModel):
    """With params, a config and an artifact."""

    def load_context(self, context):
        self.offset = float(pathlib.Path(context.artifacts["offset"]).read_text())

    def predict(self, context, model_input, params=None):
        params = params or {}
        return (model_input["a"] * params.get("factor", 1.0) + self.offset).tolist()


class Typed(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[dict[str, float]]) -> list[float]:
        return [sum(row.values()) for row in model_input]


CODE = '''\
import mlflow

class FromCode(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [len(str(value)) for value in model_input["s"]]

mlflow.models.set_model(FromCode())
'''


def pyfunc():
    dates = pandas.DataFrame({"ds": pandas.to_datetime(["2026-01-05", "2026-11-26"])})
    pip = {"pip_requirements": []}
    signature = infer_signature(dates, Forecast().predict(None, dates))
    mlflow.pyfunc.save_model(str(FOLDER / "pyfunc-forecast"), python_model=Forecast(), signature=signature, **pip)
    note("pyfunc-forecast", [{"dataframe_split": {"columns": ["ds"], "data": [["2026-01-05"], ["2026-11-26"]]}}])
    offset = FOLDER / "offset.txt"
    offset.write_text("0.25")
    numbers = table[["a"]]
    signature = infer_signature(numbers, [1.0], {"factor": 2.0, "name": "x"})
    mlflow.pyfunc.save_model(
        str(FOLDER / "pyfunc-params"), python_model=Scaled(), artifacts={"offset": str(offset)}, signature=signature, **pip
    )
    note("pyfunc-params", [split(numbers[:2]), {**split(numbers[:2]), "params": {"factor": 3.5}}])
    mlflow.pyfunc.save_model(str(FOLDER / "pyfunc-type-hints"), python_model=Typed(), input_example=[{"x": 1.0}], **pip)
    note("pyfunc-type-hints", [{"inputs": [{"x": 1.0, "y": 2.5}, {"x": 0.1}]}])
    code = FOLDER / "from_code.py"
    code.write_text(CODE)
    texts = table[["s"]]
    signature = infer_signature(texts, [1])
    mlflow.pyfunc.save_model(str(FOLDER / "pyfunc-from-code"), python_model=str(code), signature=signature, **pip)
    note("pyfunc-from-code", [split(texts[:3])])
    # A logged model, which is in no registry: by its id, out of the tracking database.
    mlflow.set_tracking_uri(f"sqlite:///{FOLDER / 'mlflow.db'}")
    mlflow.create_experiment("flavours", artifact_location=f"file://{FOLDER / 'logged'}")
    mlflow.set_experiment("flavours")
    logged = mlflow.pyfunc.log_model(name="logged", python_model=str(code), signature=signature, **pip)
    note("pyfunc-logged", [split(texts[:3])], f"models:/{logged.model_id}")


for save in (tensorflow,) if sys.argv[2:] else (catboost, statsmodels, torch, keras, prophet, pyfunc):
    save()
print(json.dumps(URIS))
