//! The directory in Redis, for several gateways. Each operation is one Lua script, so that it is atomic; the
//! keys are told at the head of `common.lua`.

mod news;
mod parse;

use std::{sync::LazyLock, time::Duration};

use deadpool_redis::{Manager, Pool, PoolError, Runtime};
use jetway_config::{Identity, SessionId, stores};
use redis::{AsyncConnectionConfig, FromRedisValue, Script, ScriptInvocation};

use self::{
    news::Exchange,
    parse::{Answer, Listed, Packed},
};
use super::{
    BATCH, Change, Claim, MARKED_FOR, MAX_MARKS, MAX_MEMBERS, MAX_RECORDS, Mark, New,
    entry::{Entry, Key, Lifetime, Place, UnixMs},
    error::{ChangeError, ClaimError, FenceError, ListError, MoveError, OpenError, StoreError},
    news::Outgoing,
    page::{List, Order, Page, Position, Sort},
    resolve::{Reference, Resolution, SHOWN},
};

/// What all keys begin with. One hash tag: a claim on a shared server looks beyond its tenant, and only
/// within a slot can it do so atomically.
const PREFIX: &str = "jetway:{directory}:";

/// The version of what is kept there; told at the head of `common.lua`. Gateways of the version before may run beside
/// those of this one: what they make has no lifetime until it is next used here.
const VERSION: u32 = 2;

/// How many connections. Redis works one script at a time: more only wait there instead of here.
const CONNECTIONS: usize = 8;

/// How long a connection or an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many entries one script looks at: Redis does nothing else meanwhile.
const LOOK_AT: usize = 1000;

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!($file))));)+
    };
}

scripts! {
    CHANGE = "change.lua";
    CLAIM = "claim.lua";
    DUE = "due.lua";
    FENCE = "fence.lua";
    FIND = "find.lua";
    FORGET = "forget.lua";
    LIST = "list.lua";
    MARK = "mark.lua";
    MIGRATE = "migrate.lua";
    MOVE = "move.lua";
    ORPHANS = "orphans.lua";
    RELEASE = "release.lua";
    RESOLVE = "resolve.lua";
    TOUCH = "touch.lua";
}

pub(super) struct Redis {
    pool: Pool,
    _exchange: Exchange,
}

/// The pool's own would show the password.
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    /// `outgoing` is told to all gateways, this one included.
    pub(super) async fn open(config: &stores::Redis, outgoing: Outgoing) -> Result<Self, OpenError> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let manager = Manager::new_with_config(config.url.expose(), settings).map_err(StoreError::from)?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .build()
            .map_err(|_| StoreError::Closed)?;
        let mut conn = pool.get().await.map_err(unpooled)?;
        let info: String =
            redis::cmd("INFO").arg("memory").query_async(&mut conn).await.map_err(StoreError::from)?;
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        match policy {
            Some("noeviction") => {
                let exchange = Exchange::start(config, pool.clone(), outgoing).map_err(StoreError::from)?;
                let store = Self { pool, _exchange: exchange };
                store.migrate().await?;
                Ok(store)
            }
            other => Err(OpenError::Evicts(other.unwrap_or_default().to_owned())),
        }
    }

    /// Brings what is there to this version, in steps: Redis does nothing else meanwhile.
    async fn migrate(&self) -> Result<(), OpenError> {
        let mut at = "0".to_owned();
        loop {
            let (next, later): (String, Option<u32>) =
                parse::maybe_more(self.run(MIGRATE.key(PREFIX).arg(VERSION).arg(&at)).await?)?;
            if let Some(found) = later {
                return Err(OpenError::NewerRedis { found, known: VERSION });
            }
            if next == "0" {
                return Ok(());
            }
            at = next;
        }
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let mut conn = self.pool.get().await.map_err(unpooled)?;
        Ok(script.invoke_async(&mut conn).await?)
    }

    pub(super) async fn claim(&self, key: Key, new: New, at: UnixMs) -> Result<Claim, ClaimError> {
        let mut call = of(&CLAIM, &key);
        put_place(&mut call, &new.place);
        call.arg(flag(new.ephemeral)).arg(at.0).arg(new.most);
        call.arg(number(Lifetime::of_new(new.ephemeral).unused_for));
        let (answer, entry): (Answer, Option<Packed>) = parse::pair(self.run(&call).await?)?;
        let claimed = |fresh| {
            let entry = entry.ok_or(StoreError::Corrupt("claim"))?.entry()?;
            Ok(Claim { entry, fresh })
        };
        match answer {
            Answer::Fresh => claimed(true),
            Answer::Known => claimed(false),
            Answer::Taken => Err(ClaimError::Taken),
            Answer::Full => Err(ClaimError::Full),
            _ => Err(nonsense().into()),
        }
    }

    pub(super) async fn release(&self, key: Key) -> Result<bool, StoreError> {
        self.run(&of(&RELEASE, &key)).await
    }

    pub(super) async fn release_orphans(&self, before: UnixMs) -> Result<usize, StoreError> {
        self.run(ORPHANS.key(PREFIX).arg(before.0).arg(BATCH)).await
    }

    pub(super) async fn move_to(
        &self,
        key: Key,
        epoch: u64,
        place: Place,
        at: UnixMs,
    ) -> Result<u64, MoveError> {
        let mut call = of(&MOVE, &key);
        call.arg(epoch);
        put_place(&mut call, &place);
        call.arg(at.0);
        let (answer, epoch): (Answer, Option<u64>) = parse::pair(self.run(&call).await?)?;
        match (answer, epoch) {
            (Answer::Ok, Some(epoch)) => Ok(epoch),
            (Answer::Stale, Some(epoch)) => Err(MoveError::Stale { epoch }),
            (Answer::Taken, _) => Err(MoveError::Taken),
            (Answer::None, _) => Err(MoveError::NotFound),
            _ => Err(nonsense().into()),
        }
    }

    pub(super) async fn change(&self, key: Key, change: Change, at: UnixMs) -> Result<(), ChangeError> {
        let mut call = of(&CHANGE, &key);
        call.arg(at.0);
        match &change {
            Change::Confirm => call.arg("confirm"),
            Change::Status(status, reason) => {
                call.arg("status").arg(status.as_str()).arg(reason.as_deref().unwrap_or_default());
                call.arg(flag(status.is_over())).arg(MAX_RECORDS)
            }
            Change::Name(Some(name)) => call.arg("name").arg(name.as_str()).arg(name.folded()),
            Change::Name(None) => call.arg("name").arg("").arg(""),
            Change::Share(members) => {
                let call = call.arg("share").arg(MAX_MEMBERS);
                members.iter().fold(call, |call, m| call.arg(m.user.as_str()).arg(m.role.as_str()))
            }
            Change::Note(note, Lifetime { ends, unused_for }) => {
                call.arg("note").arg(note.as_deref().unwrap_or_default());
                call.arg(number(ends.map(|at| at.0))).arg(number(*unused_for))
            }
            Change::Unshare(user) => call.arg("unshare").arg(user.as_str()),
        };
        match Answer::parse(&self.run::<String>(&call).await?) {
            Some(Answer::Ok) => Ok(()),
            Some(Answer::Full) => Err(ChangeError::Full),
            Some(Answer::None) => Err(ChangeError::NotFound),
            _ => Err(nonsense().into()),
        }
    }

    pub(super) async fn touch(&self, keys: Vec<Key>, at: UnixMs) -> Result<(), StoreError> {
        let mut call = TOUCH.key(PREFIX);
        call.arg(at.0);
        for key in &keys {
            put_key(&mut call, &key.owner, key.id.as_str());
        }
        self.run(&call).await
    }

    pub(super) async fn forget(&self, key: Key) -> Result<bool, StoreError> {
        self.run(&of(&FORGET, &key)).await
    }

    pub(super) async fn take_due(
        &self,
        at: UnixMs,
        again: UnixMs,
        most: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let found: Vec<Packed> = self.run(DUE.key(PREFIX).arg(at.0).arg(again.0).arg(most)).await?;
        found.iter().map(Packed::entry).collect()
    }

    pub(super) async fn mark(
        &self,
        who: Identity,
        name: String,
        mark: Mark,
        at: UnixMs,
    ) -> Result<Option<Mark>, StoreError> {
        let mut call = marked(&who, &name, "put");
        let kept = MARKED_FOR.as_millis() as u64;
        call.arg(mark.digest)
            .arg(mark.turn)
            .arg(at.0)
            .arg(at.0.saturating_sub(kept))
            .arg(kept)
            .arg(MAX_MARKS);
        let known: Vec<String> = self.run(&call).await?;
        match <[String; 3]>::try_from(known) {
            Ok([digest, turn, message]) => {
                Ok(Some(Mark { digest, turn, message: Some(message).filter(|m| !m.is_empty()) }))
            }
            Err(known) if known.is_empty() => Ok(None),
            Err(_) => Err(nonsense()),
        }
    }

    pub(super) async fn complete_mark(
        &self,
        who: Identity,
        name: String,
        message: String,
    ) -> Result<(), StoreError> {
        let _: Vec<String> = self.run(marked(&who, &name, "message").arg(message)).await?;
        Ok(())
    }

    pub(super) async fn unmark(&self, who: Identity, name: String) -> Result<(), StoreError> {
        let _: Vec<String> = self.run(&marked(&who, &name, "remove")).await?;
        Ok(())
    }

    pub(super) async fn record_fence(&self, key: Key, fence: u64) -> Result<(), FenceError> {
        let mut call = of(&FENCE, &key);
        let (answer, highest): (Answer, Option<u64>) = parse::pair(self.run(call.arg(fence)).await?)?;
        match (answer, highest) {
            (Answer::Ok, _) => Ok(()),
            (Answer::Superseded, Some(highest)) => Err(FenceError::Superseded { highest }),
            (Answer::None, _) => Err(FenceError::NotFound),
            _ => Err(nonsense().into()),
        }
    }

    pub(super) async fn find(&self, who: Identity, id: SessionId) -> Result<Option<Entry>, StoreError> {
        let mut call = FIND.key(PREFIX);
        put_key(&mut call, &who, id.as_str());
        let found: Vec<Packed> = self.run(&call).await?;
        found.first().map(Packed::entry).transpose()
    }

    pub(super) async fn resolve(
        &self,
        who: Identity,
        reference: Reference,
    ) -> Result<Resolution, StoreError> {
        let mut call = RESOLVE.key(PREFIX);
        call.arg(who.tenant.as_str()).arg(who.user.as_str());
        match &reference {
            Reference::Latest => call.arg("latest").arg("").arg(""),
            Reference::Text { id, folded } => {
                call.arg("text").arg(id.as_ref().map_or("", |id| id.as_str())).arg(folded)
            }
        };
        let found: Vec<Packed> = self.run(call.arg(SHOWN)).await?;
        Ok(Resolution::of(found.iter().map(Packed::entry).collect::<Result<_, _>>()?))
    }

    pub(super) async fn list(
        &self,
        who: Identity,
        list: List,
        after: Option<Position>,
    ) -> Result<Page, ListError> {
        let wanted = list.limit() + 1;
        let mut entries: Vec<Entry> = Vec::new();
        let mut after = after.map(|p| (p.at.to_string(), format!("{} {}", p.owner, p.id)));
        loop {
            let mut call = LIST.key(PREFIX);
            call.arg(who.tenant.as_str()).arg(who.user.as_str()).arg(list.status.map_or("", |s| s.as_str()));
            call.arg(match list.sort {
                Sort::Started => "started",
                Sort::Updated => "updated",
            });
            call.arg(match list.order {
                Order::Ascending => "asc",
                Order::Descending => "desc",
            });
            let (at, name) = after.unwrap_or_default();
            call.arg(wanted - entries.len()).arg(at).arg(name).arg(LOOK_AT);
            let Listed { ended, at, name, found } = Listed::parse(self.run(&call).await?);
            for packed in &found {
                entries.push(packed.entry()?);
            }
            if ended || entries.len() >= wanted {
                return Ok(list.page(entries));
            }
            after = Some((at, name));
        }
    }
}

fn of(script: &'static Script, key: &Key) -> ScriptInvocation<'static> {
    let mut call = script.key(PREFIX);
    put_key(&mut call, &key.owner, key.id.as_str());
    call
}

fn marked(who: &Identity, name: &str, what: &str) -> ScriptInvocation<'static> {
    let mut call = MARK.key(PREFIX);
    put_key(&mut call, who, name);
    call.arg(what);
    call
}

fn put_key(call: &mut ScriptInvocation<'_>, who: &Identity, id: &str) {
    call.arg(who.tenant.as_str()).arg(who.user.as_str()).arg(id);
}

fn put_place(call: &mut ScriptInvocation<'_>, place: &Place) {
    call.arg(place.domain().unwrap_or_default()).arg(&place.server);
    call.arg(place.group.as_deref().unwrap_or_default()).arg(flag(place.exclusive));
}

fn flag(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(String::new, |n| n.to_string())
}

fn nonsense() -> StoreError {
    StoreError::Corrupt("script's answer")
}

fn unpooled(e: PoolError) -> StoreError {
    match e {
        PoolError::Backend(e) => e.into(),
        PoolError::Timeout(_) => StoreError::Busy,
        _ => StoreError::Closed,
    }
}
