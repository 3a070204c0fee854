-- Sessions, and with whom they are shared.
CREATE TABLE session (
  tenant    TEXT    NOT NULL,
  owner     TEXT    NOT NULL,
  id        TEXT    NOT NULL,
  name      TEXT,
  folded    TEXT,              -- the name as it is compared
  status    TEXT    NOT NULL,
  reason    TEXT,
  server    TEXT    NOT NULL,
  state     TEXT,              -- the state directory's group
  exclusive INTEGER NOT NULL,
  domain    TEXT,              -- within what the id is taken; null on a server of one's own and when it is over
  ephemeral INTEGER NOT NULL,
  claims    INTEGER NOT NULL,  -- how many are about to create it; 0 when one has
  created   INTEGER NOT NULL,
  updated   INTEGER NOT NULL,
  last_used INTEGER NOT NULL,
  ended     INTEGER,
  epoch     INTEGER NOT NULL,
  PRIMARY KEY (tenant, owner, id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX session_taken ON session (domain, id) WHERE domain IS NOT NULL;
CREATE INDEX session_started ON session (tenant, owner, created, id);
CREATE INDEX session_updated ON session (tenant, owner, updated, id);
CREATE INDEX session_latest ON session (tenant, owner, last_used, id) WHERE status <> 'terminated';
CREATE INDEX session_records ON session (tenant, owner, ended, id) WHERE status = 'terminated';
CREATE INDEX session_named ON session (tenant, owner, folded, id) WHERE folded IS NOT NULL;
CREATE INDEX session_pending ON session (updated) WHERE claims > 0;

CREATE TABLE member (
  tenant TEXT    NOT NULL,
  user   TEXT    NOT NULL,
  id     TEXT    NOT NULL,
  owner  TEXT    NOT NULL,
  role   TEXT    NOT NULL,
  since  INTEGER NOT NULL,
  PRIMARY KEY (tenant, owner, id, user),
  FOREIGN KEY (tenant, owner, id) REFERENCES session ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX member_sees ON member (tenant, user, id, owner, since);

-- How many sessions each owner has that are not terminated, so that no claim counts them.
CREATE TABLE holder (
  tenant TEXT    NOT NULL,
  user   TEXT    NOT NULL,
  live   INTEGER NOT NULL,
  PRIMARY KEY (tenant, user)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER session_added AFTER INSERT ON session WHEN new.status <> 'terminated' BEGIN
  INSERT INTO holder VALUES (new.tenant, new.owner, 1) ON CONFLICT DO UPDATE SET live = live + 1;
END;

CREATE TRIGGER session_removed AFTER DELETE ON session WHEN old.status <> 'terminated' BEGIN
  UPDATE holder SET live = live - 1 WHERE tenant = old.tenant AND user = old.owner;
  DELETE FROM holder WHERE tenant = old.tenant AND user = old.owner AND live = 0;
END;

CREATE TRIGGER session_ended AFTER UPDATE OF status ON session
WHEN old.status <> 'terminated' AND new.status = 'terminated' BEGIN
  UPDATE holder SET live = live - 1 WHERE tenant = old.tenant AND user = old.owner;
  DELETE FROM holder WHERE tenant = old.tenant AND user = old.owner AND live = 0;
END;
