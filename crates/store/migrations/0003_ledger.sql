-- What calls used and cost: one row per call and target, written once and never changed. Times are milliseconds since
-- 1970, money is nano-USD, tags are JSON. A cost of NULL is not known.
CREATE TABLE ledger (
    id            TEXT PRIMARY KEY,
    at_ms         BIGINT NOT NULL,
    principal     TEXT NOT NULL,
    user_name     TEXT NOT NULL,
    team          TEXT NOT NULL,
    app           TEXT NOT NULL,
    organization  TEXT NOT NULL,
    tags          TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    target        TEXT NOT NULL,
    model_version TEXT NOT NULL,
    operation     TEXT NOT NULL,
    outcome       TEXT NOT NULL,
    input_tokens  BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    predicted     BIGINT NOT NULL,
    cost          BIGINT,
    estimated     BIGINT NOT NULL
);
CREATE INDEX ledger_by_time ON ledger (at_ms);

-- Sums of the ledger by quarters of an hour, written with its rows: what budgets begin with, and what reports read.
CREATE TABLE usage_sums (
    id            TEXT PRIMARY KEY,
    slot_ms       BIGINT NOT NULL,
    principal     TEXT NOT NULL,
    user_name     TEXT NOT NULL,
    team          TEXT NOT NULL,
    app           TEXT NOT NULL,
    organization  TEXT NOT NULL,
    tags          TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    target        TEXT NOT NULL,
    model_version TEXT NOT NULL,
    operation     TEXT NOT NULL,
    requests      BIGINT NOT NULL,
    failed        BIGINT NOT NULL,
    input_tokens  BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    predicted     BIGINT NOT NULL,
    cost          BIGINT NOT NULL,
    unpriced      BIGINT NOT NULL,
    estimated     BIGINT NOT NULL
);
CREATE INDEX usage_sums_by_time ON usage_sums (slot_ms);

-- Calls under way whose cost is reserved. What is left here by a process that died counts as spent.
CREATE TABLE ledger_open (
    id            TEXT PRIMARY KEY,
    replica       TEXT NOT NULL,
    row           TEXT NOT NULL
);

-- Processes that write the ledger, and when they were last seen.
CREATE TABLE ledger_writers (
    replica       TEXT PRIMARY KEY,
    seen_ms       BIGINT NOT NULL
);
