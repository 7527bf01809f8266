"""Millgate's conversion job: describes a scikit-learn model as data, with questions and Python's own answers to them.

Started once per model version as `python -I convert.py FOLDER`, confined as workers are. Writes one JSON object to the
first standard output: `{"model": ...}` or `{"unsupported": why}`. The gateway trusts nothing of it: it checks bounds
and compares its own answers with those that MLflow's scoring functions gave here.
"""

import base64
import json
import math
import os
import sys

# What the model prints must not get between us and the gateway.
OUT = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

MOST_NODES = 8_000_000
MOST_TERMS = 2_000_000
ROWS = 256
THRESHOLD_ROWS = 1500
NUMBERS = {"boolean", "integer", "long", "float", "double"}


class Unsupported(Exception):
    pass


def name_of(thing):
    return type(thing).__module__.split(".")[0] + "." + type(thing).__name__


def packed(values, kind):
    import numpy as np

    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def doubles(values):
    return packed(values, "<f8")


def integers(values):
    return packed(values, "<i4")


def require(condition, why):
    if not condition:
        raise Unsupported(why)


def atom(value):
    """A category or filling as data: a number, a text, or one of the two kinds of nothing."""
    import numpy as np

    if value is None:
        return {"nothing": "none"}
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        require(abs(int(value)) < 2**53, "a category beyond 2^53")
        return {"number": float(value)}
    if isinstance(value, (float, np.floating)):
        require(not isinstance(value, np.floating) or value.dtype.itemsize in (4, 8), "a category of an odd type")
        return {"nothing": "nan"} if math.isnan(value) else {"number": float(value)}
    if isinstance(value, str):
        return {"text": str(value)}
    raise Unsupported("a category of type " + type(value).__name__)


class Columns:
    """What is known of the input: types, names, and values worth asking about."""

    def __init__(self, schema):
        require(schema is not None, "the model has no signature")
        self.tensor = schema.is_tensor_spec()
        if self.tensor:
            specs = schema.inputs
            require(len(specs) == 1 and not specs[0].name, "the signature is not one unnamed tensor")
            shape, dtype = specs[0].shape, specs[0].type.name
            require(len(shape) == 2 and shape[1] > 0, "the signature is not one two-dimensional tensor")
            require(dtype in ("float64", "float32", "int64", "int32"), "a tensor of type " + dtype)
            kind = {"float64": "double", "float32": "float", "int64": "long", "int32": "integer"}[dtype]
            self.kinds, self.names = [kind] * shape[1], None
            self.required = [True] * shape[1]
        else:
            self.kinds = [getattr(column.type, "name", "other") for column in schema.inputs]
            names = [column.name for column in schema.inputs]
            self.names = None if any(name is None for name in names) else names
            self.required = [bool(getattr(column, "required", True)) for column in schema.inputs]
            for kind in self.kinds:
                require(kind in NUMBERS or kind == "string", "the signature has columns of type " + kind)
        self.hints = [[] for _ in self.kinds]
        self.thresholds = [[] for _ in self.kinds]

    def numeric(self):
        return all(kind in NUMBERS for kind in self.kinds)

    def narrow(self):
        """Whether numpy would compute in 32 bits."""
        return any(kind == "float" for kind in self.kinds)


class Feature:
    """Where a feature comes from: `column value = feature * scale + shift`, as far as that is known."""

    def __init__(self, column=None, scale=1.0, shift=0.0):
        self.column, self.scale, self.shift = column, scale, shift

    def hint(self, columns, value, threshold=False):
        if self.column is not None:
            value = value * self.scale + self.shift
            if math.isfinite(value):
                (columns.thresholds if threshold else columns.hints)[self.column].append(value)


# Transformers. Each answers its description and the features that come out.


def transform(step, features, columns):
    kind = name_of(step)
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return {"identity": {}}, features
    reader = TRANSFORMS.get(kind)
    require(reader is not None, "the transformer " + kind)
    return reader(step, features, columns)


def pipeline(step, features, columns):
    described = []
    for _, inner in step.steps:
        part, features = transform(inner, features, columns)
        described.append(part)
    return {"pipeline": described}, features


def places(wanted, features, columns):
    """The positions that a ColumnTransformer's `columns` mean."""
    import numpy as np

    count = len(features)
    if isinstance(wanted, slice):
        if isinstance(wanted.start, str) or isinstance(wanted.stop, str):
            start = columns.names.index(wanted.start) if wanted.start is not None else 0
            stop = columns.names.index(wanted.stop) + 1 if wanted.stop is not None else count
            return list(range(start, stop))[:: wanted.step or 1]
        return list(range(count))[wanted]
    if isinstance(wanted, (str, int, np.integer)):
        wanted = [wanted]
    wanted = list(wanted)
    if wanted and all(isinstance(item, (bool, np.bool_)) for item in wanted):
        return [index for index, item in enumerate(wanted) if item]
    found = []
    for item in wanted:
        if isinstance(item, str):
            require(columns.names is not None and item in columns.names, "a column that the signature does not name")
            require(len(features) == len(columns.names), "columns chosen by name behind another step")
            found.append(columns.names.index(item))
        else:
            found.append(int(item) + (count if item < 0 else 0))
    require(all(0 <= item < count for item in found), "a column that does not exist")
    return found


def column_transformer(step, features, columns):
    require(not step.transformer_weights, "a ColumnTransformer with weights")
    parts, out = [], []
    for name, inner, wanted in step.transformers_:
        if isinstance(inner, str) and inner == "drop":
            continue
        chosen = places(wanted, features, columns)
        if not chosen:
            continue
        scalar = isinstance(wanted, str)
        require(scalar == (name_of(inner) in TEXT_KINDS or text_first(inner)), "a text transformer without one column")
        part, made = transform(inner, [features[place] for place in chosen], columns)
        parts.append({"columns": chosen, "step": part})
        out.extend(made)
    return {"columns": parts}, out


def text_first(step):
    while name_of(step) == "sklearn.Pipeline":
        step = step.steps[0][1]
    return name_of(step) in TEXT_KINDS


def feature_union(step, features, columns):
    require(not step.transformer_weights, "a FeatureUnion with weights")
    parts, out = [], []
    for _, inner in step.transformer_list:
        if isinstance(inner, str) and inner == "drop":
            continue
        part, made = transform(inner, features, columns)
        parts.append({"columns": list(range(len(features))), "step": part})
        out.extend(made)
    return {"columns": parts}, out


def function(step, features, columns):
    # HistGradientBoosting's own steps only check.
    check = getattr(getattr(step.func, "func", None), "__module__", "") == "sklearn.utils.validation"
    require(step.func is None or check, "a FunctionTransformer with a function")
    return {"identity": {}}, features


def selector(step, features, columns):
    chosen = [int(place) for place in step.get_support(indices=True)]
    return {"columns": [{"columns": chosen, "step": {"identity": {}}}]}, [features[place] for place in chosen]


def scale(features, columns, subtract=None, divide=None, multiply=None, add=None, clip=None):
    import numpy as np

    require(not columns.narrow(), "arithmetic on 32-bit columns")
    described, count, given = {}, len(features), {}
    for key, values in (("subtract", subtract), ("divide", divide), ("multiply", multiply), ("add", add)):
        if values is not None:
            values = np.asarray(values)
            require(values.dtype == np.float64 and values.shape == (count,), "a scaler of an odd shape")
            described[key], given[key] = doubles(values), values
    if clip is not None:
        described["clip"] = [float(clip[0]), float(clip[1])]
    out = []
    for index, feature in enumerate(features):
        one = lambda key, plain: float(given[key][index]) if key in given else plain
        factor = one("multiply", 1.0) / (one("divide", 1.0) or 1.0)
        shift = one("add", 0.0) - one("subtract", 0.0) * factor
        if feature.column is None or factor == 0.0 or not math.isfinite(factor):
            out.append(Feature())
            continue
        # feature = value * factor + shift, so value = feature / factor - shift / factor.
        made = Feature(feature.column, feature.scale / factor, feature.shift - feature.scale * shift / factor)
        for value in (-3.0, -1.0, 0.0, 1.0, 3.0):
            made.hint(columns, value)
        out.append(made)
    return {"scale": described}, out


def standard(step, features, columns):
    return scale(
        features,
        columns,
        subtract=step.mean_ if step.with_mean else None,
        divide=step.scale_ if step.with_std else None,
    )


def min_max(step, features, columns):
    clip = step.feature_range if getattr(step, "clip", False) else None
    return scale(features, columns, multiply=step.scale_, add=step.min_, clip=clip)


def robust(step, features, columns):
    return scale(
        features,
        columns,
        subtract=step.center_ if step.with_centering else None,
        divide=step.scale_ if step.with_scaling else None,
    )


def max_abs(step, features, columns):
    require(not getattr(step, "clip", False), "a MaxAbsScaler that clips")
    return scale(features, columns, divide=step.scale_)


def imputer(step, features, columns):
    require(step.indicator_ is None, "an imputer with an indicator")
    fills = [atom(value) for value in step.statistics_]
    require(all("nothing" not in fill for fill in fills), "an imputer that drops a column")
    require(len(fills) == len(features), "an imputer of an odd shape")
    narrow = [columns.kinds[feature.column] == "float" for feature in features if feature.column is not None]
    require(not any(narrow), "arithmetic on 32-bit columns")
    for feature, fill in zip(features, fills):
        if "number" in fill:
            feature.hint(columns, fill["number"])
        elif feature.column is not None:
            columns.hints[feature.column].append(fill["text"])
    return {"impute": {"missing": atom(step.missing_values), "fills": fills}}, features


def categories(step, features, columns):
    require(len(step.categories_) == len(features), "an encoder of an odd shape")
    out = []
    for feature, known in zip(features, step.categories_):
        known = list(known)
        for value in known[:50]:
            if feature.column is not None:
                if isinstance(value, str):
                    columns.hints[feature.column].append(value)
                elif value is not None and math.isfinite(value):
                    feature.hint(columns, float(value), threshold=True)
        out.append([atom(value) for value in known])
    return out


def plain_categories(step):
    require(
        getattr(step, "min_frequency", None) is None and getattr(step, "max_categories", None) is None,
        "infrequent categories",
    )


def one_hot(step, features, columns):
    import numpy as np

    plain_categories(step)
    require(step.handle_unknown in ("error", "ignore"), "handle_unknown=" + str(step.handle_unknown))
    require(np.dtype(step.dtype) == np.float64, "an encoder of another type than float64")
    known = categories(step, features, columns)
    dropped = [None] * len(known) if step.drop_idx_ is None else list(step.drop_idx_)
    dropped = [None if place is None else int(place) for place in dropped]
    width = sum(len(values) - (place is not None) for values, place in zip(known, dropped))
    described = {"categories": known, "drop": dropped, "unknown": step.handle_unknown}
    return {"one_hot": described}, [Feature() for _ in range(width)]


def ordinal(step, features, columns):
    import numpy as np

    plain_categories(step)
    require(np.dtype(step.dtype) == np.float64, "an encoder of another type than float64")
    known = categories(step, features, columns)
    unknown = atom(float(step.unknown_value)) if step.handle_unknown == "use_encoded_value" else None
    missing = atom(float(getattr(step, "encoded_missing_value", math.nan)))
    return {"ordinal": {"categories": known, "unknown": unknown, "missing": missing}}, [Feature() for _ in features]


def letters():
    """Ranges of the characters that `\\w` takes, as this Python knows them."""
    ranges, start = [], None
    for point in range(0x110000):
        letter = chr(point)
        if letter.isalnum() or letter == "_":
            if start is None:
                start = point
        elif start is not None:
            ranges.extend((start, point - 1))
            start = None
    return ranges


def count_words(step, features, columns):
    import numpy as np

    require(step.analyzer == "word", "analyzer=" + str(step.analyzer))
    require(step.token_pattern == r"(?u)\b\w\w+\b", "a token_pattern of its own")
    require(step.tokenizer is None and step.preprocessor is None, "a tokenizer or preprocessor of its own")
    require(step.strip_accents is None, "strip_accents")
    require(step.input == "content", "input=" + str(step.input))
    vocabulary = step.vocabulary_
    require(len(vocabulary) <= MOST_TERMS, "too many terms")
    terms = sorted(vocabulary, key=vocabulary.get)
    require([int(vocabulary[term]) for term in terms] == list(range(len(terms))), "a vocabulary with gaps")
    low, high = step.ngram_range
    for feature in features:
        picked = terms[:: max(1, len(terms) // 400)]
        columns.hints[feature.column].extend(picked)
    described = {
        "lowercase": bool(step.lowercase),
        "grams": [int(low), int(high)],
        "stop": sorted(step.get_stop_words() or ()),
        "terms": terms,
        "binary": bool(step.binary),
        "letters": integers(letters()),
    }
    is_tfidf = name_of(step) == "sklearn.TfidfVectorizer"
    dtype = np.dtype(step.dtype)
    require(dtype == np.float64 or (not is_tfidf and dtype == np.int64), "a vectorizer of another type than float64")
    if is_tfidf:
        described.update(weights(step))
    return {"words": described}, [Feature() for _ in terms]


def weights(step):
    require(step.norm in ("l1", "l2", None), "norm=" + str(step.norm))
    return {
        "idf": doubles(step.idf_) if step.use_idf else None,
        "sublinear": bool(step.sublinear_tf),
        "norm": step.norm,
    }


def tfidf(step, features, columns):
    return {"weigh": weights(step)}, [Feature() for _ in features]


TEXT_KINDS = {"sklearn.CountVectorizer", "sklearn.TfidfVectorizer"}
TRANSFORMS = {
    "sklearn.Pipeline": pipeline,
    "sklearn.ColumnTransformer": column_transformer,
    "sklearn.FeatureUnion": feature_union,
    "sklearn.FunctionTransformer": function,
    "sklearn.StandardScaler": standard,
    "sklearn.MinMaxScaler": min_max,
    "sklearn.RobustScaler": robust,
    "sklearn.MaxAbsScaler": max_abs,
    "sklearn.SimpleImputer": imputer,
    "sklearn.OneHotEncoder": one_hot,
    "sklearn.OrdinalEncoder": ordinal,
    "sklearn.CountVectorizer": count_words,
    "sklearn.TfidfVectorizer": count_words,
    "sklearn.TfidfTransformer": tfidf,
    "sklearn.VarianceThreshold": selector,
    "sklearn.SelectKBest": selector,
    "sklearn.SelectPercentile": selector,
    "sklearn.SelectFromModel": selector,
}


# Estimators. Each answers its description; what is answered from its sums is `answer`.


class Trees:
    """Trees of one kind, as lists over all nodes."""

    def __init__(self, features, columns, width, wide):
        self.features, self.columns, self.width, self.wide = features, columns, width, wide
        self.parts = {key: [] for key in ("left", "right", "feature", "threshold", "missing_left", "set", "values")}
        self.sizes, self.outputs, self.sets, self.nodes = [], [], [], 0

    def add(self, left, right, feature, threshold, missing_left, values, output, sets=None):
        """`values` has a row per node."""
        import numpy as np

        self.nodes += len(left)
        require(self.nodes <= MOST_NODES, "too many nodes")
        leaf = np.asarray(left) < 0
        self.parts["left"].append(np.where(leaf, -1, left))
        # A leaf's right child is its place among the leaves.
        self.parts["right"].append(np.where(leaf, np.cumsum(leaf) - 1, right))
        self.parts["feature"].append(np.where(leaf, 0, feature))
        self.parts["threshold"].append(np.where(leaf, 0.0, threshold))
        self.parts["missing_left"].append(np.where(leaf, 0, missing_left))
        self.parts["set"].append(np.full(len(left), -1) if sets is None else np.where(leaf, -1, sets))
        self.parts["values"].append(np.asarray(values, dtype=np.float64)[leaf].ravel())
        self.sizes.append(len(left))
        self.outputs.append(output)
        numeric = ~leaf if sets is None else ~leaf & (np.asarray(sets) < 0)
        for place, value in zip(np.asarray(feature)[numeric], np.asarray(threshold)[numeric]):
            self.features[place].hint(self.columns, float(value), threshold=True)

    def describe(self, outputs, start, divide, missing):
        import numpy as np

        described = {"sizes": integers(self.sizes), "outputs_of": integers(self.outputs)}
        for key, parts in self.parts.items():
            joined = np.concatenate(parts) if parts else np.zeros(0)
            described[key] = doubles(joined) if key in ("threshold", "values") else integers(joined)
        if not self.sets:
            del described["set"]
        described.update(
            sets=[[int(word) for word in words] for words in self.sets],
            wide=self.wide,
            width=self.width,
            features=len(self.features),
            outputs=outputs,
            start=doubles(start),
            divide=divide,
            missing=bool(missing),
        )
        return {"trees": described}


def add_tree(trees, tree, values, output):
    import numpy as np

    nodes = tree.__getstate__()["nodes"]
    known = "missing_go_to_left" in nodes.dtype.names
    missing = nodes["missing_go_to_left"] if known else np.zeros(len(nodes), dtype=int)
    trees.add(nodes["left_child"], nodes["right_child"], nodes["feature"], nodes["threshold"], missing, values, output)


def allows_missing(tree, count):
    import numpy as np

    check = getattr(tree, "_support_missing_values", None)
    return bool(check is not None and check(np.zeros((1, count))))


def leaf_values(tree, classes):
    """A row per node: what the tree itself would answer from there."""
    if classes is None:
        return tree.value[:, :, 0]
    values = tree.value[:, 0, :classes]
    totals = values.sum(axis=1, keepdims=True)
    import sklearn

    # Counts before 1.3, shares since.
    if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 3):
        totals[totals == 0.0] = 1.0
        values = values / totals
    return values


def forest(model, features, columns, answer):
    single = name_of(model).startswith(("sklearn.DecisionTree", "sklearn.ExtraTreeC", "sklearn.ExtraTreeR"))
    members = [model] if single else model.estimators_
    classifier = hasattr(model, "classes_")
    require(not classifier or isinstance(model.n_outputs_, int) and model.n_outputs_ == 1, "several outputs of classes")
    width = len(model.classes_) if classifier else model.n_outputs_
    trees = Trees(features, columns, width, wide=False)
    for member in members:
        add_tree(trees, member.tree_, leaf_values(member.tree_, width if classifier else None), 0)
    divide = None if single else len(members)
    described = trees.describe(width, [0.0] * width, divide, allows_missing(members[0], len(features)))
    if classifier:
        return described, answer.classes(model, "largest", "none")
    return described, answer.values()


def gradient_boosting(model, features, columns, answer):
    import numpy as np

    start = model.init_
    require(isinstance(start, str) or name_of(start) in ("sklearn.DummyClassifier", "sklearn.DummyRegressor"), "an init of its own")
    first = model._raw_predict_init(np.zeros((1, len(features)), dtype=np.float32))[0]
    trees = Trees(features, columns, 1, wide=False)
    for stage in model.estimators_:
        for output, member in enumerate(stage):
            values = model.learning_rate * member.tree_.value[:, :, 0]
            add_tree(trees, member.tree_, values, output)
    described = trees.describe(len(first), first, None, False)
    if hasattr(model, "classes_"):
        rule = "not_negative" if len(first) == 1 else "largest"
        return described, answer.classes(model, rule, "expit" if len(first) == 1 else "softmax")
    return described, answer.values()


def hist_gradient_boosting(model, features, columns, answer):
    import numpy as np

    steps = None
    if getattr(model, "_preprocessor", None) is not None:
        steps, features = transform(model._preprocessor, features, columns)
    first = np.asarray(model._baseline_prediction, dtype=np.float64).ravel()
    trees = Trees(features, columns, 1, wide=True)
    for stage in model._predictors:
        for output, member in enumerate(stage):
            nodes = member.nodes
            base = len(trees.sets)
            left = np.where(nodes["is_leaf"] != 0, -1, nodes["left"].astype(np.int64))
            sets = np.where(nodes["is_categorical"] != 0, nodes["bitset_idx"].astype(np.int64) + base, -1)
            trees.sets.extend(member.raw_left_cat_bitsets)
            trees.add(
                left,
                nodes["right"].astype(np.int64),
                nodes["feature_idx"],
                nodes["num_threshold"],
                nodes["missing_go_to_left"],
                nodes["value"].reshape(-1, 1),
                output,
                sets,
            )
    described = trees.describe(len(first), first, None, True)
    if hasattr(model, "classes_"):
        rule = "positive" if len(first) == 1 else "largest"
        answered = answer.classes(model, rule, "expit" if len(first) == 1 else "softmax")
    else:
        link = type(model._loss.link).__name__
        require(link in ("IdentityLink", "LogLink"), "the link " + link)
        answered = answer.values("identity" if link == "IdentityLink" else "exp")
    return described, answered, steps


def linear(model, features, columns, answer):
    import numpy as np

    require(not columns.narrow(), "arithmetic on 32-bit columns")
    coefficients = np.atleast_2d(model.coef_)
    if hasattr(coefficients, "toarray") or hasattr(model.coef_, "toarray"):
        coefficients = np.atleast_2d(model.coef_.toarray())
    require(coefficients.dtype == np.float64, "coefficients of another type than float64")
    outputs = coefficients.shape[0]
    require(coefficients.shape[1] == len(features), "coefficients of an odd shape")
    intercept = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (outputs,))
    described = {
        "linear": {
            "features": len(features),
            "outputs": outputs,
            # A feature's coefficients stand together.
            "coefficients": doubles(coefficients.T),
            "intercept": doubles(intercept),
        }
    }
    if hasattr(model, "classes_"):
        require(np.ndim(model.classes_) == 1 and not isinstance(model.classes_, list), "several outputs of classes")
        require(outputs == 1 or outputs == len(model.classes_), "several outputs of classes")
        return described, answer.classes(model, "positive" if outputs == 1 else "largest", link_of(model, features, answer))
    return described, answer.values()


def link_of(model, features, answer):
    """How a linear classifier makes probabilities: found out by asking it."""
    if answer.function != "predict_proba":
        return "none"
    import numpy as np
    from scipy.special import expit
    from sklearn.utils.extmath import softmax

    rows = np.random.default_rng(1).normal(size=(64, len(features)))
    sums, given = model.decision_function(rows), model.predict_proba(rows)
    if sums.ndim == 1:
        found = {"expit": np.c_[1 - expit(sums), expit(sums)], "softmax_pair": softmax(np.c_[-sums, sums])}
    else:
        found = {"softmax": softmax(sums.copy()), "shares": expit(sums) / expit(sums).sum(axis=1, keepdims=True)}
    for link, values in found.items():
        if np.array_equal(values, given):
            return link
    raise Unsupported("probabilities of " + name_of(model))


def lightgbm_model(model, features, columns, answer):
    booster = model.booster_
    described = {"lightgbm": {"text": booster.model_to_string(), "features": len(features)}}
    hint_boosted(described["lightgbm"]["text"], "threshold=", "split_feature=", features, columns)
    if hasattr(model, "classes_") and name_of(model) == "lightgbm.LGBMClassifier":
        outputs = booster.num_model_per_iteration()
        rule, link = ("half", "pair") if outputs == 1 else ("largest", "none")
        return described, answer.classes(model, rule, link)
    return described, answer.values()


def hint_boosted(text, thresholds, places, features, columns):
    found = []
    for line in text.splitlines():
        if line.startswith(places):
            found = [int(word) for word in line[len(places) :].split()]
        elif line.startswith(thresholds):
            for place, word in zip(found, line[len(thresholds) :].split()):
                features[place].hint(columns, float(word), threshold=True)


def xgboost_model(model, features, columns, answer):
    require(math.isnan(model.missing), "a `missing` of its own")
    booster = model.get_booster()
    text = bytes(booster.save_raw("json")).decode()
    for tree in json.loads(text)["learner"]["gradient_booster"].get("model", {}).get("trees", ()):
        splits = zip(tree["left_children"], tree["split_indices"], tree["split_conditions"])
        for left, place, value in splits:
            if left >= 0:
                features[place].hint(columns, float(value), threshold=True)
    classifier = name_of(model) == "xgboost.XGBClassifier"
    require(answer.function == "predict", "probabilities of " + name_of(model))
    described = {"xgboost": {"json": text, "classifier": classifier, "features": len(features)}}
    return described, {"own": {}}


ESTIMATORS = {
    **{
        "sklearn." + name: forest
        for name in (
            "DecisionTreeClassifier",
            "DecisionTreeRegressor",
            "ExtraTreeClassifier",
            "ExtraTreeRegressor",
            "RandomForestClassifier",
            "RandomForestRegressor",
            "ExtraTreesClassifier",
            "ExtraTreesRegressor",
        )
    },
    "sklearn.GradientBoostingClassifier": gradient_boosting,
    "sklearn.GradientBoostingRegressor": gradient_boosting,
    "sklearn.HistGradientBoostingClassifier": hist_gradient_boosting,
    "sklearn.HistGradientBoostingRegressor": hist_gradient_boosting,
    **{
        "sklearn." + name: linear
        for name in (
            "LinearRegression",
            "Ridge",
            "RidgeCV",
            "Lasso",
            "LassoCV",
            "ElasticNet",
            "ElasticNetCV",
            "BayesianRidge",
            "HuberRegressor",
            "Lars",
            "LassoLars",
            "LinearSVR",
            "SGDRegressor",
            "LogisticRegression",
            "LogisticRegressionCV",
            "RidgeClassifier",
            "RidgeClassifierCV",
            "SGDClassifier",
            "Perceptron",
            "LinearSVC",
        )
    },
    "lightgbm.LGBMClassifier": lightgbm_model,
    "lightgbm.LGBMRegressor": lightgbm_model,
    "xgboost.XGBClassifier": xgboost_model,
    "xgboost.XGBRegressor": xgboost_model,
}


def onnx_graph(model, features, columns, answer):
    """What nothing here computes, as skl2onnx writes it, where the environment has that."""
    kind = name_of(model)
    require(kind.startswith("sklearn."), "the estimator " + kind)
    try:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
        from sklearn.base import is_classifier
    except ImportError:
        raise Unsupported("the estimator " + kind)
    options = None
    if is_classifier(model):
        # Labels of other types become texts or numbers on the way.
        require(model.classes_.dtype.kind in "iuUO", "the estimator " + kind + ", with classes of an odd type")
        require(all(isinstance(name, str) for name in model.classes_) or model.classes_.dtype.kind in "iu", "odd classes")
        options = {id(model): {"zipmap": False}}
    else:
        require(answer.function == "predict", "probabilities of a regressor")
    try:
        shape = FloatTensorType([None, len(features)])
        graph = skl2onnx.convert_sklearn(model, initial_types=[("features", shape)], options=options, target_opset=17)
    except Exception as problem:
        raise Unsupported("the estimator " + kind + ", which skl2onnx does not convert (" + type(problem).__name__ + ")")
    outputs = [output.name for output in graph.graph.output]
    place = 1 if answer.function == "predict_proba" else 0
    require(place < len(outputs), "the estimator " + kind + ", which has no probabilities as ONNX")
    for known in (getattr(model, "_fit_X", None), getattr(model, "support_vectors_", None)):
        # Where the data lies, answers change.
        if known is not None and getattr(known, "ndim", 0) == 2 and known.shape[1] == len(features):
            for row in known[:40]:
                for place_of, value in enumerate(row):
                    features[place_of].hint(columns, float(value))
    text = base64.b64encode(graph.SerializeToString()).decode("ascii")
    described = {"bytes": text, "output": outputs[place], "features": len(features), "kind": kind}
    return {"graph": described}, {"own": {}}


class Answer:
    """What the pyfunc function answers: `predict` or `predict_proba`."""

    def __init__(self, function):
        require(function in ("predict", "predict_proba"), "predict_fn=" + str(function))
        self.function = function

    def values(self, link="identity"):
        require(self.function == "predict", "probabilities of a regressor")
        return {"values": {"link": link}}

    def classes(self, model, rule, link):
        if self.function == "predict_proba":
            return {"probabilities": {"link": link}}
        import numpy as np

        classes = np.asarray(model.classes_)
        if classes.dtype.kind in "iu":
            listed = {"integers": [int(value) for value in classes]}
        elif classes.dtype.kind == "b":
            listed = {"truths": [bool(value) for value in classes]}
        elif classes.dtype == np.float64:
            listed = {"doubles": doubles(classes)}
        else:
            require(all(isinstance(value, str) for value in classes), "classes of type " + str(classes.dtype))
            listed = {"texts": [str(value) for value in classes]}
        return {"labels": {"rule": rule, "classes": listed}}


def describe(model, columns, answer):
    while name_of(model) in ("sklearn.GridSearchCV", "sklearn.RandomizedSearchCV"):
        model = model.best_estimator_
    steps, features = [], [Feature(index) for index in range(len(columns.kinds))]
    names = getattr(model, "feature_names_in_", None)
    if names is not None and columns.names is not None and name_of(model) != "sklearn.Pipeline":
        require(list(names) == columns.names, "the signature's columns are not the model's features by name")
    while name_of(model) == "sklearn.Pipeline":
        for _, step in model.steps[:-1]:
            part, features = transform(step, features, columns)
            steps.append(part)
        model = model.steps[-1][1]
    kind = name_of(model)
    reader = ESTIMATORS.get(kind, onnx_graph)
    # Threads add in any order; one of these orders is the trees' own, and the one we take.
    if hasattr(model, "n_jobs"):
        model.n_jobs = None
    estimator, answered, *more = reader(model, features, columns, answer)
    steps.extend(step for step in more if step is not None)
    require(steps or columns.numeric(), "text columns without an encoder")
    return {"width": len(columns.kinds), "steps": steps, "estimator": estimator, "answer": answered}


# Questions.


class Questions:
    def __init__(self, columns, example):
        import numpy as np

        self.columns, self.rng = columns, np.random.default_rng(20261126)
        self.pools = [self.pool(index, example) for index in range(len(columns.kinds))]

    def pool(self, index, example):
        kind, hints = self.columns.kinds[index], list(self.columns.hints[index])
        hints += self.columns.thresholds[index]
        hints += [row[index] for row in example if index < len(row) and row[index] is not None]
        if kind == "string":
            words = sorted({value for value in hints if isinstance(value, str)})
            return words + ["", "unseen before", "Zürich ΣΑΣ naïve_1 x"]
        numbers = [float(value) for value in hints if isinstance(value, (int, float)) and math.isfinite(value)]
        low, high = (min(numbers), max(numbers)) if numbers else (-1.0, 1.0)
        margin = (high - low) * 0.1 or 1.0
        return low - margin, high + margin, numbers

    def fit(self, kind, value):
        """A value as its column's type takes it."""
        import numpy as np

        if kind == "boolean":
            return bool(value > 0.5)
        if kind in ("integer", "long"):
            limit = 2**31 - 1 if kind == "integer" else 2**53
            return int(max(-limit, min(limit, round(value))))
        if kind == "float":
            value = float(np.float32(value))
            return value if math.isfinite(value) else 0.0
        return float(value)

    def cell(self, index):
        kind, pool = self.columns.kinds[index], self.pools[index]
        if kind == "string":
            if len(pool) > 60 or self.rng.random() < 0.2:
                count = int(self.rng.integers(0, 12))
                return " ".join(pool[int(self.rng.integers(len(pool)))] for _ in range(count))
            return pool[int(self.rng.integers(len(pool)))]
        low, high, numbers = pool
        if kind == "boolean":
            return bool(self.rng.random() < 0.5)
        if numbers and self.rng.random() < 0.4:
            return self.fit(kind, numbers[int(self.rng.integers(len(numbers)))])
        return self.fit(kind, self.rng.uniform(low, high))

    def row(self):
        return [self.cell(index) for index in range(len(self.columns.kinds))]

    def rows(self):
        """Random rows, then rows on, just below and just above thresholds."""
        import numpy as np

        rows = [self.row() for _ in range(ROWS)]
        wanted = []
        for index, kind in enumerate(self.columns.kinds):
            if kind in ("string", "boolean"):
                wanted += [(index, value) for value in self.pools[index]] if kind == "string" else []
                continue
            values = sorted(set(self.columns.thresholds[index]))
            for value in values[:: max(1, len(values) // 24)]:
                narrow = np.float32(value)
                near = [value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf), float(narrow)]
                near += [float(np.nextafter(narrow, np.float32(side))) for side in (-np.inf, np.inf)]
                if kind in ("integer", "long"):
                    near = [math.floor(value), math.ceil(value)]
                wanted += [(index, self.fit(kind, one)) for one in near if math.isfinite(one)]
        if len(wanted) > THRESHOLD_ROWS:
            wanted = [wanted[int(place)] for place in np.linspace(0, len(wanted) - 1, THRESHOLD_ROWS)]
        for index, value in wanted:
            row = self.row()
            row[index] = value
            rows.append(row)
        return rows

    def bodies(self):
        """`(content type, body)`."""
        rows, kinds = self.rows(), self.columns.kinds
        yield from (self.whole(rows[at : at + 400]) for at in range(0, len(rows), 400))
        for row in rows[:12] + rows[-4:]:
            yield self.whole([row])
        yield from self.other_forms(rows[:40])
        nullable = [index for index, kind in enumerate(kinds) if kind in ("float", "double", "string")]
        for index in nullable[:: max(1, len(nullable) // 32)]:
            row = list(rows[index % ROWS])
            row[index] = None
            yield self.whole([row])
            if index == nullable[0] or kinds[index] == "string":
                yield from self.other_forms([row])
        if nullable:
            holed = [
                [None if index in nullable and self.rng.random() < 0.3 else value for index, value in enumerate(row)]
                for row in rows[:64]
            ]
            yield self.whole(holed)
            yield self.whole([[None if index in nullable else value for index, value in enumerate(rows[0])]])

    def whole(self, rows):
        if self.columns.tensor:
            return "application/json", json.dumps({"inputs": rows})
        table = {"data": rows}
        if self.columns.names is not None:
            table["columns"] = self.columns.names
        return "application/json", json.dumps({"dataframe_split": table})

    def other_forms(self, rows):
        if self.columns.tensor:
            yield "application/json", json.dumps({"instances": rows})
            return
        names = self.columns.names
        if names is None:
            return
        yield "application/json", json.dumps({"dataframe_records": [dict(zip(names, row)) for row in rows]})
        cells = {name: [row[index] for row in rows] for index, name in enumerate(names)}
        yield "application/json", json.dumps({"inputs": cells})
        import csv
        import io

        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(names)
        writer.writerows([repr(value) if isinstance(value, float) else value for value in row] for row in rows)
        yield "text/csv", table.getvalue()


def example_rows(folder, columns):
    """Rows of the input example, where it is plainly one."""
    try:
        with open(os.path.join(folder, "serving_input_example.json")) as file:
            example = json.load(file)
        table = example.get("dataframe_split")
        if table is not None:
            order = [table["columns"].index(name) for name in columns.names or table["columns"]]
            return [[row[place] for place in order] for row in table["data"][:50]]
        rows = example.get("inputs", [])
        return [row for row in rows[:50] if isinstance(row, list)] if isinstance(rows, list) else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def convert(folder):
    os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] = "true"
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    served = mlflow.pyfunc.load_model(folder)
    schema = served.metadata.get_input_schema()
    require(served.metadata.get_params_schema() is None, "the signature has parameters")
    inner = served._model_impl
    model = inner.get_raw_model() if hasattr(inner, "get_raw_model") else getattr(inner, "sklearn_model", inner)
    columns = Columns(schema)
    answer = Answer(served.metadata.flavors["python_function"].get("predict_fn", "predict"))
    described = describe(model, columns, answer)
    described["text_null"] = text_null(served, schema, columns)
    questions = []
    for kind, body in Questions(columns, example_rows(folder, columns)).bodies():
        try:
            given = scoring_server.invocations(body.encode(), kind, served, schema)
            questions.append({"kind": kind, "body": body, "answer": given.response if given.status == 200 else None})
        except MlflowException:
            questions.append({"kind": kind, "body": body, "answer": None})
    import sklearn

    versions = {"python": sys.version.split()[0], "mlflow": mlflow.__version__, "scikit-learn": sklearn.__version__}
    return {"model": described, "questions": questions, "versions": versions}


def text_null(served, schema, columns):
    """What a null in a text column is by the time the model sees it: `None`, NaN or the word `None`."""
    seen = dict.fromkeys(("beside", "alone", "typed", "csv"), "refused")
    if "string" not in columns.kinds or columns.names is None:
        return seen
    from mlflow.models.utils import _enforce_schema
    from mlflow.pyfunc import scoring_server

    place = columns.kinds.index("string")
    name = columns.names[place]
    plain = {"string": "a", "boolean": False}
    full = [plain.get(kind, 0) for kind in columns.kinds]
    null = [None if index == place else value for index, value in enumerate(full)]
    cells = {other: [value] for other, value in zip(columns.names, null)}
    line = ",".join("" if value is None else str(value) for value in null)
    table = lambda rows: {"dataframe_split": {"columns": columns.names, "data": rows}}
    ways = {
        "beside": lambda: scoring_server.infer_and_parse_data(table([null, full]), schema),
        "alone": lambda: scoring_server.infer_and_parse_data(table([null]), schema),
        "typed": lambda: scoring_server.infer_and_parse_data({"inputs": cells}, schema),
        "csv": lambda: scoring_server.parse_csv_input(
            __import__("io").StringIO(",".join(columns.names) + "\n" + line + "\n"), schema
        ),
    }
    for way, read in ways.items():
        try:
            value = _enforce_schema(read(), schema)[name].iloc[0]
        except Exception:
            continue
        seen[way] = "none" if value is None else "word" if value == "None" else "nan"
    return seen


def main():
    try:
        made = convert(sys.argv[1])
    except Unsupported as problem:
        made = {"unsupported": str(problem)[:300]}
    OUT.write(json.dumps(made).encode())
    OUT.flush()
    os._exit(0)


main()
