-- What the face that made a session keeps of it.
ALTER TABLE session ADD COLUMN note TEXT;
