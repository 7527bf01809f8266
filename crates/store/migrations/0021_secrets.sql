-- Secrets that the admin API was given: the value under a data key, that under the master key `master`. Text is base64.
CREATE TABLE secrets (
    name        TEXT PRIMARY KEY,
    version     BIGINT NOT NULL,
    master      TEXT NOT NULL,
    data_key    TEXT NOT NULL,
    value       TEXT NOT NULL,
    updated_by  TEXT NOT NULL,
    updated_ms  BIGINT NOT NULL
);
