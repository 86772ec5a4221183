//! Links of a proxied page or redirection, led back through the proxy.
//!
//! A pod knows nothing of the path under which it is reached: `/index.html` of its page would leave the proxy. A link
//! that is relative, or that leads to another host, is left alone.

use super::path;

/// Where a page came from, and under which path clients reach it.
#[derive(Clone, Debug)]
pub struct Links {
    /// The path up to and with `…/proxy`, as it stands in a request line.
    pub prefix: String,
    /// The backend as links may name it: `10.0.0.7:80`.
    pub backend: String,
    /// This server as the client named it: its `Host`.
    pub asked: String,
}

impl Links {
    /// The link as the client must follow it; `None`: as it is.
    pub fn rewrite(&self, link: &str) -> Option<String> {
        let url = Url::split(link.trim())?;
        let foreign = !url.host.is_empty() && url.host != self.backend && url.host != self.asked;
        if foreign || !url.path.starts_with('/') {
            return None;
        }
        // Who names this server already names the right one.
        let origin = if !url.host.is_empty() && url.host == self.asked {
            url.origin
        } else {
            ""
        };
        let path = if url.path.starts_with(&self.prefix) {
            url.path.to_owned()
        } else {
            path::join(&self.prefix, url.path)
        };
        let rewritten = format!("{origin}{path}{}", url.tail);
        (rewritten != link).then_some(rewritten)
    }
}

/// A link in its parts: `https://host`, `host`, `/path`, `?query#fragment`.
struct Url<'a> {
    origin: &'a str,
    host: &'a str,
    path: &'a str,
    tail: &'a str,
}

impl<'a> Url<'a> {
    /// `None` for what has no path: `mailto:x`, `javascript:…`.
    fn split(link: &'a str) -> Option<Url<'a>> {
        let scheme = link.find([':', '/', '?', '#']).filter(|at| {
            link[*at..].starts_with(':')
                && link.starts_with(|c: char| c.is_ascii_alphabetic())
                && link[..*at]
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        let rest = &link[scheme.map_or(0, |at| at + 1)..];
        if scheme.is_some() && !rest.starts_with('/') {
            return None;
        }
        let (host, rest) = match rest.strip_prefix("//") {
            Some(authority) => {
                let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
                let host = &authority[..end];
                (host.rsplit('@').next().unwrap_or(host), &authority[end..])
            }
            None => ("", rest),
        };
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        Some(Url {
            origin: &link[..link.len() - rest.len()],
            host,
            path: &rest[..end],
            tail: &rest[end..],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_page_stay_behind_the_proxy() {
        let links = Links {
            prefix: "/api/v1/namespaces/d/pods/x/proxy".to_owned(),
            backend: "10.0.0.7:80".to_owned(),
            asked: "127.0.0.1:8001".to_owned(),
        };
        for (link, expect) in [
            ("/a", "/api/v1/namespaces/d/pods/x/proxy/a"),
            ("/", "/api/v1/namespaces/d/pods/x/proxy/"),
            ("/a/?b=/c#d", "/api/v1/namespaces/d/pods/x/proxy/a/?b=/c#d"),
            (
                "http://10.0.0.7:80/a",
                "/api/v1/namespaces/d/pods/x/proxy/a",
            ),
            ("//10.0.0.7:80/a", "/api/v1/namespaces/d/pods/x/proxy/a"),
            (
                "http://127.0.0.1:8001/a",
                "http://127.0.0.1:8001/api/v1/namespaces/d/pods/x/proxy/a",
            ),
            (
                "/api/v1/namespaces/d/pods/x/proxy/a",
                "/api/v1/namespaces/d/pods/x/proxy/a",
            ),
            ("http://example.com/a", "http://example.com/a"),
            ("//example.com/a", "//example.com/a"),
            ("a.html", "a.html"),
            ("../a", "../a"),
            ("?x=1", "?x=1"),
            ("#top", "#top"),
            ("", ""),
            ("mailto:a@b", "mailto:a@b"),
            ("javascript:void(0)", "javascript:void(0)"),
        ] {
            let found = links.rewrite(link).unwrap_or_else(|| link.to_owned());
            assert_eq!(found, expect, "{link}");
        }
    }
}
