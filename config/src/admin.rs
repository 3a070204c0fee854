//! The operator's side of the gateway.

use crate::{
    error::Problem,
    listen::{Listen, Port},
    reader::Section,
    secret::{self, SecretString},
};

/// Half as long as a random token should be: what is shorter was thought up.
const SHORTEST: usize = 16;

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// What `/admin/v1` wants as bearer token, from `token_env` or `token_file`. Without one the admin port
    /// is on loopback, and whoever reaches it may operate the gateway.
    pub token: Option<SecretString>,
}

impl Admin {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let (variable, file) = (secret::from_variable(s, "token_env"), secret::from_file(s, "token_file"));
        s.relate(&["token_file", "token_env"], variable.is_none() || file.is_none(), || {
            Problem::new("is given, and so is admin.token_env", "remove one of them")
        });
        for (key, token) in [("token_env", &variable), ("token_file", &file)] {
            let long = token.as_ref().is_none_or(|t| t.expose().len() >= SHORTEST);
            s.relate(&[key], long, || {
                Problem::new(
                    format!("the token has fewer than {SHORTEST} characters, so it can be guessed"),
                    "make one with `openssl rand -hex 32`",
                )
            });
        }
        Self { token: variable.or(file) }
    }

    /// Who can drain servers and read users' names shall be somebody.
    pub(crate) fn check(&self, root: &Section<'_>, listen: &Listen) {
        let Some(address) = listen.admin.filter(|a| !a.ip().to_canonical().is_loopback()) else { return };
        root.relate(&["admin.token_env", "admin", "listen"], self.token.is_some(), || {
            let port = Port::Admin.as_str();
            Problem::new(
                format!("is missing, and listen.{port} = \"{address}\" can be reached by other machines"),
                "name a variable or, as admin.token_file, a file that holds the operators' token; or put \
                 listen.admin on a loopback address",
            )
        });
    }
}
