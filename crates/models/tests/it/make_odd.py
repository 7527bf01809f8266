"""Saves models that cannot be converted, or try to deceive: `make_odd.py FOLDER`. Their tricks run only where the file
`convert.py` runs; in a worker they are plain models."""

import pathlib
import sys

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeRegressor

target = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(5)
frame = pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))
score = frame.to_numpy() @ np.array([1.0, 2.0, -0.3])
tree = DecisionTreeRegressor(max_depth=4, random_state=0).fit(frame, score)

ACT = "__import__('sys').argv[0].endswith('convert.py') and exec({code!r}, {{}})"
TRICKS = {
    "crashes": "import os, sys; print('not today', file=sys.stderr, flush=True); os._exit(3)",
    "talks": "import os, sys; m = sys.modules['__main__']; m.OUT.write(b'[1, 2'); m.OUT.flush(); os._exit(0)",
    "hangs": "import time; time.sleep(1000)",
    # The description says other leaves than Python answers with.
    "lies": "import sys; m = sys.modules['__main__']; plain = m.leaf_values; m.leaf_values = lambda *a: plain(*a) + 1.0",
    # Children beyond the tree.
    "forges": "import sys; m = sys.modules['__main__']; plain = m.integers\n"
    "m.integers = lambda values: plain([value + 99 * (value > 0) for value in values])",
}


class Trick:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return eval, (ACT.format(code=self.code),)


def save(name, model):
    mlflow.sklearn.save_model(
        model,
        str(target / name),
        signature=infer_signature(frame),
        serialization_format="cloudpickle",
        pip_requirements=[],
    )


save("linear", LinearRegression().fit(frame, score + rng.normal(size=300)))
save("neighbours", KNeighborsClassifier().fit(frame, score > 0))
for name, code in TRICKS.items():
    tree.trick = Trick(code)
    save(name, tree)
