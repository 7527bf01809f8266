-- Configurations that were put to use, and by whom. `text` is NULL where it holds secrets in clear text.
CREATE TABLE config_versions (
    id          BIGINT PRIMARY KEY,
    digest      TEXT NOT NULL,
    text        TEXT,
    origin      TEXT NOT NULL,
    principal   TEXT NOT NULL,
    reason      TEXT NOT NULL,
    restored    BIGINT,
    applied_ms  BIGINT NOT NULL
);
