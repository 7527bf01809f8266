-- Requests with an Idempotency-Key: a digest of who, where and the key; a keyed digest of the body; the answer, encrypted,
-- once there is one.
CREATE TABLE idempotent (
    id          TEXT PRIMARY KEY,
    body        TEXT NOT NULL,
    began_ms    BIGINT NOT NULL,
    master      TEXT,
    data_key    TEXT,
    answer      TEXT
);
CREATE INDEX idempotent_by_age ON idempotent (began_ms);
