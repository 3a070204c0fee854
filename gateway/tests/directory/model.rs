//! Random operations against a naive directory: a map, searched from end to end.

use std::collections::BTreeMap;

use jetway_config::Identity;
use jetway_gateway::directory::{
    ChangeError, Claim, ClaimError, Directory, Entry, FenceError, Key, Lifetime, List, Member, MoveError,
    Name, New, Order, Place, Resolution, Role, SHOWN, Sort, Status, UnixMs,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{T, id, store::Store, who};

#[derive(Default)]
struct Model(BTreeMap<Key, Known>);

struct Known {
    entry: Entry,
    claims: u32,
    lifetime: Lifetime,
    /// When that is over, or is to be looked at again.
    due: Option<UnixMs>,
    /// When each member became one.
    since: BTreeMap<String, UnixMs>,
}

/// One step: what is done, to which session, by whom, where, when, and a number for what else is needed.
type Step = (u8, usize, usize, usize, u64, u8);

const USERS: [&str; 4] = ["acme/ada", "acme/ada-b", "acme/bob", "globex/ada"];
const IDS: [&str; 4] = ["s", "s-1", "s-2", "S"];
const NAMES: [&str; 4] = ["Work", "wORK", "s", "Ünder"];
const REFERENCES: [&str; 10] = ["latest", "s", "s-1", "S", "t", "work", "üNDER", "", "s-", "x y"];

fn places() -> [Place; 4] {
    let place = |server: &str, group: Option<&str>, exclusive| Place {
        server: server.to_owned(),
        group: group.map(str::to_owned),
        exclusive,
    };
    [
        place("own", None, true),
        place("a:1", None, false),
        place("b:1", Some("g"), false),
        place("c:1", Some("g"), false),
    ]
}

fn domain(place: &Place) -> Option<(bool, &str)> {
    (!place.exclusive).then_some(match &place.group {
        Some(group) => (true, group.as_str()),
        None => (false, place.server.as_str()),
    })
}

impl Known {
    fn is_live(&self) -> bool {
        self.entry.status != Status::Terminated
    }

    fn is_mine(&self, who: &Identity) -> bool {
        self.entry.key.owner == *who
    }

    fn is_shown(&self, who: &Identity) -> bool {
        self.entry.role_of(who).is_some()
    }

    fn set_due(&mut self) {
        let Lifetime { ends, unused_for } = self.lifetime;
        let unused = unused_for.map(|ms| UnixMs(self.entry.last_used.0 + ms));
        self.due = ends.into_iter().chain(unused).min();
    }

    fn update(&mut self, at: UnixMs) {
        self.entry.updated = self.entry.updated.max(at);
    }
}

impl Model {
    fn live(&mut self, key: &Key) -> Option<&mut Known> {
        self.0.get_mut(key).filter(|k| k.is_live())
    }

    fn is_taken(&self, key: &Key, place: &Place) -> bool {
        let holds = |k: &Known| k.is_live() && domain(&k.entry.place) == domain(place);
        domain(place).is_some()
            && self.0.values().any(|k| k.entry.key != *key && k.entry.key.id == key.id && holds(k))
    }

    fn claim(&mut self, key: &Key, new: &New, at: UnixMs) -> Result<Claim, ClaimError> {
        if let Some(known) = self.live(key) {
            if known.claims > 0 {
                known.claims += 1;
                known.update(at);
            }
            return Ok(Claim { entry: known.entry.clone(), fresh: false });
        }
        if self.is_taken(key, &new.place) {
            return Err(ClaimError::Taken);
        }
        if self.0.values().filter(|k| k.is_live() && k.is_mine(&key.owner)).count() >= new.most {
            return Err(ClaimError::Full);
        }
        let (epoch, fence) = self.0.get(key).map_or((0, 0), |old| (old.entry.epoch, old.entry.fence));
        let entry = Entry {
            key: key.clone(),
            name: None,
            members: Vec::new(),
            status: Status::Pending,
            reason: None,
            place: new.place.clone(),
            confirmed: false,
            ephemeral: new.ephemeral,
            created: at,
            started: None,
            updated: at,
            last_used: at,
            ended: None,
            epoch: epoch + 1,
            fence,
            note: None,
        };
        let lifetime = Lifetime::of_new(new.ephemeral);
        let mut known =
            Known { entry: entry.clone(), claims: 1, lifetime, due: None, since: BTreeMap::new() };
        known.set_due();
        self.0.insert(key.clone(), known);
        Ok(Claim { entry, fresh: true })
    }

    fn release(&mut self, key: &Key) -> bool {
        let Some(known) = self.live(key).filter(|k| k.claims > 0) else { return false };
        known.claims -= 1;
        let last = known.claims == 0;
        if last {
            self.0.remove(key);
        }
        last
    }

    fn release_orphans(&mut self, before: UnixMs) -> usize {
        let had = self.0.len();
        self.0.retain(|_, k| k.claims == 0 || k.entry.updated >= before);
        had - self.0.len()
    }

    fn change(
        &mut self,
        key: &Key,
        at: UnixMs,
        change: impl FnOnce(&mut Known) -> Result<(), ChangeError>,
    ) -> Result<(), ChangeError> {
        let known = self.live(key).ok_or(ChangeError::NotFound)?;
        change(known)?;
        known.update(at);
        known.entry.confirmed = known.claims == 0;
        Ok(())
    }

    fn move_to(&mut self, key: &Key, epoch: u64, place: &Place, at: UnixMs) -> Result<u64, MoveError> {
        let taken = self.is_taken(key, place);
        let known = self.live(key).ok_or(MoveError::NotFound)?;
        if known.entry.epoch != epoch {
            return Err(MoveError::Stale { epoch: known.entry.epoch });
        }
        if taken {
            return Err(MoveError::Taken);
        }
        known.entry.place = place.clone();
        known.entry.epoch += 1;
        known.update(at);
        Ok(known.entry.epoch)
    }

    fn take_due(&mut self, at: UnixMs, again: UnixMs) -> Vec<Entry> {
        let over = |k: &&mut Known| k.is_live() && k.due.is_some_and(|due| due <= at);
        let mut found: Vec<&mut Known> = self.0.values_mut().filter(over).collect();
        found.sort_by_key(|k| (k.due, k.entry.key.clone()));
        let take = |k: &mut Known| {
            k.due = Some(again);
            k.entry.clone()
        };
        found.into_iter().map(take).collect()
    }

    fn record_fence(&mut self, key: &Key, fence: u64) -> Result<(), FenceError> {
        let known = self.live(key).ok_or(FenceError::NotFound)?;
        if fence < known.entry.fence {
            return Err(FenceError::Superseded { highest: known.entry.fence });
        }
        known.entry.fence = fence;
        Ok(())
    }

    fn find(&self, who: &Identity, id: &str) -> Option<&Entry> {
        let named =
            self.0.values().filter(|k| k.is_live() && k.is_shown(who) && k.entry.key.id.as_str() == id);
        let rank = |k: &&Known| {
            let owner = k.entry.key.owner.user.as_str().to_owned();
            if k.is_mine(who) { (0, UnixMs(0), owner) } else { (1, k.since[who.user.as_str()], owner) }
        };
        named.min_by_key(rank).map(|k| &k.entry)
    }

    fn resolve(&self, who: &Identity, reference: &str) -> Resolution {
        let shown = |k: &&Known| k.is_live() && k.is_shown(who);
        let entries = |found: Vec<&Known>| match found[..] {
            [] => Resolution::None,
            [one] => Resolution::One(Box::new(one.entry.clone())),
            _ => Resolution::Ambiguous(found.iter().take(SHOWN).map(|k| k.entry.clone()).collect()),
        };
        if reference == "latest" {
            let mine = self.0.values().filter(|k| k.is_live() && k.is_mine(who));
            let latest = mine.max_by_key(|k| (k.entry.last_used, k.entry.key.id.clone()));
            return entries(latest.into_iter().collect());
        }
        let record = || self.0.values().find(|k| k.is_mine(who) && k.entry.key.id.as_str() == reference);
        if let Some(entry) = self.find(who, reference).or_else(|| record().map(|k| &k.entry)) {
            return Resolution::One(Box::new(entry.clone()));
        }
        let called = |k: &&Known| {
            let name = k.entry.name.as_ref().map(|n| n.as_str().to_lowercase());
            name == Some(reference.to_lowercase())
        };
        let named: Vec<&Known> = self.0.values().filter(shown).filter(called).collect();
        if !named.is_empty() {
            return entries(named);
        }
        let begins = |k: &&Known| !reference.is_empty() && k.entry.key.id.as_str().starts_with(reference);
        let mut begun: Vec<&Known> = self.0.values().filter(shown).filter(begins).collect();
        begun.sort_by_key(|k| (k.entry.key.id.clone(), k.entry.key.owner.clone()));
        entries(begun)
    }

    fn list(&self, who: &Identity, list: &List) -> Vec<Entry> {
        let wanted = |k: &&Known| k.is_shown(who) && list.status.is_none_or(|s| s == k.entry.status);
        let mut found: Vec<Entry> = self.0.values().filter(wanted).map(|k| k.entry.clone()).collect();
        let at = |e: &Entry| if list.sort == Sort::Started { e.created } else { e.updated };
        found.sort_by_key(|e| (at(e), e.key.owner.clone(), e.key.id.clone()));
        if list.order == Order::Descending {
            found.reverse();
        }
        found
    }
}

/// Answers are compared as they are shown: errors know no equality.
fn same<T: std::fmt::Debug>(what: &str, real: T, model: T) -> Result<(), TestCaseError> {
    let (real, model) = (format!("{real:?}"), format!("{model:?}"));
    prop_assert_eq!(real, model, "{}", what);
    Ok(())
}

async fn step(d: &Directory, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    let (op, user, name, place, ms, n) = step;
    let key = Key { owner: who(USERS[user]), id: id(IDS[name]) };
    let (place, at) = (&places()[place], UnixMs(T.0 + ms));
    let new = New { place: place.clone(), ephemeral: n % 2 == 0, most: 3 };
    let other = who(USERS[n as usize % 3]).user;
    match op {
        0..7 => same("claim", d.claim(&key, &new, at).await, model.claim(&key, &new, at)),
        7..11 => {
            let confirm = |k: &mut Known| {
                k.claims = 0;
                k.entry.last_used = k.entry.last_used.max(at);
                if k.entry.status == Status::Pending && k.entry.reason.is_none() {
                    k.entry.status = Status::Running;
                    k.entry.started.get_or_insert(at);
                }
                Ok(())
            };
            same("confirm", d.confirm(&key, at).await, model.change(&key, at, confirm))
        }
        11 => same("release", d.release(&key).await.unwrap(), model.release(&key)),
        12 => same("orphans", d.release_orphans(at).await.unwrap(), model.release_orphans(at)),
        13..15 => {
            let epoch = 1 + u64::from(n % 4);
            same("move", d.move_to(&key, epoch, place, at).await, model.move_to(&key, epoch, place, at))
        }
        15 => {
            d.touch(std::slice::from_ref(&key), at).await.unwrap();
            let used = |k: &mut Known| {
                k.entry.last_used = k.entry.last_used.max(at);
                if k.lifetime.unused_for.is_some() {
                    k.set_due();
                }
                Ok(())
            };
            let _ = model.change(&key, at, used);
            Ok(())
        }
        16 | 17 => {
            let status = Status::ALL[n as usize % Status::ALL.len()];
            let end = |k: &mut Known| {
                k.entry.status = status;
                k.entry.reason = Some("why".to_owned());
                k.entry.ended = status.is_over().then_some(at);
                if status == Status::Running {
                    k.entry.started.get_or_insert(at);
                }
                if status == Status::Terminated {
                    k.claims = 0;
                    k.entry.members.clear();
                    k.since.clear();
                }
                Ok(())
            };
            same("status", d.set_status(&key, status, Some("why"), at).await, model.change(&key, at, end))
        }
        18 => {
            let name: Option<Name> = NAMES.get(n as usize % 5).map(|name| name.parse().unwrap());
            let rename = |k: &mut Known| {
                k.entry.name.clone_from(&name);
                Ok(())
            };
            same("rename", d.rename(&key, name.as_ref(), at).await, model.change(&key, at, rename))?;
            let text = NAMES.get(n as usize / 5 % 5).copied();
            let lifetime = Lifetime {
                ends: (n % 3 == 0).then_some(UnixMs(at.0 + 5)),
                unused_for: (n % 4 == 0).then_some(u64::from(n % 8)),
            };
            let note = |k: &mut Known| {
                k.entry.note = text.map(Into::into);
                k.lifetime = lifetime;
                k.set_due();
                Ok(())
            };
            same("note", d.set_note(&key, text, lifetime, at).await, model.change(&key, at, note))
        }
        29 => {
            let again = UnixMs(at.0 + u64::from(n % 16));
            same("due", d.take_due(at, again, 100).await.unwrap(), model.take_due(at, again))
        }
        19..25 => {
            let new = Member { user: other, role: Role::ALL[n as usize % 3] };
            let share = |k: &mut Known| {
                if new.user != k.entry.key.owner.user {
                    k.since.entry(new.user.to_string()).or_insert(at);
                    k.entry.members.retain(|m| m.user != new.user);
                    k.entry.members.push(new.clone());
                    k.entry.members.sort_by_key(|m| m.user.clone());
                }
                Ok(())
            };
            let real = d.set_members(&key, std::slice::from_ref(&new), at).await;
            same("share", real, model.change(&key, at, share))
        }
        25 => {
            let unshare = |k: &mut Known| {
                let had = k.since.remove(other.as_str());
                k.entry.members.retain(|m| m.user != other);
                had.map(|_| ()).ok_or(ChangeError::NotFound)
            };
            same("unshare", d.remove_member(&key, &other, at).await, model.change(&key, at, unshare))
        }
        26 => same("forget", d.forget(&key).await.unwrap(), model.0.remove(&key).is_some()),
        _ => same("fence", d.record_fence(&key, n.into()).await, model.record_fence(&key, n.into())),
    }
}

/// What else can be asked, by one user.
async fn ask(d: &Directory, model: &Model, (_, user, _, order, ms, n): Step) -> Result<(), TestCaseError> {
    let who = who(USERS[user]);
    let reference = REFERENCES[n as usize % REFERENCES.len()];
    same("resolve", d.resolve(&who, reference).await.unwrap(), model.resolve(&who, reference))?;
    let mut list = List {
        status: Status::ALL.get(n as usize % 9).copied(),
        sort: if order & 1 == 0 { Sort::Started } else { Sort::Updated },
        order: if order & 2 == 0 { Order::Ascending } else { Order::Descending },
        limit: 1 + ms as usize % 4,
        cursor: None,
    };
    let mut listed = Vec::new();
    loop {
        let page = d.list(&who, &list).await.unwrap();
        prop_assert!(page.entries.len() <= list.limit);
        listed.extend(page.entries);
        let Some(next) = page.next else { break };
        list.cursor = Some(next);
    }
    same("list", listed, model.list(&who, &list))
}

fn check(store: &mut Store, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Few users, ids and moments, so that they meet.
    let one = (0..30_u8, 0..USERS.len(), 0..IDS.len(), 0..4_usize, 0..12_u64, any::<u8>());
    let steps = proptest::collection::vec(one, 1..200);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let store = std::cell::RefCell::new(store);
    let checked = TestRunner::new(config).run(&steps, |steps| {
        let mut store = store.borrow_mut();
        store.wipe();
        runtime.block_on(async {
            let (d, mut model) = (store.open().await, Model::default());
            for (i, one) in steps.iter().enumerate() {
                step(&d, &mut model, *one).await?;
                for user in USERS.map(who) {
                    let id = id(IDS[one.2]);
                    same("find", d.find(&user, &id).await.unwrap().as_ref(), model.find(&user, id.as_str()))?;
                }
                ask(&d, &model, steps[steps.len() - 1 - i]).await?;
            }
            d.close().await;
            Ok(())
        })
    });
    checked.unwrap_or_else(|e| panic!("{e}"));
}

/// `JETWAY_LONG=1` asks for the long form.
fn long() -> u32 {
    if std::env::var_os("JETWAY_LONG").is_some_and(|v| v == "1") { 20 } else { 1 }
}

#[test]
fn sqlite_is_as_the_model() {
    check(&mut Store::sqlite(), 40 * long());
}

#[test]
fn redis_is_as_the_model() {
    if let Some(mut store) = Store::redis("redis_is_as_the_model") {
        check(&mut store, 15 * long());
    }
}
