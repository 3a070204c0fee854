//! Changes. Each is made in the transaction that it is given, by the one thread that makes changes.

use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::read;
use crate::directory::{
    Change, Claim, MAX_MEMBERS, MAX_NUMBER, MAX_RECORDS, New,
    entry::{Entry, Key, Lifetime, Place, Status, UnixMs},
    error::{ChangeError, ClaimError, FenceError, MoveError, StoreError},
};
use jetway_config::Identity;

/// An answer inside, a broken store outside: only the latter undoes the transaction.
type Answer<T, E> = Result<Result<T, E>, StoreError>;

/// When a session's lifetime is over, from its columns as they are before a change; `{}` is its last use.
fn due(last_used: &str) -> String {
    let never = MAX_NUMBER;
    format!(
        "iif(ends IS NULL AND unused_for IS NULL, NULL,
           min(ifnull(ends, {never}), ifnull({last_used} + unused_for, {never})))"
    )
}

/// The row of a key that is alive.
const LIVE: &str = "tenant = ?1 AND owner = ?2 AND id = ?3 AND status <> 'terminated'";

pub(super) fn claim(conn: &Connection, key: &Key, new: &New, at: UnixMs) -> Answer<Claim, ClaimError> {
    let New { place, ephemeral, most } = new;
    let known = read::get(conn, key)?;
    if known.as_ref().is_some_and(|entry| entry.status != Status::Terminated) {
        let sql = format!(
            "UPDATE session SET claims = claims + 1, updated = max(updated, ?4) WHERE {LIVE} AND claims > 0"
        );
        execute(conn, &sql, key, [at.0 as i64])?;
        return Ok(Ok(Claim { entry: present(conn, key)?, fresh: false }));
    }
    if taken(conn, key, place)? {
        return Ok(Err(ClaimError::Taken));
    }
    if live(conn, &key.owner)? >= *most as i64 {
        return Ok(Err(ClaimError::Full));
    }
    forget(conn, key)?;
    let (epoch, fence) = known.map_or((0, 0), |record| (record.epoch, record.fence));
    let mut insert = conn.prepare_cached(
        "INSERT INTO session (tenant, owner, id, status, server, state, exclusive, domain, ephemeral, claims,
           created, updated, last_used, epoch, fence, unused_for, due)
         VALUES (:tenant, :owner, :id, 'pending', :server, :state, :exclusive, :domain, :ephemeral, 1,
           :at, :at, :at, :epoch, :fence, :unused_for, :at + :unused_for)",
    )?;
    insert.execute(named_params! {
        ":tenant": key.owner.tenant.as_str(),
        ":owner": key.owner.user.as_str(),
        ":id": key.id.as_str(),
        ":server": place.server,
        ":state": place.group,
        ":exclusive": place.exclusive,
        ":domain": place.domain(),
        ":ephemeral": ephemeral,
        ":at": at.0 as i64,
        ":epoch": epoch as i64 + 1,
        ":fence": fence as i64,
        ":unused_for": Lifetime::of_new(*ephemeral).unused_for.map(|ms| ms as i64),
    })?;
    Ok(Ok(Claim { entry: present(conn, key)?, fresh: true }))
}

/// Whether another holds the id at that place.
fn taken(conn: &Connection, key: &Key, place: &Place) -> Result<bool, StoreError> {
    let Some(domain) = place.domain() else { return Ok(false) };
    let mut holder =
        conn.prepare_cached("SELECT tenant, owner FROM session WHERE domain = ?1 AND id = ?2")?;
    let found = holder
        .query_row(params![domain, key.id.as_str()], |row| {
            Ok(row.get_ref(0)?.as_str()? == key.owner.tenant.as_str()
                && row.get_ref(1)?.as_str()? == key.owner.user.as_str())
        })
        .optional()?;
    Ok(found == Some(false))
}

fn live(conn: &Connection, owner: &Identity) -> Result<i64, StoreError> {
    let sql = "SELECT live FROM holder WHERE tenant = ?1 AND user = ?2";
    let params = params![owner.tenant.as_str(), owner.user.as_str()];
    Ok(conn.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()?.unwrap_or(0))
}

pub(super) fn release(conn: &Connection, key: &Key) -> Result<bool, StoreError> {
    let last = format!("DELETE FROM session WHERE {LIVE} AND claims = 1");
    if execute(conn, &last, key, [])? > 0 {
        return Ok(true);
    }
    let one = format!("UPDATE session SET claims = claims - 1 WHERE {LIVE} AND claims > 1");
    execute(conn, &one, key, [])?;
    Ok(false)
}

pub(super) fn release_orphans(conn: &Connection, before: UnixMs, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM session WHERE (tenant, owner, id) IN
       (SELECT tenant, owner, id FROM session WHERE claims > 0 AND updated < ?1 ORDER BY updated LIMIT ?2)";
    Ok(conn.prepare_cached(sql)?.execute([before.0 as i64, most as i64])?)
}

pub(super) fn move_to(
    conn: &Connection,
    key: &Key,
    epoch: u64,
    place: &Place,
    at: UnixMs,
) -> Answer<u64, MoveError> {
    let Some(entry) = alive(conn, key)? else { return Ok(Err(MoveError::NotFound)) };
    if entry.epoch != epoch {
        return Ok(Err(MoveError::Stale { epoch: entry.epoch }));
    }
    if taken(conn, key, place)? {
        return Ok(Err(MoveError::Taken));
    }
    let sql = format!(
        "UPDATE session SET server = ?4, state = ?5, exclusive = ?6, domain = ?7, epoch = epoch + 1,
           updated = max(updated, ?8) WHERE {LIVE}"
    );
    conn.prepare_cached(&sql)?.execute(params![
        key.owner.tenant.as_str(),
        key.owner.user.as_str(),
        key.id.as_str(),
        place.server,
        place.group,
        place.exclusive,
        place.domain(),
        at.0 as i64,
    ])?;
    Ok(Ok(epoch + 1))
}

pub(super) fn change(conn: &Connection, key: &Key, change: &Change, at: UnixMs) -> Answer<(), ChangeError> {
    let touched = match change {
        Change::Confirm => {
            let sql = format!(
                "UPDATE session SET claims = 0, last_used = max(last_used, ?4), updated = max(updated, ?4),
                   started = iif(status = 'pending' AND reason IS NULL, ifnull(started, ?4), started),
                   status = iif(status = 'pending' AND reason IS NULL, 'running', status) WHERE {LIVE}"
            );
            execute(conn, &sql, key, [at.0 as i64])?
        }
        Change::Status(status, reason) => set_status(conn, key, *status, reason.as_deref(), at)?,
        Change::Name(name) => {
            let sql =
                format!("UPDATE session SET name = ?4, folded = ?5, updated = max(updated, ?6) WHERE {LIVE}");
            conn.prepare_cached(&sql)?.execute(params![
                key.owner.tenant.as_str(),
                key.owner.user.as_str(),
                key.id.as_str(),
                name.as_ref().map(|n| n.as_str()),
                name.as_ref().map(|n| n.folded()),
                at.0 as i64,
            ])?
        }
        Change::Note(note, lifetime) => set_note(conn, key, note.as_deref(), *lifetime, at)?,
        Change::Share(_) | Change::Unshare(_) => return share(conn, key, change, at),
    };
    Ok(if touched > 0 { Ok(()) } else { Err(ChangeError::NotFound) })
}

fn set_note(
    conn: &Connection,
    key: &Key,
    note: Option<&str>,
    Lifetime { ends, unused_for }: Lifetime,
    at: UnixMs,
) -> Result<usize, StoreError> {
    let (tenant, owner, id) = (key.owner.tenant.as_str(), key.owner.user.as_str(), key.id.as_str());
    let sql = format!(
        "UPDATE session SET note = ?4, updated = max(updated, ?5), ends = ?6, unused_for = ?7 WHERE {LIVE}"
    );
    let (ends, unused_for) = (ends.map(|at| at.0 as i64), unused_for.map(|ms| ms as i64));
    let values = params![tenant, owner, id, note, at.0 as i64, ends, unused_for];
    let touched = conn.prepare_cached(&sql)?.execute(values)?;
    execute(conn, &format!("UPDATE session SET due = {} WHERE {LIVE}", due("last_used")), key, [])?;
    Ok(touched)
}

pub(super) fn take_due(
    conn: &Connection,
    at: UnixMs,
    again: UnixMs,
    most: usize,
) -> Result<Vec<Entry>, StoreError> {
    let found = read::due(conn, at, most)?;
    for entry in &found {
        execute(conn, &format!("UPDATE session SET due = ?4 WHERE {LIVE}"), &entry.key, [again.0 as i64])?;
    }
    Ok(found)
}

fn set_status(
    conn: &Connection,
    key: &Key,
    status: Status,
    reason: Option<&str>,
    at: UnixMs,
) -> Result<usize, StoreError> {
    let over = status == Status::Terminated;
    let sql = format!(
        "UPDATE session SET status = ?4, reason = ?5, ended = ?6, updated = max(updated, ?7),
           domain = iif(?8, NULL, domain), claims = iif(?8, 0, claims), due = iif(?8, NULL, due),
           started = iif(?4 = 'running', ifnull(started, ?7), started) WHERE {LIVE}"
    );
    let (tenant, owner, id) = (key.owner.tenant.as_str(), key.owner.user.as_str(), key.id.as_str());
    let ended = status.is_over().then_some(at.0 as i64);
    let touched = conn.prepare_cached(&sql)?.execute(params![
        tenant,
        owner,
        id,
        status.as_str(),
        reason,
        ended,
        at.0 as i64,
        over
    ])?;
    if over && touched > 0 {
        let unshare = "DELETE FROM member WHERE tenant = ?1 AND owner = ?2 AND id = ?3";
        conn.prepare_cached(unshare)?.execute([tenant, owner, id])?;
        // The oldest records make room.
        let sql = "DELETE FROM session WHERE (tenant, owner, id) IN (SELECT tenant, owner, id FROM session
           WHERE tenant = ?1 AND owner = ?2 AND status = 'terminated' ORDER BY ended DESC, id DESC LIMIT -1 OFFSET ?3)";
        conn.prepare_cached(sql)?.execute(params![tenant, owner, MAX_RECORDS as i64])?;
    }
    Ok(touched)
}

fn share(conn: &Connection, key: &Key, change: &Change, at: UnixMs) -> Answer<(), ChangeError> {
    let Some(entry) = alive(conn, key)? else { return Ok(Err(ChangeError::NotFound)) };
    let (tenant, owner, id) = (key.owner.tenant.as_str(), key.owner.user.as_str(), key.id.as_str());
    match change {
        Change::Share(members) => {
            let new = members.iter().filter(|m| entry.members.iter().all(|had| had.user != m.user)).count();
            if entry.members.len() + new > MAX_MEMBERS {
                return Ok(Err(ChangeError::Full));
            }
            // Whoever was a member already stays one since then.
            let mut put = conn.prepare_cached(
                "INSERT INTO member (tenant, user, id, owner, role, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET role = excluded.role",
            )?;
            for m in members {
                put.execute(params![tenant, m.user.as_str(), id, owner, m.role.as_str(), at.0 as i64])?;
            }
        }
        Change::Unshare(user) => {
            let sql = "DELETE FROM member WHERE tenant = ?1 AND owner = ?2 AND id = ?3 AND user = ?4";
            if conn.prepare_cached(sql)?.execute([tenant, owner, id, user.as_str()])? == 0 {
                return Ok(Err(ChangeError::NotFound));
            }
        }
        Change::Confirm | Change::Status(..) | Change::Name(_) | Change::Note(..) => {}
    }
    touch(conn, std::slice::from_ref(key), at, false)?;
    Ok(Ok(()))
}

pub(super) fn touch(conn: &Connection, keys: &[Key], at: UnixMs, used: bool) -> Result<(), StoreError> {
    let due = due("max(last_used, ?4)");
    let sql = format!(
        "UPDATE session SET updated = max(updated, ?4), last_used = iif(?5, max(last_used, ?4), last_used),
           due = iif(?5 AND unused_for IS NOT NULL, {due}, due) WHERE {LIVE}"
    );
    for key in keys {
        execute(conn, &sql, key, [at.0 as i64, used.into()])?;
    }
    Ok(())
}

pub(super) fn forget(conn: &Connection, key: &Key) -> Result<bool, StoreError> {
    let sql = "DELETE FROM session WHERE tenant = ?1 AND owner = ?2 AND id = ?3";
    Ok(execute(conn, sql, key, [])? > 0)
}

pub(super) fn record_fence(conn: &Connection, key: &Key, fence: u64) -> Answer<(), FenceError> {
    let Some(entry) = alive(conn, key)? else { return Ok(Err(FenceError::NotFound)) };
    if fence < entry.fence {
        return Ok(Err(FenceError::Superseded { highest: entry.fence }));
    }
    if fence > entry.fence {
        execute(conn, &format!("UPDATE session SET fence = ?4 WHERE {LIVE}"), key, [fence as i64])?;
    }
    Ok(Ok(()))
}

fn alive(conn: &Connection, key: &Key) -> Result<Option<Entry>, StoreError> {
    Ok(read::get(conn, key)?.filter(|entry| entry.status != Status::Terminated))
}

fn present(conn: &Connection, key: &Key) -> Result<Entry, StoreError> {
    read::get(conn, key)?.ok_or(StoreError::Corrupt("claim"))
}

/// `?1` to `?3` are the key, what follows is given.
fn execute<const N: usize>(
    conn: &Connection,
    sql: &str,
    key: &Key,
    more: [i64; N],
) -> Result<usize, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let (tenant, owner, id) = (key.owner.tenant.as_str(), key.owner.user.as_str(), key.id.as_str());
    for (i, text) in [tenant, owner, id].into_iter().enumerate() {
        statement.raw_bind_parameter(i + 1, text)?;
    }
    for (i, number) in more.into_iter().enumerate() {
        statement.raw_bind_parameter(i + 4, number)?;
    }
    Ok(statement.raw_execute()?)
}
