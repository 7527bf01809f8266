-- Virtual keys. Times are milliseconds since 1970. Lists and tags are JSON.
CREATE TABLE keys (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    prefix      TEXT NOT NULL,
    roles       TEXT NOT NULL,
    scope       TEXT NOT NULL,
    tags        TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    updated_ms  BIGINT NOT NULL,
    expires_ms  BIGINT,
    revoked_ms  BIGINT,
    used_ms     BIGINT
);
CREATE INDEX keys_by_change ON keys (updated_ms);

-- What a caller may show for a key: a keyed hash, never the key. A rotated secret is good until its grace is over.
CREATE TABLE key_secrets (
    hash        TEXT PRIMARY KEY,
    key_id      TEXT NOT NULL REFERENCES keys (id),
    until_ms    BIGINT
);
CREATE INDEX key_secrets_by_key ON key_secrets (key_id);
