//! Short texts: selectors, quantities, continue tokens, paths and query strings.

use std::str;

use kernelet_api::{
    quantity::{Canonical, Quantity},
    selector::{FieldSelector, LabelSelector},
};
use serde_json::{Map, Value};

use crate::{continuation::Token, query::Query, request::RequestInfo};

pub fn selector(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(selector) = LabelSelector::parse(text) {
        let labels: Map<String, Value> = [("a", "1"), ("b", ""), ("x/y", "z")]
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into_iter()
            .collect();
        let _ = (selector.matches(Some(&labels)), selector.matches(None));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|field| Some(field.to_owned()));
    }
    if let Ok(object) = serde_json::from_slice::<Value>(data) {
        let _ = LabelSelector::from_object(Some(&object));
    }
}

/// A quantity's canonical text is read as the same quantity, and is its own canonical text.
pub fn quantity(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(canonical) = Canonical::parse(text) {
        let canonical = canonical.to_string();
        let again = Canonical::parse(&canonical).expect("a canonical text is a quantity");
        assert_eq!(again.to_string(), canonical, "{text}");
    }
    if let Ok(quantity) = Quantity::parse(text) {
        let _ = (
            quantity.to_string(),
            quantity.value(),
            quantity.milli_value(),
            quantity.sign(),
        );
    }
}

pub fn continuation(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(token) = Token::decode(text) {
        let again = Token::decode(&Token::encode(token.rv, &token.start)).expect("it is one");
        assert_eq!((again.rv, again.start), (token.rv, token.start));
    }
    // And the other way round, whatever the key.
    if !text.is_empty() {
        let token = Token::decode(&Token::encode(7, text)).expect("it is one");
        assert_eq!(token.start, text);
    }
}

/// `METHOD path?query`.
pub fn request(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let (method, uri) = text.split_once(' ').unwrap_or(("GET", text));
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let (Ok(method), Ok(query)) = (method.parse(), Query::parse(query)) else {
        return;
    };
    if let Ok(info) = RequestInfo::parse(&method, path, &query) {
        assert!(!info.verb.is_empty());
    }
}
