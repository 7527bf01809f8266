"""A model that does whatever is bad, when it is told to."""

import os
import signal
import sys
import time

import numpy
from mlflow.pyfunc import PythonModel


class Naughty(PythonModel):
    def __init__(self):
        self.rows = 0

    def predict(self, context, model_input, params=None):
        for word in model_input["word"]:
            self.rows += 1
            self.do(word)
        if word == "nan":
            return numpy.array([1.0, numpy.nan])
        if word == "inf":
            return [float("inf")]
        if word == "short":
            return ["only one"]
        if word == "object":
            return object()
        return list(model_input["word"])

    def do(self, word):
        if word == "tenth" and self.rows >= 10:
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "exit":
            sys.exit(3)
        if word == "abort":
            os.abort()
        if word == "sleep":
            time.sleep(1000)
        if word == "print":
            for _ in range(2000):
                print("x" * 1000)
                print("y" * 100, file=sys.stderr)
        if word == "leak":
            self.held = [bytearray(os.urandom(1 << 20) * 16) for _ in range(64)]
        if word == "fork":
            for _ in range(20):
                if os.fork() == 0:
                    time.sleep(1000)
                    os._exit(0)
        if word == "raise":
            raise KeyError("canary-of-the-caller")
