//! Paths through the proxy, in the forms that Go's `path` and `net/url` give them: clients and pages were written for
//! those.

use std::fmt::Write;

/// The shortest path that means the same: no empty segment, no `.`, no `..`; no slash at the end.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                // Above the root is the root.
                if kept.last().is_some_and(|last| *last != "..") {
                    kept.pop();
                } else if !absolute {
                    kept.push("..");
                }
            }
            segment => kept.push(segment),
        }
    }
    let joined = kept.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `path` below `prefix`, clean, with the slash at its end if it had one.
pub fn join(prefix: &str, path: &str) -> String {
    let mut joined = clean(&format!("{prefix}/{path}"));
    if path.ends_with('/') && !joined.ends_with('/') {
        joined.push('/');
    }
    joined
}

/// What stands below `…/proxy` in a request's path, decoded: empty, or beginning with a slash.
///
/// `rest` are the segments below it, `path` the whole path; only that tells of a slash at the end.
pub fn below(rest: &str, path: &str) -> String {
    if rest.is_empty() {
        return if path.ends_with('/') { "/" } else { "" }.to_owned();
    }
    let slash = if path.ends_with('/') { "/" } else { "" };
    join("", &format!("/{rest}{slash}"))
}

/// The path as it stands in a request line.
pub fn escape(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(byte as char),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'='
            | b'@' => text.push(byte as char),
            other => {
                let _ = write!(text, "%{other:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, expect) in [
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("a/../..", ".."),
            ("", "."),
            ("/", "/"),
            ("//", "/"),
        ] {
            assert_eq!(clean(path), expect, "{path}");
        }
        assert_eq!(join("/p", "/x/"), "/p/x/");
        assert_eq!(join("/p", "/"), "/p/");
        assert_eq!(join("", "/../x"), "/x");
    }

    #[test]
    fn the_slash_at_the_end_is_the_requests() {
        for (rest, path, expect) in [
            ("", "/api/v1/nodes/n/proxy", ""),
            ("", "/api/v1/nodes/n/proxy/", "/"),
            ("a/b", "/api/v1/nodes/n/proxy/a/b", "/a/b"),
            ("a/b", "/api/v1/nodes/n/proxy/a/b/", "/a/b/"),
            ("../../x", "/api/v1/nodes/n/proxy/../../x", "/x"),
        ] {
            assert_eq!(below(rest, path), expect, "{path}");
        }
    }

    #[test]
    fn what_a_request_line_cannot_hold_is_escaped() {
        assert_eq!(
            escape("/a b/ü?#%/x:y@z;1"),
            "/a%20b/%C3%BC%3F%23%25/x:y@z;1"
        );
        assert_eq!(escape("/\r\nHost: evil"), "/%0D%0AHost:%20evil");
    }
}
