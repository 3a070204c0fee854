//! Who is calling: API keys and anonymous callers. JSON Web Tokens are verified by the gateway, which
//! asks here for everything else.

use crate::{
    error::Problem,
    ids::{IdError, Identity, TenantId, UserId},
    jwt::Jwt,
    keys::{ApiKey, KeyEntry, Keys},
    listen::Listen,
    reader::Section,
};

/// The tenant of anonymous callers, and their name when they give none.
pub const LOCAL: &str = "local";

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether callers need no credential: only if every listener is on loopback.
    pub anonymous: bool,
    /// The API keys.
    pub keys: Keys,
    /// JSON Web Tokens, if they are accepted.
    pub jwt: Option<Jwt>,
}

/// Why a caller is turned away. Holds nothing of the credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credential was given.
    #[error("a credential is required")]
    Missing,
    /// The credential is of no known key.
    #[error("the credential is not valid")]
    Invalid,
    /// The user's name cannot be one.
    #[error("the user's name {0}")]
    BadUser(IdError),
    /// Two users are named, or another than the one that the key is pinned to.
    #[error("the credential may not act for that user")]
    WrongUser,
}

/// A credential as it is presented, `<key>:<user>` or a key alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credential<'a> {
    /// The key or token.
    pub key: &'a str,
    /// The user that it shall act for.
    pub user: Option<&'a str>,
}

impl<'a> Credential<'a> {
    /// Splits at the last `:`, which no user's name contains but a pinned token may.
    pub fn parse(text: &'a str) -> Self {
        match text.rsplit_once(':') {
            Some((key, user)) => Self { key, user: Some(user) },
            None => Self { key: text, user: None },
        }
    }
}

impl Auth {
    /// Who presents `credential` (a connection token, what follows `Bearer`) and `user` (the `Jetway-User`
    /// header), and by which key; by none if anonymous. An empty text counts as none.
    ///
    /// # Errors
    ///
    /// If no key and no rule for anonymous callers makes it somebody.
    pub fn authenticate(&self, credential: Option<&str>, user: Option<&str>) -> Found<'_> {
        let given = |text: &&str| !text.is_empty();
        let (credential, user) = (credential.filter(given), user.filter(given));
        let Some(text) = credential else {
            return if self.anonymous { nobody(user) } else { Err(AuthError::Missing) };
        };
        // The whole text first: a pinned token may itself contain a colon.
        if let Some(entry) = self.keys.verify(text) {
            return act_for(entry, user);
        }
        let split = Credential::parse(text);
        if split.user.is_some()
            && let Some(entry) = self.keys.verify(split.key)
        {
            return act_for(entry, one_of(split.user, user)?);
        }
        // A secret that is not valid here must not become a user's name: names are logged and stored.
        if !self.anonymous || ApiKey::parse(split.key).is_some() || looks_like_jwt(text) {
            return Err(AuthError::Invalid);
        }
        nobody(one_of(Some(text), user)?)
    }

    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let keys = Keys::read(s);
        let has_jwt = s.has("jwt");
        let jwt = s.optional_section("jwt", Jwt::read).flatten();
        let open = keys.is_empty() && !has_jwt;
        let anonymous = s.get("anonymous", open);
        s.relate(&["anonymous", "keys", "jwt"], anonymous || !open, || {
            Problem::new(
                "is false, and there is neither a key nor [auth.jwt]: nobody could call",
                "add the key that `jetway key new --tenant T` prints, or [auth.jwt]",
            )
        });
        Self { anonymous, keys, jwt }
    }

    /// Anonymous callers come from this machine.
    pub(crate) fn check(&self, root: &Section<'_>, listen: &Listen) {
        let Some((port, address)) = listen.off_loopback() else { return };
        root.relate(&["auth.anonymous", "auth", "listen"], !self.anonymous, || {
            let port = port.as_str();
            Problem::new(
                format!("callers need no credential, and listen.{port} = \"{address}\" can be reached by other machines"),
                "add the key that `jetway key new --tenant T` prints, or [auth.jwt], and leave auth.anonymous out; \
                 or put every listener on a loopback address",
            )
        });
    }
}

/// Who is calling, and by which key.
type Found<'a> = Result<(Identity, Option<&'a KeyEntry>), AuthError>;

fn act_for<'a>(entry: &'a KeyEntry, user: Option<&str>) -> Found<'a> {
    let user = match (user, &entry.user) {
        (None, _) => entry.own_user(),
        (Some(user), None) => user.parse().map_err(AuthError::BadUser)?,
        (Some(user), Some(pinned)) if user == pinned.as_str() => pinned.clone(),
        (Some(_), Some(_)) => return Err(AuthError::WrongUser),
    };
    Ok((Identity { tenant: entry.tenant.clone(), user }, Some(entry)))
}

/// An anonymous caller.
fn nobody<'a>(user: Option<&str>) -> Found<'a> {
    let tenant: TenantId = LOCAL.parse().map_err(AuthError::BadUser)?;
    let user: UserId = user.unwrap_or(LOCAL).parse().map_err(AuthError::BadUser)?;
    Ok((Identity { tenant, user }, None))
}

/// Either of two names that may both be given if they are the same.
fn one_of<'a>(a: Option<&'a str>, b: Option<&'a str>) -> Result<Option<&'a str>, AuthError> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Err(AuthError::WrongUser),
        _ => Ok(a.or(b)),
    }
}

/// Whether a text has the form of a JSON Web Token: three parts, the first a JSON object in base64url.
pub fn looks_like_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.matches('.').count() == 2
}
