//! API keys: made once, stored as a hash, compared in constant time.

use crate::{
    error::Problem,
    ids::{Identity, KeyId, TenantId, UserId},
    limits,
    reader::Section,
    secret::{REDACTED, Secret, SecretString},
    setting::Text,
};
use rand::{
    distr::{Alphanumeric, SampleString},
    rand_core::UnwrapErr,
    rngs::SysRng,
};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, fmt, fmt::Write};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

const PREFIX: &str = "jw";
/// 62^12 ids: a chance of one in a billion that two of a million keys share one, and then loading says so.
const ID_CHARS: usize = 12;
/// 62^43 is just over 2^256.
const SECRET_CHARS: usize = 43;
/// What a key's secret part must at least have to be one.
const MIN_SECRET_CHARS: usize = 32;

/// A new API key, `jw_<id>_<secret>`.
#[derive(Debug, Clone)]
pub struct ApiKey {
    id: KeyId,
    text: SecretString,
}

impl ApiKey {
    /// Makes a key from the operating system's random numbers.
    ///
    /// # Panics
    ///
    /// If the operating system has none: then no key is better than a guessable one.
    pub fn generate() -> Self {
        let mut rng = UnwrapErr(SysRng);
        let id = Alphanumeric.sample_string(&mut rng, ID_CHARS);
        let secret = Alphanumeric.sample_string(&mut rng, SECRET_CHARS);
        let text = Secret::new(format!("{PREFIX}_{id}_{secret}"));
        Self { id: id.parse().expect("letters and digits make an id"), text }
    }

    /// Splits a key into its id and its secret; `None` if `text` is not of a key's form.
    pub fn parse(text: &str) -> Option<(KeyId, SecretString)> {
        let (id, secret) = text.strip_prefix(PREFIX)?.strip_prefix('_')?.split_once('_')?;
        let secret_like =
            secret.len() >= MIN_SECRET_CHARS && secret.bytes().all(|b| b.is_ascii_alphanumeric());
        Some((id.parse().ok()?, Secret::new(secret_like.then(|| secret.to_owned())?)))
    }

    /// The key itself: to be printed once, to the person who asked for it.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// What the configuration keeps of it.
    pub fn entry(&self, tenant: TenantId) -> KeyEntry {
        KeyEntry { id: self.id.clone(), tenant, sha256: KeyHash::of(self.expose()), user: None }
    }
}

/// The SHA-256 of a key's whole text. `Debug` is redacted: a pinned token may be guessable from its hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes a key or token as it is presented.
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented).into())
    }

    /// 64 hexadecimal digits, in lower case.
    pub fn to_hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    fn from_hex(hex: &str) -> Option<Self> {
        let digits = |pair: &[u8]| {
            let digit = |b: u8| char::from(b).to_digit(16);
            u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()
        };
        let pairs = hex.as_bytes().chunks_exact(2);
        let bytes: Option<Vec<u8>> = pairs.remainder().is_empty().then(|| pairs.map(digits).collect())?;
        Some(Self(bytes?.try_into().ok()?))
    }

    /// In constant time.
    fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Text for KeyHash {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        Self::from_hex(text).ok_or_else(|| Self::problem(""))
    }

    fn text(&self) -> String {
        REDACTED.to_owned()
    }

    /// The value may be the key itself, pasted by mistake, so it is not shown.
    fn problem(_: &str) -> Problem {
        Problem::new(format!("the value is not {}", Self::WHAT), Self::REMEDY)
    }

    const WHAT: &'static str = "a SHA-256 of 64 hexadecimal digits";
    const REMEDY: &'static str =
        "copy the entry that `jetway key new` printed, or hash a token with `printf %s TOKEN | sha256sum`";
}

/// An `[[auth.keys]]` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// The key's public part, and the name of the user that it acts as when no user is named.
    pub id: KeyId,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// The hash of the whole key.
    pub sha256: KeyHash,
    /// The one user that it may act for; then the key may be a token of any form.
    pub user: Option<UserId>,
}

impl KeyEntry {
    /// The entry as it goes into the configuration file, hash included.
    pub fn to_toml(&self) -> String {
        let Self { id, tenant, sha256, user } = self;
        let user = user.as_ref().map_or(String::new(), |user| format!("user = \"{user}\"\n"));
        let hash = sha256.to_hex();
        format!("[[auth.keys]]\nid = \"{id}\"\ntenant = \"{tenant}\"\nsha256 = \"{hash}\"\n{user}")
    }

    /// The user that the key acts for by itself.
    pub fn own_user(&self) -> UserId {
        self.user.clone().unwrap_or_else(|| UserId::from(&self.id))
    }

    fn read(s: &mut Section<'_>) -> Option<Self> {
        let (id, tenant, sha256) = (s.required("id"), s.required("tenant"), s.required("sha256"));
        let user = s.optional("user");
        Some(Self { id: id?, tenant: tenant?, sha256: sha256?, user })
    }
}

/// All keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    entries: Vec<KeyEntry>,
    /// All, by id.
    by_id: HashMap<KeyId, usize>,
    /// Tokens of any form, found only by comparing with each.
    pinned: Vec<usize>,
}

impl Keys {
    /// The entries, as they stand in the file.
    pub fn iter(&self) -> std::slice::Iter<'_, KeyEntry> {
        self.entries.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of the key or token `presented`. Takes the same time for every hash with a given id, and
    /// looks at all pinned entries, so that time tells nothing about a stored hash.
    pub fn verify(&self, presented: &str) -> Option<&KeyEntry> {
        if presented.len() > limits::CREDENTIAL_BYTES {
            return None;
        }
        let hash = KeyHash::of(presented);
        let named = ApiKey::parse(presented).and_then(|(id, _)| self.by_id.get(&id)).copied();
        let named = named.filter(|i| self.entries[*i].user.is_none());
        let named = named.filter(|i| self.entries[*i].sha256.matches(&hash).into());
        let mut pinned = u64::MAX;
        for i in &self.pinned {
            pinned.conditional_assign(&(*i as u64), self.entries[*i].sha256.matches(&hash));
        }
        named.or_else(|| usize::try_from(pinned).ok()).and_then(|i| self.entries.get(i))
    }

    /// Whether a key of that id and hash may still act for `who`.
    pub fn vouch_for(&self, who: &Identity, id: &KeyId, hash: &KeyHash) -> bool {
        let entry = self.by_id.get(id).map(|i| &self.entries[*i]);
        entry.is_some_and(|entry| {
            let same_user = entry.user.as_ref().is_none_or(|user| *user == who.user);
            entry.sha256 == *hash && entry.tenant == who.tenant && same_user
        })
    }

    pub(crate) fn read(auth: &mut Section<'_>) -> Self {
        let read = auth.sections("keys", KeyEntry::read);
        for (i, entry) in read.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let earlier = |same: fn(&KeyEntry, &KeyEntry) -> bool| {
                read[..i].iter().position(|other| other.as_ref().is_some_and(|other| same(other, entry)))
            };
            if let Some(first) = earlier(|a, b| a.id == b.id) {
                let what = format!("is already the id of auth.keys[{first}]");
                auth.fail(format!("keys[{i}].id"), Problem::new(what, "give each key an id of its own"));
            }
            if let Some(first) = earlier(|a, b| a.sha256 == b.sha256) {
                let what = format!("is the same key as auth.keys[{first}]");
                auth.fail(format!("keys[{i}].sha256"), Problem::new(what, "remove one of the entries"));
            }
        }
        Self::new(read.into_iter().flatten().collect())
    }

    /// `entries` differ in id and hash.
    fn new(entries: Vec<KeyEntry>) -> Self {
        let by_id = entries.iter().enumerate().map(|(i, entry)| (entry.id.clone(), i)).collect();
        let pinned = (0..entries.len()).filter(|i| entries[*i].user.is_some()).collect();
        Self { by_id, pinned, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, key: &str, user: Option<&str>) -> KeyEntry {
        KeyEntry {
            id: id.parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            sha256: KeyHash::of(key),
            user: user.map(|user| user.parse().unwrap()),
        }
    }

    #[test]
    fn a_new_key_is_of_its_form_and_verifies() {
        let (key, other) = (ApiKey::generate(), ApiKey::generate());
        let (id, secret) = ApiKey::parse(key.expose()).unwrap();
        assert_eq!((id.as_str().len(), secret.expose().len()), (ID_CHARS, SECRET_CHARS));
        let keys = Keys::new(vec![other.entry("other".parse().unwrap()), key.entry("acme".parse().unwrap())]);
        let found = keys.verify(key.expose()).unwrap();
        assert_eq!((&found.id, found.tenant.as_str(), found.own_user().as_str()), (&id, "acme", id.as_str()));
        // The right id with another key's secret.
        let (_, other_secret) = ApiKey::parse(other.expose()).unwrap();
        assert!(keys.verify(&format!("jw_{id}_{}", other_secret.expose())).is_none());
        assert!(keys.verify("").is_none());
    }

    #[test]
    fn pinned_tokens_have_any_form() {
        let keys = Keys::new(vec![
            entry("a", "first", Some("ada")),
            entry("b", "x:y z", Some("bob")),
            entry("c", "unpinned but odd", None),
        ]);
        assert_eq!(keys.verify("first").unwrap().own_user().as_str(), "ada");
        assert_eq!(keys.verify("x:y z").unwrap().own_user().as_str(), "bob");
        assert!(keys.verify("unpinned but odd").is_none());
        assert!(keys.verify(&"x".repeat(limits::CREDENTIAL_BYTES + 1)).is_none());
    }

    #[test]
    fn forms() {
        let secret = "s".repeat(MIN_SECRET_CHARS);
        assert!(ApiKey::parse(&format!("jw_id_{secret}")).is_some());
        for text in [
            "jw_id_short".to_owned(),
            format!("jw__{secret}"),
            format!("xx_id_{secret}"),
            format!("jw_id_{secret}:ada"),
        ] {
            assert!(ApiKey::parse(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn hashes_are_hexadecimal() {
        // From the SHA-256 of "abc" in FIPS 180-2.
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyHash::of("abc").to_hex(), hex);
        assert_eq!(KeyHash::from_hex(&hex.to_uppercase()), Some(KeyHash::of("abc")));
        for bad in ["", "ba", &hex[1..], &format!("{hex}00"), &hex.replace('b', "ß"), &hex.replace('b', "+")]
        {
            assert!(KeyHash::from_hex(bad).is_none(), "{bad}");
        }
    }
}
