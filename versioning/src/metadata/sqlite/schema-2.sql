-- How many rows of pack_index name the pack.
ALTER TABLE packs ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
UPDATE packs SET entries = used.entries FROM (SELECT pack, count(*) AS entries FROM pack_index GROUP BY pack) AS used WHERE used.pack = packs.id;

CREATE TABLE leases (
    name    TEXT PRIMARY KEY,
    token   INTEGER NOT NULL,
    beat    INTEGER NOT NULL,
    holder  TEXT,
    -- One holder a line, first come first.
    waiting TEXT NOT NULL
) STRICT, WITHOUT ROWID;
