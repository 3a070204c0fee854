-- What requests came to whose callers gave them names, so that they are done once.
CREATE TABLE mark (
  tenant TEXT NOT NULL,
  user TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  turn TEXT NOT NULL,
  message TEXT,
  at INTEGER NOT NULL,
  PRIMARY KEY (tenant, user, name)
) WITHOUT ROWID;

CREATE INDEX mark_at ON mark (tenant, user, at);
