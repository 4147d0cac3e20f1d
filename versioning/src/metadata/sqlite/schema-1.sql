CREATE TABLE repository (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    schema_version INTEGER NOT NULL,
    incarnation    BLOB NOT NULL
) STRICT;

-- AUTOINCREMENT: the id of a deleted branch is never given again.
CREATE TABLE branches (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT NOT NULL UNIQUE,
    head      BLOB NOT NULL,
    protected INTEGER NOT NULL,
    created   INTEGER NOT NULL
) STRICT;

CREATE TABLE reflog (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    branch INTEGER NOT NULL,
    old    BLOB,
    new    BLOB NOT NULL,
    time   INTEGER NOT NULL,
    author TEXT NOT NULL,
    action TEXT NOT NULL
) STRICT;
CREATE INDEX reflog_by_branch ON reflog (branch, seq);

CREATE TABLE tags (
    name      TEXT PRIMARY KEY,
    commit_id BLOB NOT NULL,
    created   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE packs (
    id    INTEGER PRIMARY KEY,
    hash  BLOB NOT NULL UNIQUE,
    bytes INTEGER NOT NULL
) STRICT;

CREATE TABLE pack_index (
    hash   BLOB PRIMARY KEY,
    kind   INTEGER NOT NULL,
    pack   INTEGER NOT NULL REFERENCES packs (id),
    offset INTEGER NOT NULL,
    len    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE named_values (
    space TEXT NOT NULL,
    key   BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE epochs (
    tag   TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
