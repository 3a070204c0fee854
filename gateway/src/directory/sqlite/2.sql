-- The highest fence under which a session was used.
ALTER TABLE session ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
