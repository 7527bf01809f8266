-- Browsers that are signed on: a keyed hash of what their cookie holds, and who it is, as JSON. Times are milliseconds
-- since 1970.
CREATE TABLE sessions (
    hash        TEXT PRIMARY KEY,
    principal   TEXT NOT NULL,
    person      TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL
);
CREATE INDEX sessions_by_end ON sessions (expires_ms);
