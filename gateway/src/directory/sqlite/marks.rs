//! What named requests came to.

use rusqlite::{Connection, OptionalExtension as _, params};

use jetway_config::Identity;

use crate::directory::{MARKED_FOR, MAX_MARKS, Mark, entry::UnixMs, error::StoreError};

pub(super) fn put(
    conn: &Connection,
    who: &Identity,
    name: &str,
    mark: &Mark,
    at: UnixMs,
) -> Result<Option<Mark>, StoreError> {
    let (tenant, user) = (who.tenant.as_str(), who.user.as_str());
    let old = at.0.saturating_sub(MARKED_FOR.as_millis() as u64);
    conn.prepare_cached("DELETE FROM mark WHERE tenant = ?1 AND user = ?2 AND at < ?3")?
        .execute(params![tenant, user, old as i64])?;
    let known = conn
        .prepare_cached(
            "SELECT digest, turn, message FROM mark WHERE tenant = ?1 AND user = ?2 AND name = ?3",
        )?
        .query_row(params![tenant, user, name], |row| {
            Ok(Mark { digest: row.get(0)?, turn: row.get(1)?, message: row.get(2)? })
        })
        .optional()?;
    if known.is_some() {
        return Ok(known);
    }
    // The oldest make room.
    conn.prepare_cached(
        "DELETE FROM mark WHERE (tenant, user, name) IN
           (SELECT tenant, user, name FROM mark WHERE tenant = ?1 AND user = ?2 ORDER BY at DESC LIMIT -1 OFFSET ?3)",
    )?
    .execute(params![tenant, user, MAX_MARKS as i64 - 1])?;
    conn.prepare_cached("INSERT INTO mark VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
        tenant,
        user,
        name,
        mark.digest,
        mark.turn,
        mark.message,
        at.0 as i64
    ])?;
    Ok(None)
}

pub(super) fn complete(
    conn: &Connection,
    who: &Identity,
    name: &str,
    message: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE mark SET message = ?4 WHERE tenant = ?1 AND user = ?2 AND name = ?3";
    let params = params![who.tenant.as_str(), who.user.as_str(), name, message];
    conn.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

pub(super) fn remove(conn: &Connection, who: &Identity, name: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM mark WHERE tenant = ?1 AND user = ?2 AND name = ?3";
    conn.prepare_cached(sql)?.execute(params![who.tenant.as_str(), who.user.as_str(), name])?;
    Ok(())
}
