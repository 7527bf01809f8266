"""Saves models of every kind that is converted: `make_sklearn.py FOLDER`. Beside each stands `cases.json`, a list of
`[content type, body, answer]` with the answers of MLflow's own scoring functions."""

import json
import pathlib
import sys
import warnings

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server
from sklearn import ensemble, linear_model, svm, tree
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler

warnings.filterwarnings("ignore")
target = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(11)
ROWS = 400
plain = pd.DataFrame(rng.normal(size=(ROWS, 5)), columns=list("abcde"))
holes = plain.mask(rng.random(plain.shape) < 0.15)
score = plain.to_numpy() @ np.array([1.0, -0.5, 0.25, 2.0, 0.1]) + plain["a"].to_numpy() * plain["b"].to_numpy()
two = (score > 0).astype(int)
three = pd.qcut(score, 3, labels=False)
words = np.array(["no", "perhaps", "yes"])[three]
mixed = pd.DataFrame(
    {
        "age": rng.integers(18, 90, ROWS),
        "income": np.round(rng.lognormal(10, 1, ROWS), 2),
        "city": rng.choice(["Bern", "Genève", "Zürich", "Chur"], ROWS),
        "plan": rng.choice(["a", "b", "c"], ROWS),
        "member": rng.random(ROWS) < 0.5,
    }
)
mixed.loc[rng.random(ROWS) < 0.1, "income"] = np.nan
buys = ((mixed["age"] > 50) ^ (mixed["city"] == "Chur")).astype(int).to_numpy()
vocabulary = "good bad fine awful great poor Größe naïve value money never again it's über the of and".split()
texts = pd.DataFrame(
    {
        "title": [" ".join(rng.choice(vocabulary, rng.integers(1, 5))) for _ in range(ROWS)],
        "body": [" ".join(rng.choice(vocabulary, rng.integers(3, 25))) + "." for _ in range(ROWS)],
        "stars": rng.integers(1, 6, ROWS).astype(float),
    }
)
liked = np.array([int(text.count("good") + text.count("great") > text.count("bad")) for text in texts["body"]])


def cases(folder, frame):
    loaded = mlflow.pyfunc.load_model(str(folder))
    schema = loaded.metadata.get_input_schema()
    sample = frame.iloc[::13] if hasattr(frame, "iloc") else frame[::13]
    if hasattr(frame, "iloc"):
        values = json.loads(sample.to_json(orient="split", double_precision=15))
        bodies = [{"dataframe_split": {"columns": values["columns"], "data": values["data"]}}]
        records = [dict(zip(values["columns"], row)) for row in values["data"]]
        bodies += [{"dataframe_records": [record]} for record in records[:6]]
        bodies += [{"inputs": {name: [row[name] for row in records[:9]] for name in values["columns"]}}]
        given = [("application/json", json.dumps(body)) for body in bodies]
        given.append(("text/csv", sample.dropna().to_csv(index=False)))
    else:
        given = [("application/json", json.dumps({key: sample.tolist()})) for key in ("inputs", "instances")]
    out = []
    for kind, body in given:
        answer = scoring_server.invocations(body.encode(), kind, loaded, schema)
        assert answer.status == 200, (folder.name, answer.response)
        out.append([kind, body, answer.response])
    return out


def save(name, model, frame, function="predict", flavor="sklearn", **options):
    folder = target / name
    if flavor == "sklearn":
        options.setdefault("serialization_format", "cloudpickle")
        options["pyfunc_predict_fn"] = function
    getattr(mlflow, flavor).save_model(model, str(folder), signature=infer_signature(frame), pip_requirements=[], **options)
    (folder / "cases.json").write_text(json.dumps(cases(folder, frame)))


def trees():
    small = {"n_estimators": 12, "random_state": 3}
    save("tree-classifier", tree.DecisionTreeClassifier(max_depth=6).fit(plain, words), plain)
    save("tree-regressor", tree.DecisionTreeRegressor().fit(holes, score), holes)
    save("tree-array", tree.DecisionTreeRegressor(max_depth=7).fit(plain.to_numpy(), score), plain.to_numpy())
    save("extra-tree", tree.ExtraTreeClassifier(random_state=1).fit(plain, two > 0), plain)
    forest = ensemble.RandomForestClassifier(**small, n_jobs=2)
    save("forest-classifier", forest.fit(plain, three), plain)
    save("forest-missing", ensemble.RandomForestClassifier(**small).fit(holes, words), holes)
    save("forest-proba", ensemble.RandomForestClassifier(**small).fit(plain, three), plain, "predict_proba")
    save("forest-regressor", ensemble.RandomForestRegressor(**small).fit(plain, score), plain)
    both = np.c_[score, -2 * score]
    save("forest-outputs", ensemble.RandomForestRegressor(**small).fit(plain, both), plain)
    floats = plain.astype(np.float32)
    save("forest-32-bit", ensemble.RandomForestRegressor(**small).fit(floats, score), floats)
    save("extra-trees", ensemble.ExtraTreesClassifier(**small).fit(plain, two.astype(float)), plain)
    save("extra-trees-regressor", ensemble.ExtraTreesRegressor(**small).fit(plain, score), plain)
    skops = ["sklearn.tree._tree.Tree", "numpy.dtype", "sklearn.ensemble._forest.RandomForestClassifier"]
    options = {"serialization_format": "skops", "skops_trusted_types": skops}
    save("forest-skops", ensemble.RandomForestClassifier(**small).fit(plain, three), plain, **options)
    boosted = ensemble.GradientBoostingClassifier(**small)
    save("boosting-two", boosted.fit(plain, two), plain)
    save("boosting-two-proba", boosted.fit(plain, two), plain, "predict_proba")
    save("boosting-three", boosted.fit(plain, words), plain)
    save("boosting-regressor", ensemble.GradientBoostingRegressor(**small).fit(plain, score), plain)
    hist = {"max_iter": 12, "random_state": 3, "max_leaf_nodes": 9}
    save("hist-two", ensemble.HistGradientBoostingClassifier(**hist).fit(holes, two), holes)
    save("hist-two-proba", ensemble.HistGradientBoostingClassifier(**hist).fit(holes, two), holes, "predict_proba")
    save("hist-three", ensemble.HistGradientBoostingClassifier(**hist).fit(holes, words), holes)
    save("hist-regressor", ensemble.HistGradientBoostingRegressor(**hist).fit(holes, score), holes)
    coded = plain.assign(e=rng.integers(0, 6, ROWS).astype(float))
    model = ensemble.HistGradientBoostingRegressor(**hist, categorical_features=[4])
    save("hist-categories", model.fit(coded, score + 3 * (coded["e"] % 2)), coded)


def linear():
    for name, model in {
        "linear-regression": linear_model.LinearRegression(),
        "ridge": linear_model.Ridge(),
        "lasso": linear_model.Lasso(alpha=0.05),
        "elastic-net": linear_model.ElasticNet(alpha=0.05),
    }.items():
        save(name, model.fit(plain, score), plain)
    save("logistic-two", linear_model.LogisticRegression().fit(plain, two), plain)
    save("logistic-three", linear_model.LogisticRegression().fit(plain, words), plain)
    save("logistic-two-proba", linear_model.LogisticRegression().fit(plain, two), plain, "predict_proba")
    save("logistic-three-proba", linear_model.LogisticRegression().fit(plain, three), plain, "predict_proba")
    save("sgd", linear_model.SGDClassifier(random_state=0).fit(plain, words), plain)
    save("linear-svc", svm.LinearSVC().fit(plain, two), plain)
    save("ridge-classifier", linear_model.RidgeClassifier().fit(plain, words), plain)


def pipelines():
    logistic = linear_model.LogisticRegression
    forest = ensemble.RandomForestClassifier
    save("scaled-logistic", make_pipeline(StandardScaler(), logistic()).fit(plain, three), plain)
    save("scaled-forest", make_pipeline(MinMaxScaler(), forest(9, random_state=1)).fit(plain, words), plain)
    chain = make_pipeline(SimpleImputer(), RobustScaler(), MaxAbsScaler(), SelectKBest(k=3), forest(9, random_state=1))
    save("chain-forest", chain.fit(holes, two), holes)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())

    def prepared(**options):
        return ColumnTransformer(
            [
                ("numbers", numbers, ["age", "income"]),
                ("texts", OneHotEncoder(handle_unknown="ignore"), ["city", "plan"]),
            ],
            **options,
        )

    save("columns-logistic", make_pipeline(prepared(), logistic(max_iter=500)).fit(mixed, buys), mixed)
    model = make_pipeline(prepared(remainder="passthrough"), forest(9, random_state=1))
    save("columns-forest", model.fit(mixed, words), mixed)
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    chosen = ColumnTransformer(
        [
            ("texts", ordinal, make_column_selector(dtype_exclude=["number", "bool"])),
            ("numbers", "passthrough", make_column_selector(dtype_include=["number", "bool"])),
        ]
    )
    hist = ensemble.HistGradientBoostingClassifier(max_iter=9, max_leaf_nodes=7)
    save("columns-hist", make_pipeline(chosen, hist).fit(mixed, buys), mixed)
    filled = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(drop="first", sparse_output=False))
    union = FeatureUnion([("scaled", StandardScaler()), ("ranged", MinMaxScaler(clip=True))])
    both = ColumnTransformer([("texts", filled, ["plan"]), ("numbers", make_pipeline(numbers, union), ["age", "income"])])
    save("union-tree", make_pipeline(both, tree.DecisionTreeClassifier(max_depth=5)).fit(mixed, buys), mixed)
    words_of = ColumnTransformer(
        [
            ("title", CountVectorizer(binary=True, stop_words=["the", "of"]), "title"),
            ("body", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), "body"),
            ("stars", "passthrough", ["stars"]),
        ]
    )
    save("text-logistic", make_pipeline(words_of, logistic(max_iter=500)).fit(texts, liked), texts)
    only = ColumnTransformer([("body", TfidfVectorizer(), "body")])
    save("text-proba", make_pipeline(only, logistic()).fit(texts, liked), texts, "predict_proba")
    lgb = {"n_estimators": 7, "num_leaves": 7, "n_jobs": 1, "verbose": -1}
    save("scaled-lightgbm", make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(**lgb)).fit(plain, words), plain)
    xgb = {"n_estimators": 7, "max_depth": 3, "n_jobs": 1}
    save("scaled-xgboost", make_pipeline(StandardScaler(), xgboost.XGBClassifier(**xgb)).fit(plain, three), plain)
    options = {"flavor": "lightgbm", "serialization_format": "cloudpickle"}
    save("lightgbm-two", lightgbm.LGBMClassifier(**lgb).fit(plain, two), plain, **options)
    save("lightgbm-three", lightgbm.LGBMClassifier(**lgb).fit(holes, words), holes, **options)
    save("lightgbm-regressor", lightgbm.LGBMRegressor(**lgb).fit(holes, score), holes, **options)


if __name__ == "__main__":
    trees()
    linear()
    pipelines()
