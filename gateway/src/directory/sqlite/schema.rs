//! The file: made for its owner only, brought to the version that this Jetway knows.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::directory::error::{OpenError, StoreError};

/// What makes each version of the one before. Never edited once released: added to.
const MIGRATIONS: [&str; 5] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
    include_str!("4.sql"),
    include_str!("5.sql"),
];

/// How long another program's lock on the file is waited for: a backup, an operator's `sqlite3`.
const BUSY: Duration = Duration::from_secs(2);

/// How many prepared statements a connection keeps: more than there are.
const STATEMENTS: usize = 64;

/// Opens the file for changes, making or migrating it if need be.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    private(path).map_err(|cause| OpenError::File { path: path.to_owned(), cause })?;
    let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Commits survive a crash of this process at once, and one of the machine after the next checkpoint:
    // then the last ones may be missing, none is half there. All who acted on them are gone as well.
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;";
    conn.execute_batch(pragmas).map_err(StoreError::from)?;
    migrate(&mut conn, path)?;
    // What is read in a transaction must still be so when it is changed, for any program.
    conn.set_transaction_behavior(TransactionBehavior::Immediate);
    Ok(conn)
}

/// Opens the file, which is there, for looking only.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(path: &Path, mode: OpenFlags) -> Result<Connection, OpenError> {
    let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(StoreError::from)?;
    conn.busy_timeout(BUSY).map_err(StoreError::from)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// SQLite gives its journals the mode of the file.
fn private(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // It may have been there before, with another mode.
    file.set_permissions(Permissions::from_mode(0o600))
}

fn migrate(conn: &mut Connection, path: &Path) -> Result<(), OpenError> {
    // Two that start at once: the second waits, and finds it done.
    let tx = conn.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(StoreError::from)?;
    let version: u32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(StoreError::from)?;
    let known = MIGRATIONS.len() as u32;
    if version > known {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known });
    }
    for step in &MIGRATIONS[version as usize..] {
        tx.execute_batch(step).map_err(StoreError::from)?;
    }
    tx.pragma_update(None, "user_version", known).map_err(StoreError::from)?;
    tx.commit().map_err(StoreError::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_becomes_the_latest_and_keeps_its_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.sqlite");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(
            "PRAGMA user_version = 1;
             INSERT INTO session VALUES ('acme', 'ada', 's-1', 'One', 'one', 'running', NULL, '10.0.0.5:4321',
               'shared-a', 0, 'group shared-a', 0, 0, 1000, 2000, 1500, NULL, 3);
             INSERT INTO member VALUES ('acme', 'bob', 's-1', 'ada', 'viewer', 1200);",
        )
        .unwrap();
        drop(old);

        // Twice: the second time there is nothing to do.
        for _ in 0..2 {
            let conn = open(&path).unwrap();
            let version: u32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
            assert_eq!(version as usize, MIGRATIONS.len());
            let kept: (String, u64, u64, String) = conn
                .query_row(
                    "SELECT s.id, s.epoch, s.fence, m.user FROM session s JOIN member m USING (tenant, owner, id)",
                    [],
                    |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64, row.get(3)?)),
                )
                .unwrap();
            assert_eq!(kept, ("s-1".into(), 3, 0, "bob".into()));
        }
    }

    #[test]
    fn a_file_of_a_later_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.sqlite");
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(open(&path), Err(OpenError::Newer { found: 99, .. })));
    }

    #[test]
    fn only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/for/it/directory.sqlite");
        let conn = open(&path).unwrap();
        conn.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        for file in path.parent().unwrap().read_dir().unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }
}
