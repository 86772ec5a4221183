//! The addresses that registries are asked at.

use std::fmt;

/// `http(s)://host[:port]/path?query`; user names in it are refused, fragments dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub tls: bool,
    /// As written, with the port if one is: how a certificate's settings and a `Host` header name it.
    pub host: String,
    /// Empty, or with its slash; no slash at its end unless it was joined.
    pub path: String,
}

impl Url {
    pub fn parse(text: &str) -> Option<Url> {
        let (tls, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            (false, text.strip_prefix("http://")?)
        };
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if host.is_empty() || host.contains('@') || !visible(host) || !visible(path) {
            return None;
        }
        let url = Url {
            tls,
            host: host.to_ascii_lowercase(),
            path: path.trim_end_matches('/').to_owned(),
        };
        url.address()?;
        Some(url)
    }

    /// Name and port to connect to.
    pub fn address(&self) -> Option<(&str, u16)> {
        let default = if self.tls { 443 } else { 80 };
        let (name, port) = match self.host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse().ok()?),
            _ => (self.host.as_str(), default),
        };
        let name = name
            .strip_prefix('[')
            .and_then(|n| n.strip_suffix(']'))
            .unwrap_or(name);
        (!name.is_empty()).then_some((name, port))
    }

    /// The same host with another path after this one's.
    pub fn with(&self, path: &str) -> Url {
        Url {
            path: format!("{}{path}", self.path),
            ..self.clone()
        }
    }

    /// Where a `Location` leads from here.
    pub fn join(&self, location: &str) -> Option<Url> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return keep_slash(location);
        }
        let scheme = if self.tls { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return keep_slash(&format!("{scheme}://{rest}"));
        }
        let own = self.path.split('?').next().unwrap_or_default();
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{own}{location}")
        } else {
            let folder = own.rfind('/').map_or("", |slash| &own[..slash]);
            format!("{folder}/{location}")
        };
        keep_slash(&format!("{scheme}://{}{path}", self.host))
    }

    /// Whether what is secret for one is secret for the other.
    pub fn same_origin(&self, other: &Url) -> bool {
        self.tls == other.tls && self.address() == other.address()
    }
}

/// As [`Url::parse`], with the path as it stands: a signature may cover it.
fn keep_slash(text: &str) -> Option<Url> {
    let mut url = Url::parse(text)?;
    let text = text.split('#').next()?;
    let slashes = text.len() - text.trim_end_matches('/').len();
    url.path.push_str(&"/".repeat(slashes));
    Some(url)
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        // A query may hold a signature that is as good as a password.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.host)
    }
}

/// For a query's value.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_where_they_say() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/x?q=1").unwrap();
        let check = |location: &str, expect: &str| {
            assert_eq!(
                base.join(location).unwrap().to_string(),
                expect,
                "{location}"
            );
        };
        check("/other", "https://r.example:5000/other");
        check("y", "https://r.example:5000/v2/a/blobs/y");
        check("?z", "https://r.example:5000/v2/a/blobs/x");
        check("//cdn.example/z", "https://cdn.example/z");
        check("http://cdn.example/z?sig=secret", "http://cdn.example/z");
        assert_eq!(base.join("/a?sig=secret").unwrap().path, "/a?sig=secret");
        assert!(base.join("https://user:pw@x/").is_none());
        assert!(base.same_origin(&base.join("/b").unwrap()));
        assert!(!base.same_origin(&base.join("http://r.example:5000/").unwrap()));
        assert!(
            Url::parse("https://a:443/")
                .unwrap()
                .same_origin(&Url::parse("https://a").unwrap())
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "a",
            "ftp://a",
            "http://",
            "https:///x",
            "http://a:b",
            "http://a:99999",
            "http://a b/",
            "http://u@h",
        ] {
            assert!(Url::parse(text).is_none(), "{text:?}");
        }
        assert_eq!(
            Url::parse("http://[::1]:5000").unwrap().address(),
            Some(("::1", 5000))
        );
        assert_eq!(
            Url::parse("http://[::1]").unwrap().address(),
            Some(("::1", 80))
        );
    }
}
