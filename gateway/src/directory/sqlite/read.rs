//! Questions. Each is answered from one snapshot.

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, named_params};

use jetway_config::Identity;

use crate::directory::{
    MAX_NUMBER,
    entry::{Entry, Key, Place, Status, UnixMs},
    error::StoreError,
    page::{List, Order, Page, Position, Sort},
    resolve::{Reference, Resolution, SHOWN},
    stored,
};

/// An entry, its members with it, of the table `s`.
macro_rules! entry {
    () => {
        "s.tenant, s.owner, s.id, s.name, s.status, s.reason, s.server, s.state, s.exclusive, s.claims = 0, \
         s.ephemeral, s.created, s.updated, s.last_used, s.ended, s.epoch, s.fence, s.note, s.started, \
         (SELECT group_concat(user || ' ' || role, char(10)) FROM member \
          WHERE tenant = s.tenant AND owner = s.owner AND id = s.id)"
    };
}

/// What is shared with the user. Left to itself, SQLite may look through all of a tenant's sessions.
macro_rules! shared {
    () => {
        "member m INDEXED BY member_sees CROSS JOIN session s ON s.tenant = m.tenant AND s.owner = m.owner AND s.id = m.id \
         WHERE m.tenant = :tenant AND m.user = :user"
    };
}

const GET: &str =
    concat!("SELECT ", entry!(), " FROM session s WHERE tenant = :tenant AND owner = :user AND id = :id");

/// The one that was shared first: a later one must not take its place.
const SHARED: &str =
    concat!("SELECT ", entry!(), " FROM ", shared!(), " AND m.id = :id ORDER BY m.since, m.owner LIMIT 1");

/// Those whose lifetime is over.
const DUE: &str = concat!("SELECT ", entry!(), " FROM session s WHERE due <= :at ORDER BY due LIMIT :limit");

const LATEST: &str = concat!(
    "SELECT ",
    entry!(),
    " FROM session s WHERE tenant = :tenant AND owner = :user AND status <> 'terminated'
     ORDER BY last_used DESC, id DESC LIMIT 1"
);

const NAMED: &str = concat!(
    "SELECT * FROM (SELECT ",
    entry!(),
    " FROM session s INDEXED BY session_named
      WHERE tenant = :tenant AND owner = :user AND folded = :name AND status <> 'terminated'
      UNION ALL SELECT ",
    entry!(),
    " FROM ",
    shared!(),
    " AND s.folded = :name) ORDER BY owner, id LIMIT :limit"
);

/// `~` comes after all that ids are made of.
const PREFIXED: &str = concat!(
    "SELECT * FROM (SELECT ",
    entry!(),
    " FROM session s WHERE tenant = :tenant AND owner = :user AND id >= :prefix AND id < :prefix || '~'
      AND status <> 'terminated' UNION ALL SELECT ",
    entry!(),
    " FROM ",
    shared!(),
    " AND m.id >= :prefix AND m.id < :prefix || '~') ORDER BY id, owner LIMIT :limit"
);

/// Both halves are cut before they are merged, so that a page costs what it holds.
fn list_sql(sort: Sort, order: Order) -> String {
    let by = match sort {
        Sort::Started => "created",
        Sort::Updated => "updated",
    };
    let (than, way) = match order {
        Order::Ascending => (">", "ASC"),
        Order::Descending => ("<", "DESC"),
    };
    // The first term alone is what an index can use.
    let half = format!(
        "(:status IS NULL OR s.status = :status) AND s.{by} {than}= :at \
         AND (s.{by}, s.owner, s.id) {than} (:at, :at_owner, :at_id) \
         ORDER BY s.{by} {way}, s.owner {way}, s.id {way} LIMIT :limit"
    );
    let (entry, shared) = (entry!(), shared!());
    format!(
        "SELECT * FROM (SELECT * FROM (SELECT {entry} FROM session s WHERE tenant = :tenant AND owner = :user AND {half}) \
         UNION ALL SELECT * FROM (SELECT {entry} FROM {shared} AND {half})) \
         ORDER BY {by} {way}, owner {way}, id {way} LIMIT :limit"
    )
}

/// The entry of that key, whatever its status.
pub(super) fn get(conn: &Connection, key: &Key) -> Result<Option<Entry>, StoreError> {
    owned(conn, &key.owner, key.id.as_str())
}

fn owned(conn: &Connection, who: &Identity, id: &str) -> Result<Option<Entry>, StoreError> {
    one(conn, GET, named_params! { ":tenant": who.tenant.as_str(), ":user": who.user.as_str(), ":id": id })
}

/// See [`Directory::find`](crate::directory::Directory::find).
pub(super) fn find(conn: &Connection, who: &Identity, id: &str) -> Result<Option<Entry>, StoreError> {
    match owned(conn, who, id)? {
        Some(own) if own.status != Status::Terminated => Ok(Some(own)),
        _ => one(
            conn,
            SHARED,
            named_params! { ":tenant": who.tenant.as_str(), ":user": who.user.as_str(), ":id": id },
        ),
    }
}

/// See [`Directory::resolve`](crate::directory::Directory::resolve).
pub(super) fn resolve(
    conn: &Connection,
    who: &Identity,
    reference: &Reference,
) -> Result<Resolution, StoreError> {
    let (tenant, user) = (who.tenant.as_str(), who.user.as_str());
    let (id, folded) = match reference {
        Reference::Latest => {
            let latest = one(conn, LATEST, named_params! { ":tenant": tenant, ":user": user })?;
            return Ok(Resolution::of(latest.into_iter().collect()));
        }
        Reference::Text { id, folded } => (id.as_ref(), folded),
    };
    if let Some(id) = id {
        // Its own record comes after what is alive, and before what is called like it.
        let exact = match find(conn, who, id.as_str())? {
            None => owned(conn, who, id.as_str())?,
            found => found,
        };
        if let Some(entry) = exact {
            return Ok(Resolution::One(Box::new(entry)));
        }
    }
    let limit = SHOWN as i64;
    let params = named_params! { ":tenant": tenant, ":user": user, ":name": folded, ":limit": limit };
    let named = many(conn, NAMED, params)?;
    if !named.is_empty() {
        return Ok(Resolution::of(named));
    }
    let Some(prefix) = id else { return Ok(Resolution::None) };
    let params =
        named_params! { ":tenant": tenant, ":user": user, ":prefix": prefix.as_str(), ":limit": limit };
    Ok(Resolution::of(many(conn, PREFIXED, params)?))
}

/// See [`Directory::list`](crate::directory::Directory::list).
pub(super) fn list(
    conn: &Connection,
    who: &Identity,
    list: &List,
    after: Option<Position>,
) -> Result<Page, StoreError> {
    let after = after.unwrap_or_else(|| {
        let at = if list.order == Order::Ascending { 0 } else { MAX_NUMBER + 1 };
        // Before all, or after all: nothing was claimed in 1970.
        Position { at, owner: String::new(), id: String::new() }
    });
    let params = named_params! {
        ":tenant": who.tenant.as_str(),
        ":user": who.user.as_str(),
        ":status": list.status.map(Status::as_str),
        ":at": after.at as i64,
        ":at_owner": after.owner,
        ":at_id": after.id,
        ":limit": list.limit() as i64 + 1,
    };
    Ok(list.page(many(conn, &list_sql(list.sort, list.order), params)?))
}

/// See [`Directory::take_due`](crate::directory::Directory::take_due).
pub(super) fn due(conn: &Connection, at: UnixMs, most: usize) -> Result<Vec<Entry>, StoreError> {
    many(conn, DUE, named_params! { ":at": at.0 as i64, ":limit": most as i64 })
}

fn one(conn: &Connection, sql: &str, params: &[(&str, &dyn ToSql)]) -> Result<Option<Entry>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    statement.query_row(params, |row| Ok(entry(row))).optional()?.transpose()
}

fn many(conn: &Connection, sql: &str, params: &[(&str, &dyn ToSql)]) -> Result<Vec<Entry>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(entry(row)?);
    }
    Ok(entries)
}

fn entry(row: &Row<'_>) -> Result<Entry, StoreError> {
    let text =
        |i| -> Result<&str, StoreError> { Ok(row.get_ref(i)?.as_str().map_err(rusqlite::Error::from)?) };
    let maybe = |i| -> Result<Option<&str>, StoreError> {
        Ok(row.get_ref(i)?.as_str_or_null().map_err(rusqlite::Error::from)?)
    };
    let number = |i| row.get::<_, i64>(i).map(|n| n as u64);
    let time = |i| row.get::<_, Option<i64>>(i).map(|at| at.map(|at| UnixMs(at as u64)));
    Ok(Entry {
        key: stored::key(text(0)?, text(1)?, text(2)?)?,
        name: stored::name(maybe(3)?)?,
        members: stored::members(maybe(19)?.unwrap_or_default())?,
        status: stored::status(text(4)?)?,
        reason: row.get(5)?,
        place: Place { server: row.get(6)?, group: row.get(7)?, exclusive: row.get(8)? },
        confirmed: row.get(9)?,
        ephemeral: row.get(10)?,
        created: UnixMs(number(11)?),
        started: time(18)?,
        updated: UnixMs(number(12)?),
        last_used: UnixMs(number(13)?),
        ended: time(14)?,
        epoch: number(15)?,
        fence: number(16)?,
        note: row.get::<_, Option<String>>(17)?.map(Into::into),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::sqlite::schema;

    /// What a question costs must not grow with what others have.
    #[test]
    fn no_question_walks_a_table() {
        let dir = tempfile::tempdir().unwrap();
        let conn = schema::open(&dir.path().join("plan.sqlite")).unwrap();
        let lists = [Sort::Started, Sort::Updated]
            .map(|s| [Order::Ascending, Order::Descending].map(|o| list_sql(s, o)));
        let fixed = [GET, SHARED, DUE, LATEST, NAMED, PREFIXED].map(str::to_owned);
        for sql in fixed.iter().chain(lists.as_flattened()) {
            let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut steps = plan.raw_query();
            while let Some(step) = steps.next().unwrap() {
                let step: String = step.get(3).unwrap();
                let walks = ["SCAN s", "SCAN m", "SCAN member"].contains(&step.as_str());
                let broad = ["PRIMARY KEY (tenant=?)", "PRIMARY KEY (tenant=? AND owner=?)"];
                assert!(!walks && !broad.iter().any(|b| step.ends_with(b)), "{sql}: {step}");
            }
        }
    }
}
