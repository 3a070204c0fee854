//! What the directory keeps of a session: never a prompt, an answer or a secret.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jetway_config::{Identity, SessionId, UserId, limits::EPHEMERAL_UNUSED};

/// The longest session name, in characters. Clients show names in lists.
pub const NAME_CHARS: usize = 200;

/// A session: its owner named it, so two owners may choose the same id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose it is.
    pub owner: Identity,
    /// How the owner called it.
    pub id: SessionId,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.id)
    }
}

/// Milliseconds since 1970, UTC. Gateways' clocks may differ a little: times only move forward in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// The wall clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Where a session lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The CLI server's name.
    pub server: String,
    /// Which state directory the server uses, if several share one.
    pub group: Option<String>,
    /// The server is the owner's alone. On any other an id is one session, whoever asks.
    pub exclusive: bool,
}

impl Place {
    /// Within what an id may be taken once only; `None`: within what is the owner's.
    pub(super) fn domain(&self) -> Option<String> {
        match &self.group {
            _ if self.exclusive => None,
            Some(group) => Some(format!("group {group}")),
            None => Some(format!("server {}", self.server)),
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is written in requests and replies.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl FromStr for $name {
            type Err = Unknown;

            fn from_str(s: &str) -> Result<Self, Unknown> {
                match s { $($word => Ok(Self::$variant),)+ _ => Err(Unknown) }
            }
        }
    };
}

/// None of the words that are allowed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is none of the words that are allowed")]
pub struct Unknown;

words! {
    /// How a session is.
    Status {
        /// Claimed, and its CLI server has not made it yet; or made, and not to be used for the reason that is given.
        Pending = "pending",
        /// It can be used.
        Running = "running",
        /// It ended as it should. It can be resumed.
        Completed = "completed",
        /// It ended otherwise. It can be resumed.
        Failed = "failed",
        /// It is no more: the entry is a record for its owner, and nothing else finds it.
        Terminated = "terminated",
    }
}

impl Status {
    /// Whether the session has ended.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Terminated)
    }
}

words! {
    /// What a user may do in a session, in rising order.
    Role {
        /// Look.
        Viewer = "viewer",
        /// Take part.
        Member = "member",
        /// All that the owner may.
        Owner = "owner",
    }
}

/// A user with whom a session is shared; of the owner's tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// As what.
    pub role: Role,
}

/// A session's name: some text on one line, without blanks at its ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only blanks.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`NAME_CHARS`].
    #[error("must be at most {NAME_CHARS} characters long")]
    TooLong,
    /// A line break or the like.
    #[error("must not contain control characters")]
    Control,
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn folded(&self) -> String {
        fold(&self.0)
    }
}

/// Names that differ in this only are the same.
pub(super) fn fold(name: &str) -> String {
    name.trim().to_lowercase()
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let s = s.trim();
        if s.is_empty() {
            return Err(NameError::Empty);
        }
        if s.chars().any(char::is_control) {
            return Err(NameError::Control);
        }
        if s.chars().count() > NAME_CHARS {
            return Err(NameError::TooLong);
        }
        Ok(Self(s.into()))
    }
}

/// When a session ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// At this time, whatever it does.
    pub ends: Option<UnixMs>,
    /// When it was not used for so many milliseconds.
    pub unused_for: Option<u64>,
}

impl Lifetime {
    /// A new session's, until more is said of it.
    pub fn of_new(ephemeral: bool) -> Self {
        let unused_for = ephemeral.then_some(EPHEMERAL_UNUSED.as_millis() as u64);
        Self { ends: None, unused_for }
    }
}

/// What the directory keeps of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which session.
    pub key: Key,
    /// What people call it. Several sessions may have the same name.
    pub name: Option<Name>,
    /// With whom it is shared, by user; the owner of the key is not among them.
    pub members: Vec<Member>,
    /// How it is.
    pub status: Status,
    /// Why it is so, for people.
    pub reason: Option<String>,
    /// Where it lives.
    pub place: Place,
    /// Its CLI server has made it.
    pub confirmed: bool,
    /// It goes with its last user.
    pub ephemeral: bool,
    /// When it was claimed.
    pub created: UnixMs,
    /// When it could first be used.
    pub started: Option<UnixMs>,
    /// When the entry last changed or was touched.
    pub updated: UnixMs,
    /// When it was last used.
    pub last_used: UnixMs,
    /// When it ended, if it has.
    pub ended: Option<UnixMs>,
    /// From 1; one more at every change of place, and when an id is claimed again after its session's end.
    pub epoch: u64,
    /// The highest fence under which it was used.
    pub fence: u64,
    /// What the face that made it keeps of it; not looked into here.
    pub note: Option<Arc<str>>,
}

impl Entry {
    /// A session as it is claimed.
    pub(crate) fn new(key: Key, new: &super::New, at: UnixMs) -> Self {
        Self {
            key,
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
            epoch: 1,
            fence: 0,
            note: None,
        }
    }

    /// What `who` may do in it.
    pub fn role_of(&self, who: &Identity) -> Option<Role> {
        role(&self.key, &self.members, who)
    }
}

/// What `who` may do in a session that is shared with `members`.
pub fn role(key: &Key, members: &[Member], who: &Identity) -> Option<Role> {
    if key.owner.tenant != who.tenant {
        return None;
    }
    if key.owner.user == who.user {
        return Some(Role::Owner);
    }
    members.iter().find(|m| m.user == who.user).map(|m| m.role)
}
