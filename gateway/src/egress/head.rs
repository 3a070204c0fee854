//! What a proxy of HTTP is asked for. Pure.

use crate::policy::address::Target;

/// The longest head of a request to the proxy, in bytes: servers commonly stop at 8 to 64 KiB.
pub(super) const LONGEST: usize = 64 << 10;

/// A request, as far as the proxy must know it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) target: Target,
    /// What the target is to get first, in place of the head; `None` where a tunnel is asked for.
    pub(super) forward: Option<Vec<u8>>,
    /// Bytes of the head.
    pub(super) length: usize,
}

/// No such request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The request at the beginning of `bytes`; `None` while its head is not whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Asked>, Malformed> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > LONGEST { Err(Malformed) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed)?;
    let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut words = line.split(' ');
    let (Some(method), Some(uri), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed);
    };
    let length = end + 4;
    if method == "CONNECT" {
        let target = Target::of_host(uri).filter(|_| !uri.contains("://")).ok_or(Malformed)?;
        return Ok(Some(Asked { target, forward: None, length }));
    }
    let target = Target::of_url(uri).ok_or(Malformed)?;
    // Without a tunnel nobody speaks TLS for the client.
    let rest = uri.strip_prefix("http://").ok_or(Malformed)?;
    let path = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut forward = format!("{method} {slash}{path} {version}\r\n");
    for header in headers.split("\r\n").filter(|header| !header.is_empty()) {
        let (name, _) = header.split_once(':').ok_or(Malformed)?;
        let hop = ["connection", "proxy-connection", "proxy-authorization", "keep-alive"];
        if !hop.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
            forward.push_str(header);
            forward.push_str("\r\n");
        }
    }
    // One request for each connection: the next may be for another machine.
    forward.push_str("Connection: close\r\n\r\n");
    Ok(Some(Asked { target, forward: Some(forward.into_bytes()), length }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::address::Host;

    fn asked(text: &str) -> Option<Asked> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_request_for_a_url_goes_on_as_its_server_wants_it() {
        let head = "POST http://Model.test:81/v1?x=1 HTTP/1.1\r\nHost: Model.test:81\r\nProxy-Connection: \
                    keep-alive\r\nContent-Length: 2\r\n\r\n{}";
        let asked = asked(head).unwrap();
        assert_eq!(asked.target, Target { host: Host::Name("model.test".into()), port: 81 });
        assert_eq!(&head[asked.length..], "{}");
        let forward = String::from_utf8(asked.forward.unwrap()).unwrap();
        let expected = "POST /v1?x=1 HTTP/1.1\r\nHost: Model.test:81\r\nContent-Length: 2\r\nConnection: \
                        close\r\n\r\n";
        assert_eq!(forward, expected);
    }

    #[test]
    fn tunnels_and_roots() {
        let tunnel = asked("CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!((tunnel.target.port, tunnel.forward), (443, None));
        let root = asked("GET http://10.0.0.1?q#f HTTP/1.0\r\n\r\n").unwrap();
        assert!(root.forward.unwrap().starts_with(b"GET /?q HTTP/1.0\r\n"));
    }

    #[test]
    fn what_is_not_whole_is_waited_for_and_what_is_no_request_refused() {
        assert_eq!(parse(b"GET http://x/ HTTP/1.1\r\nHost: x\r\n"), Ok(None));
        assert_eq!(parse(&[b'x'; LONGEST + 1]), Err(Malformed));
        for bad in [
            "GET / HTTP/1.1",
            "GET https://x/ HTTP/1.1",
            "CONNECT http://x:1 HTTP/1.1",
            "CONNECT 0x7f.1:80 HTTP/1.1",
            "GET http://a@b/ HTTP/1.1",
            "GET http://x/ HTTP/1.1 x",
            "GET http://x/\nHost HTTP/1.1",
            "GET http://x/ HTTP/1.1\r\nnothing",
            "",
        ] {
            assert_eq!(parse(format!("{bad}\r\n\r\n").as_bytes()), Err(Malformed), "{bad}");
        }
    }
}
