-- When a session could first be used, and when it ends by itself.
ALTER TABLE session ADD COLUMN started INTEGER;
ALTER TABLE session ADD COLUMN ends INTEGER;        -- at this time, whatever it does
ALTER TABLE session ADD COLUMN unused_for INTEGER;  -- so long after its last use
ALTER TABLE session ADD COLUMN due INTEGER;         -- when one of the two is over; later, while somebody sees to it

CREATE INDEX session_due ON session (due) WHERE due IS NOT NULL;

UPDATE session SET started = created WHERE status <> 'pending';

-- So far both stood in the note of the face that made it, in minutes and hours.
UPDATE session SET
  ends = CASE json_type(note, '$.config.timeout_minutes') WHEN 'integer' THEN
    created + 60000 * nullif(CAST(min(note ->> '$.config.timeout_minutes', 1e9) AS INTEGER), 0) END,
  unused_for = CASE json_type(note, '$.config.auto_delete_after_hours') WHEN 'integer' THEN
    3600000 * nullif(CAST(min(note ->> '$.config.auto_delete_after_hours', 1e9) AS INTEGER), 0) END
WHERE status <> 'terminated' AND CASE WHEN json_valid(note) THEN json_type(note, '$.config') END = 'object';

UPDATE session SET due = min(ifnull(ends, 9007199254740991), ifnull(last_used + unused_for, 9007199254740991))
WHERE ends IS NOT NULL OR unused_for IS NOT NULL;
