-- For whom and by what something was used: the same for most rows of the ledger, and written once. The id is a part of the
-- SHA-256 of the rest, or negative for rows of before.
CREATE TABLE spenders (
    id            BIGINT PRIMARY KEY,
    principal     TEXT NOT NULL,
    user_name     TEXT NOT NULL,
    team          TEXT NOT NULL,
    app           TEXT NOT NULL,
    organization  TEXT NOT NULL,
    tags          TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    target        TEXT NOT NULL,
    model_version TEXT NOT NULL,
    operation     TEXT NOT NULL
);
INSERT INTO spenders (id, principal, user_name, team, app, organization, tags, endpoint, target, model_version, operation)
    SELECT -ROW_NUMBER() OVER (ORDER BY principal, user_name, team, app, organization, tags, endpoint, target, model_version, operation),
        principal, user_name, team, app, organization, tags, endpoint, target, model_version, operation
    FROM (SELECT DISTINCT principal, user_name, team, app, organization, tags, endpoint, target, model_version, operation
        FROM ledger) AS known;

-- Rows are looked for by time. Nothing but batches keeps them from being written twice: an index over random ids costs more than
-- all the rest.
CREATE TABLE ledger_rows (
    id            TEXT NOT NULL,
    at_ms         BIGINT NOT NULL,
    spender       BIGINT NOT NULL,
    outcome       TEXT NOT NULL,
    input_tokens  BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    predicted     BIGINT NOT NULL,
    cost          BIGINT,
    estimated     BIGINT NOT NULL
);
INSERT INTO ledger_rows (id, at_ms, spender, outcome, input_tokens, output_tokens, predicted, cost, estimated)
    SELECT ledger.id, ledger.at_ms, spenders.id, ledger.outcome, ledger.input_tokens, ledger.output_tokens, ledger.predicted,
        ledger.cost, ledger.estimated
    FROM ledger JOIN spenders ON spenders.principal = ledger.principal AND spenders.user_name = ledger.user_name
        AND spenders.team = ledger.team AND spenders.app = ledger.app AND spenders.organization = ledger.organization
        AND spenders.tags = ledger.tags AND spenders.endpoint = ledger.endpoint AND spenders.target = ledger.target
        AND spenders.model_version = ledger.model_version AND spenders.operation = ledger.operation;
DROP TABLE ledger;
ALTER TABLE ledger_rows RENAME TO ledger;
CREATE INDEX ledger_by_time ON ledger (at_ms);
