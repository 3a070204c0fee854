//! What the scripts answer.

use redis::{FromRedisValue, Value, from_redis_value};

use super::nonsense;
use crate::directory::{
    entry::{Entry, Place, UnixMs},
    error::StoreError,
    stored,
};

/// The first word of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Ok,
    Fresh,
    Known,
    None,
    Taken,
    Full,
    Stale,
    Superseded,
}

impl Answer {
    pub(super) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Ok,
            "fresh" => Self::Fresh,
            "known" => Self::Known,
            "none" => Self::None,
            "taken" => Self::Taken,
            "full" => Self::Full,
            "stale" => Self::Stale,
            "superseded" => Self::Superseded,
            _ => return None,
        })
    }
}

/// A word, and perhaps what belongs to it.
pub(super) fn pair<T: FromRedisValue>(answer: Vec<Value>) -> Result<(Answer, Option<T>), StoreError> {
    let mut answer = answer.into_iter();
    let word: String = from_redis_value(answer.next().unwrap_or(Value::Nil)).map_err(unread)?;
    let rest = answer.next().map(from_redis_value).transpose().map_err(unread)?;
    Ok((Answer::parse(&word).ok_or_else(nonsense)?, rest))
}

/// A text, and perhaps a number.
pub(super) fn maybe_more(answer: Vec<Value>) -> Result<(String, Option<u32>), StoreError> {
    let mut answer = answer.into_iter();
    let text = from_redis_value(answer.next().unwrap_or(Value::Nil)).map_err(unread)?;
    Ok((text, answer.next().map(from_redis_value).transpose().map_err(unread)?))
}

fn unread(_: redis::ParsingError) -> StoreError {
    nonsense()
}

/// An entry as `pack` in `common.lua` makes it.
pub(super) struct Packed {
    key: [String; 3],
    fields: [String; 16],
    members: String,
}

impl FromRedisValue for Packed {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        type Wire = (String, String, String, Vec<String>, String);
        let (tenant, owner, id, fields, members): Wire = from_redis_value(value)?;
        let fields = fields.try_into().map_err(|_| "an entry has other fields")?;
        Ok(Self { key: [tenant, owner, id], fields, members })
    }
}

impl Packed {
    pub(super) fn entry(&self) -> Result<Entry, StoreError> {
        let [tenant, owner, id] = &self.key;
        let [
            name,
            status,
            reason,
            server,
            state,
            exclusive,
            claims,
            ephemeral,
            created,
            updated,
            last_used,
            ended,
            epoch,
            fence,
            note,
            started,
        ] = &self.fields;
        let time = |text: &str| number(text).map(UnixMs);
        Ok(Entry {
            key: stored::key(tenant, owner, id)?,
            name: stored::name(some(name))?,
            members: stored::members(&self.members)?,
            status: stored::status(status)?,
            reason: some(reason).map(str::to_owned),
            place: Place {
                server: server.clone(),
                group: some(state).map(str::to_owned),
                exclusive: exclusive == "1",
            },
            confirmed: claims == "0",
            ephemeral: ephemeral == "1",
            created: time(created)?,
            started: some(started).map(time).transpose()?,
            updated: time(updated)?,
            last_used: time(last_used)?,
            ended: some(ended).map(time).transpose()?,
            epoch: number(epoch)?,
            fence: number(fence)?,
            note: some(note).map(Into::into),
        })
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn number(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt("number"))
}

/// What `list.lua` found.
pub(super) struct Listed {
    pub(super) ended: bool,
    pub(super) at: String,
    pub(super) name: String,
    pub(super) found: Vec<Packed>,
}

impl Listed {
    pub(super) fn parse((ended, at, name, found): (String, String, String, Vec<Packed>)) -> Self {
        Self { ended: !ended.is_empty(), at, name, found }
    }
}
