-- Teams and users: what bounds the keys and tokens of those who belong to them. Times are milliseconds since 1970.
-- Lists and tags are JSON. A name that was removed stays, so that nothing which belonged to it comes back.
CREATE TABLE principals (
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    parent      TEXT,
    roles       TEXT NOT NULL,
    scope       TEXT NOT NULL,
    tags        TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    updated_ms  BIGINT NOT NULL,
    disabled_ms BIGINT,
    removed_ms  BIGINT,
    PRIMARY KEY (kind, name)
);
CREATE INDEX principals_by_change ON principals (updated_ms);
