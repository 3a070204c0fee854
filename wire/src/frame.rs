//! `Content-Length: N\r\n\r\n` framing, with a cap on everything.
//!
//! The CLI reads this header leniently (`65abc` is 65, `0x41` is 0, the last of two lengths wins),
//! so two readers could see two different frames in the same bytes. Jetway takes one spelling only.

use std::ops::Range;

/// How large a frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of header, its blank line included.
    pub header: usize,
    /// Bytes of body.
    pub body: usize,
}

/// Why bytes are not a frame. There is no way back into step after any of these: close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header outgrew [`Caps::header`].
    #[error("frame header is longer than {0} bytes")]
    HeaderTooLong(usize),
    /// A line that is not `Name: value` ended by CR LF.
    #[error("malformed frame header; expected `Content-Length: <bytes>` and CR LF")]
    BadHeader,
    /// No length at all.
    #[error("frame header without Content-Length")]
    NoLength,
    /// More than one, alike or not.
    #[error("frame header with more than one Content-Length")]
    TwoLengths,
    /// Signs, hex, leading zeros, junk, nothing, zero.
    #[error("Content-Length is not a plain positive decimal number")]
    BadLength,
    /// The body would outgrow [`Caps::body`].
    #[error("frame body is longer than {0} bytes")]
    BodyTooLong(usize),
}

/// Where the first frame of `buf` has its body, once its header is whole; `None` until then.
///
/// The body may still be incomplete. Errors are reported as soon as the bytes allow.
pub fn head(buf: &[u8], caps: Caps) -> Result<Option<Range<usize>>, FrameError> {
    let mut length = None;
    let mut at = 0;
    loop {
        let window = &buf[at..buf.len().min(caps.header)];
        let Some(eol) = memchr::memchr(b'\n', window) else {
            if buf.len() >= caps.header {
                return Err(FrameError::HeaderTooLong(caps.header));
            }
            // Refuse what can never become a header now, rather than when the line ends.
            return if plausible_line(window) { Ok(None) } else { Err(FrameError::BadHeader) };
        };
        let Some(line) = window[..eol].strip_suffix(b"\r") else { return Err(FrameError::BadHeader) };
        at += eol + 1;
        if line.is_empty() {
            let length = length.ok_or(FrameError::NoLength)?;
            if length > caps.body {
                return Err(FrameError::BodyTooLong(caps.body));
            }
            return Ok(Some(at..at + length));
        }
        let (name, value) = split_line(line)?;
        if name.eq_ignore_ascii_case(b"content-length") && length.replace(parse_length(value)?).is_some() {
            return Err(FrameError::TwoLengths);
        }
    }
}

fn is_name_byte(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || *b == b'-'
}

/// Whether an unfinished line can still become `Name: value`.
fn plausible_line(line: &[u8]) -> bool {
    let name = line.iter().take_while(|b| is_name_byte(b)).count();
    match line.get(name) {
        None => true,
        Some(b':') => name > 0,
        // The CR of the blank line, its LF still to come.
        Some(b'\r') => name == 0 && line.len() == 1,
        Some(_) => false,
    }
}

fn split_line(line: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let colon = memchr::memchr(b':', line).ok_or(FrameError::BadHeader)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let printable = |b: &u8| matches!(b, b'\t' | b' '..=b'~');
    if name.is_empty() || !name.iter().all(is_name_byte) || !value.iter().all(printable) {
        return Err(FrameError::BadHeader);
    }
    Ok((name, value.trim_ascii()))
}

fn parse_length(digits: &[u8]) -> Result<usize, FrameError> {
    if digits.is_empty() || digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return Err(FrameError::BadLength);
    }
    // More digits than fit are merely too long, and stay so under any cap.
    let number = digits.iter().try_fold(0usize, |n, d| n.checked_mul(10)?.checked_add(usize::from(d - b'0')));
    Ok(number.unwrap_or(usize::MAX / 2).min(usize::MAX / 2))
}

/// Appends one frame whose body is `parts`, one after the other.
pub fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    out.reserve(len + 32);
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(out, len as u64);
    out.extend_from_slice(b"\r\n\r\n");
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends a number in decimal.
pub(crate) fn write_decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Cuts a byte stream into frames, and keeps memory only for a frame that is under way.
#[derive(Debug)]
pub struct Decoder {
    caps: Caps,
    /// The beginning of a frame whose rest has not come yet; empty, and without capacity, otherwise.
    partial: Vec<u8>,
}

impl Decoder {
    /// A decoder that refuses frames over `caps`.
    pub fn new(caps: Caps) -> Self {
        Self { caps, partial: Vec::new() }
    }

    /// Changes the caps for what comes next.
    pub fn set_caps(&mut self, caps: Caps) {
        self.caps = caps;
    }

    /// Whether a frame has begun and not ended.
    pub fn mid_frame(&self) -> bool {
        !self.partial.is_empty()
    }

    /// How many bytes of that frame are held.
    pub fn held(&self) -> usize {
        self.partial.len()
    }

    /// The frames that `chunk` completes. What is left over is kept when the batch is dropped.
    pub fn feed<'a>(&'a mut self, chunk: &'a [u8]) -> Batch<'a> {
        let caps = self.caps;
        if self.partial.is_empty() {
            Batch { caps, bytes: Bytes::Chunk(chunk), partial: &mut self.partial, at: 0, broken: false }
        } else {
            self.partial.extend_from_slice(chunk);
            let bytes = Bytes::Partial(std::mem::take(&mut self.partial));
            Batch { caps, bytes, partial: &mut self.partial, at: 0, broken: false }
        }
    }
}

#[derive(Debug)]
enum Bytes<'a> {
    Chunk(&'a [u8]),
    Partial(Vec<u8>),
}

impl Bytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Chunk(c) => c,
            Bytes::Partial(p) => p,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Header and body, as they came.
    pub raw: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// The frames of one read; see [`Decoder::feed`].
#[derive(Debug)]
pub struct Batch<'a> {
    caps: Caps,
    bytes: Bytes<'a>,
    partial: &'a mut Vec<u8>,
    at: usize,
    broken: bool,
}

impl Batch<'_> {
    /// The next whole frame; `None` when what is left must wait for more bytes.
    #[allow(clippy::should_implement_trait, reason = "lends from itself, which Iterator cannot")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let rest = &self.bytes.as_slice()[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        match head(rest, self.caps) {
            Ok(Some(body)) if body.end <= rest.len() => {
                self.at += body.end;
                Ok(Some(Frame { raw: &rest[..body.end], body: &rest[body] }))
            }
            Ok(_) => Ok(None),
            Err(e) => {
                self.broken = true;
                Err(e)
            }
        }
    }

    /// Applies other caps to what follows in this batch, as a handshake's end does.
    pub fn set_caps(&mut self, caps: Caps) {
        self.caps = caps;
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        match &mut self.bytes {
            Bytes::Chunk(chunk) => self.partial.extend_from_slice(&chunk[self.at..]),
            Bytes::Partial(bytes) => {
                if self.at < bytes.len() {
                    bytes.drain(..self.at);
                    *self.partial = std::mem::take(bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPS: Caps = Caps { header: 128, body: 1000 };

    fn one(text: &str) -> Result<Option<Range<usize>>, FrameError> {
        head(text.as_bytes(), CAPS)
    }

    #[test]
    fn headers() {
        use FrameError::*;
        assert_eq!(one("Content-Length: 2\r\n\r\n{}"), Ok(Some(21..23)));
        assert_eq!(one("content-length:2\r\nContent-Type: a/b; c=d\r\n\r\n"), Ok(Some(44..46)));
        assert_eq!(one("Content-Length: 2\r\n"), Ok(None));
        assert_eq!(one("Content-Length: 2\r\n\r"), Ok(None));
        assert_eq!(one("Content-Length: 2\n\n{}"), Err(BadHeader));
        assert_eq!(one("GET / HTTP/1.1"), Err(BadHeader));
        assert_eq!(one("{\"id\""), Err(BadHeader));
        assert_eq!(one("\r\n"), Err(NoLength));
        assert_eq!(one("X: 1\r\n\r\n"), Err(NoLength));
        for bad in ["", "-1", "+65", "0x41", "65abc", "065", "0", "6 5", "1e3"] {
            assert_eq!(one(&format!("Content-Length: {bad}\r\n\r\n")), Err(BadLength), "{bad:?}");
        }
        for two in ["5\r\nContent-Length: 5", "5\r\ncontent-length: 6"] {
            assert_eq!(one(&format!("Content-Length: {two}\r\n\r\n")), Err(TwoLengths));
        }
        for long in ["1001", "9223372036854775808", "18446744073709551617", "10000000000"] {
            assert_eq!(one(&format!("Content-Length: {long}\r\n\r\n")), Err(BodyTooLong(1000)));
        }
        assert_eq!(one(&"a".repeat(128)), Err(HeaderTooLong(128)));
        assert_eq!(one(&format!("a: {}\r\n", "b".repeat(200))), Err(HeaderTooLong(128)));
    }

    proptest! {
        /// However a stream is cut into reads, the frames are the same, and nothing is kept at the end.
        #[test]
        fn any_cut(bodies in prop::collection::vec("[a-z]{1,40}", 1..20), cuts in prop::collection::vec(1usize..50, 1..50)) {
            let mut stream = Vec::new();
            for b in &bodies {
                write(&mut stream, &[b.as_bytes()]);
            }
            let mut decoder = Decoder::new(CAPS);
            let (mut seen, mut at, mut i) = (Vec::new(), 0, 0);
            while at < stream.len() {
                let end = (at + cuts[i % cuts.len()]).min(stream.len());
                let mut batch = decoder.feed(&stream[at..end]);
                while let Some(frame) = batch.next().unwrap() {
                    seen.push(String::from_utf8(frame.body.to_vec()).unwrap());
                }
                drop(batch);
                at = end;
                i += 1;
            }
            prop_assert_eq!(seen, bodies);
            prop_assert!(!decoder.mid_frame());
            prop_assert_eq!(decoder.partial.capacity(), 0);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::new(CAPS);
            let mut batch = decoder.feed(&bytes);
            while let Ok(Some(_)) = batch.next() {}
        }
    }
}
