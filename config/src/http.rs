//! The HTTP port.

use std::time::Duration;

use crate::{
    error::Problem,
    reader::Section,
    setting::{Text, quoted},
};

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// How long a person has to answer a permission prompt or a question.
    pub answer_within: Duration,
    /// Which pages of other origins may use it; none unless given.
    pub cors: Cors,
}

/// `[http.cors]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cors {
    /// Their origins.
    pub origins: Vec<Origin>,
    /// Whether what browsers add by themselves may come with their requests: cookies for a proxy in front, say. Jetway's
    /// own credentials are not of that kind.
    pub credentials: bool,
}

/// Where a page comes from, as browsers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Http {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            answer_within: s.get_in("answer_within", seconds(600), seconds(1)..=seconds(24 * 3600)),
            cors: s.section("cors", Cors::read),
        }
    }
}

impl Cors {
    fn read(s: &mut Section<'_>) -> Self {
        let cors =
            Self { origins: s.list_or("origins", Vec::new()), credentials: s.get("credentials", false) };
        s.relate(&["credentials", "origins"], !cors.credentials || !cors.origins.is_empty(), || {
            Problem::new(
                "is true, and no origin may send any",
                "name the pages in http.cors.origins, or remove it",
            )
        });
        cors
    }

    /// Whether pages from there may use the port.
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed.0 == origin)
    }
}

impl Origin {
    /// As browsers write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Text for Origin {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let problem = || Self::problem(&quoted(text));
        let (scheme, authority) = text.split_once("://").ok_or_else(problem)?;
        let usual = match scheme {
            "http" => "80",
            "https" => "443",
            _ => return Err(problem()),
        };
        // An address of version 6 has colons of its own, inside of brackets.
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let of_host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(of_host),
        };
        // The usual port is not written by browsers, and what they do not write would never match.
        let numbered =
            port.is_none_or(|p| p != usual && p.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == p));
        if named && numbered { Ok(Self(text.to_owned())) } else { Err(problem()) }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    const WHAT: &'static str = "a page's origin as browsers write it";
    const REMEDY: &'static str = r#"write scheme, host and, if it is not the usual one, port, in lower case, such as "https://app.example.com""#;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        let good = [
            "https://app.example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
            "https://10.0.0.7:8443",
        ];
        for text in good {
            assert_eq!(Origin::parse_text(text).unwrap().as_str(), text);
        }
        let bad = [
            "*",
            "null",
            "",
            "app.example.com",
            "https://",
            "https://App.example.com",
            "https://app.example.com/",
            "https://app.example.com:443",
            "http://localhost:80",
            "http://localhost:0",
            "http://localhost:+1",
            "http://localhost:99999",
            "ftp://example.com",
            "https://user@example.com",
            "https://*.example.com",
            "https://a b",
            "http://[::1",
            "http://[x]",
        ];
        for text in bad {
            assert!(Origin::parse_text(text).is_err(), "{text}");
        }
    }
}
