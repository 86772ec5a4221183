//! The links of an HTML page, rewritten while it passes.
//!
//! ```text
//!   text ──'<'──► tag ──'>'──► text       a start tag is held until it is whole, at most TAG_BYTES of it
//!    ▲   '<!--'─► comment ─'-->'─┘        everything else passes as it comes
//!    └── raw (script, style, …) ◄── its start tag
//! ```
//! No tree is made and nothing but links is changed: a page that isn't well formed passes as it is.

/// A start tag that is longer passes unread.
const TAG_BYTES: usize = 64 << 10;

/// Which attributes of which elements are links; HTML 4, appendix "attributes", and HTML 5's.
const LINKS: [(&str, &[&str]); 26] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content holds no tags but their own end.
const RAW: [&str; 9] = [
    "iframe",
    "noembed",
    "noframes",
    "script",
    "style",
    "textarea",
    "title",
    "xmp",
    "plaintext",
];

/// A page on its way.
pub struct Page<F> {
    /// The link instead of this one; `None`: keep it.
    rewrite: F,
    held: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    Comment,
    /// In an element of [`RAW`].
    Raw(&'static str),
}

impl<F: Fn(&str) -> Option<String>> Page<F> {
    pub fn new(rewrite: F) -> Self {
        Self {
            rewrite,
            held: Vec::new(),
            state: State::Text,
        }
    }

    /// Takes a piece in, and gives out what is decided.
    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(piece);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while let Some(used) = self.step(rest, out) {
            rest = &rest[used..];
        }
        self.held = rest.to_vec();
    }

    /// The page is over: what was held passes.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    /// Uses up the next part of `rest` and answers its length; `None`: more must come first.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match self.state {
            State::Comment => self.until(rest, b"-->", State::Text, out),
            State::Raw(element) => {
                let end = format!("</{element}");
                self.until(rest, end.as_bytes(), State::Text, out)
            }
            State::Text => self.text(rest, out),
        }
    }

    /// Passes everything up to and with `end`, and goes on to `next`.
    fn until(&mut self, rest: &[u8], end: &[u8], next: State, out: &mut Vec<u8>) -> Option<usize> {
        let at = rest
            .windows(end.len())
            .position(|window| window.eq_ignore_ascii_case(end));
        let used = match at {
            Some(at) => {
                self.state = next;
                at + end.len()
            }
            // The end may have begun.
            None => rest.len().saturating_sub(end.len() - 1),
        };
        out.extend_from_slice(&rest[..used]);
        (used > 0).then_some(used)
    }

    fn text(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let at = rest
            .iter()
            .position(|byte| *byte == b'<')
            .unwrap_or(rest.len());
        if at > 0 {
            out.extend_from_slice(&rest[..at]);
            return Some(at);
        }
        if b"<!--".starts_with(&rest[..rest.len().min(4)]) {
            if rest.len() < 4 {
                return None;
            }
            self.state = State::Comment;
            out.extend_from_slice(b"<!--");
            return Some(4);
        }
        if !rest.get(1)?.is_ascii_alphabetic() {
            out.push(b'<');
            return Some(1);
        }
        let Some(end) = tag_end(rest) else {
            if rest.len() <= TAG_BYTES {
                return None;
            }
            out.push(b'<');
            return Some(1);
        };
        self.tag(&rest[..end], out);
        Some(end)
    }

    /// A whole start tag, from `<` to `>`.
    fn tag(&mut self, tag: &[u8], out: &mut Vec<u8>) {
        let name_end = tag
            .iter()
            .position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>'))
            .unwrap_or(tag.len());
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        if let Some(raw) = RAW.iter().find(|raw| **raw == name) {
            self.state = State::Raw(raw);
        }
        let Some((_, wanted)) = LINKS.iter().find(|(element, _)| *element == name) else {
            return out.extend_from_slice(tag);
        };
        let mut passed = 0;
        for attribute in Attributes::of(tag, name_end) {
            let key = String::from_utf8_lossy(attribute.name).to_ascii_lowercase();
            if !wanted.contains(&key.as_str()) {
                continue;
            }
            let (start, end) = attribute.value;
            let Ok(value) = std::str::from_utf8(&tag[start..end]) else {
                continue;
            };
            let value = value.trim_matches(['"', '\'']);
            if let Some(link) = (self.rewrite)(&unescape(value)) {
                out.extend_from_slice(&tag[passed..start]);
                out.extend_from_slice(format!("\"{}\"", escape(&link)).as_bytes());
                passed = end;
            }
        }
        out.extend_from_slice(&tag[passed..]);
    }
}

/// Where a start tag ends; a `>` in quotes doesn't end it.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    // A quote opens a value only after `=`.
    let mut after_equals = false;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if open == *byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if after_equals => quote = Some(*byte),
            (None, b'>') => return Some(at + 1),
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            after_equals = *byte == b'=';
        }
    }
    None
}

/// An attribute with a value: its name, and where the value stands in the tag, quotes included.
struct Attribute<'t> {
    name: &'t [u8],
    value: (usize, usize),
}

struct Attributes<'t> {
    tag: &'t [u8],
    at: usize,
}

impl<'t> Attributes<'t> {
    fn of(tag: &'t [u8], at: usize) -> Self {
        Self { tag, at }
    }

    fn skip(&mut self, while_: impl Fn(u8) -> bool) -> usize {
        while self.tag.get(self.at).is_some_and(|byte| while_(*byte)) {
            self.at += 1;
        }
        self.at
    }
}

impl<'t> Iterator for Attributes<'t> {
    type Item = Attribute<'t>;

    fn next(&mut self) -> Option<Attribute<'t>> {
        loop {
            let start = self.skip(|byte| byte.is_ascii_whitespace() || byte == b'/');
            if self.tag.get(start).is_none_or(|byte| *byte == b'>') {
                return None;
            }
            let end = self
                .skip(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b'=' | b'>' | b'/'));
            if end == start {
                // A stray `=`.
                self.at += 1;
                continue;
            }
            let name = &self.tag[start..end];
            self.skip(|byte| byte.is_ascii_whitespace());
            if self.tag.get(self.at) != Some(&b'=') {
                continue;
            }
            self.at += 1;
            let start = self.skip(|byte| byte.is_ascii_whitespace());
            let end = match self.tag.get(start) {
                Some(quote @ (b'"' | b'\'')) => {
                    let quote = *quote;
                    self.at += 1;
                    self.skip(|byte| byte != quote);
                    self.at = (self.at + 1).min(self.tag.len());
                    self.at
                }
                _ => self.skip(|byte| !byte.is_ascii_whitespace() && byte != b'>'),
            };
            return Some(Attribute {
                name,
                value: (start, end),
            });
        }
    }
}

/// The character references that stand in links.
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest.find(';').filter(|end| *end <= 8).and_then(|end| {
            let name = &rest[1..end];
            let number = |digits: &str, radix| {
                u32::from_str_radix(digits, radix)
                    .ok()
                    .and_then(char::from_u32)
            };
            let found = match name {
                "amp" => Some('&'),
                "lt" => Some('<'),
                "gt" => Some('>'),
                "quot" => Some('"'),
                "apos" => Some('\''),
                name => match name.strip_prefix("#x").or(name.strip_prefix("#X")) {
                    Some(hex) => number(hex, 16),
                    None => name.strip_prefix('#').and_then(|n| number(n, 10)),
                },
            };
            found.map(|c| (c, end + 1))
        });
        let (c, used) = reference.unwrap_or(('&', 1));
        text.push(c);
        rest = &rest[used..];
    }
    text.push_str(rest);
    text
}

fn escape(link: &str) -> String {
    link.replace('&', "&amp;")
        .replace('\'', "&#39;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page in pieces of every size gives the same.
    fn check(page: &str, expect: &str) {
        for size in [1, 2, 3, 7, page.len().max(1)] {
            let mut out = Vec::new();
            let mut rewriter =
                Page::new(|link: &str| link.starts_with('/').then(|| format!("/p{link}")));
            for piece in page.as_bytes().chunks(size) {
                rewriter.feed(piece, &mut out);
            }
            rewriter.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect, "pieces of {size}");
        }
    }

    #[test]
    fn links_are_found_where_they_may_stand() {
        check(
            r#"<pre><a href="kubelet.log">kubelet.log</a><a href="/google.log">x</a></pre>"#,
            r#"<pre><a href="kubelet.log">kubelet.log</a><a href="/p/google.log">x</a></pre>"#,
        );
        check(
            "<IMG Src='/a.png' alt=\"/b\" usemap=/m><a\nhref = /x?a=1&amp;b=2>/y</a>",
            "<IMG Src=\"/p/a.png\" alt=\"/b\" usemap=\"/p/m\"><a\nhref = \"/p/x?a=1&amp;b=2\">/y</a>",
        );
        check(
            r#"<form action="/f" data-x="a>b"><input formaction=/g disabled /></form>"#,
            r#"<form action="/p/f" data-x="a>b"><input formaction="/p/g" disabled /></form>"#,
        );
    }

    #[test]
    fn what_is_no_tag_passes_as_it_is() {
        for page in [
            "1 < 2 and <3",
            "<!DOCTYPE html><!-- <a href=\"/x\"> -->",
            "<script>if (a<b) document.write('<a href=\"/x\">')</script>",
            "<style>a{b:c}</style></a href=\"/x\">",
            "<p href=\"/x\">",
            "<a href=\"/x",
            "",
            "<",
            "<a",
            "<a =\"/x\" href>",
        ] {
            check(page, page);
        }
        check(
            "<script src=\"/s\">'<a href=\"/x\">'</SCRIPT><a href=/y>",
            "<script src=\"/p/s\">'<a href=\"/x\">'</SCRIPT><a href=\"/p/y\">",
        );
    }

    #[test]
    fn a_tag_without_end_is_not_held_for_ever() {
        let mut out = Vec::new();
        let mut page = Page::new(|_: &str| None);
        for _ in 0..200 {
            page.feed(&[b'x'; 1024], &mut out);
            page.feed(b"<a ", &mut out);
        }
        assert!(page.held.len() <= TAG_BYTES + 2048);
    }
}
