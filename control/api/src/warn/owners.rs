//! Owner references that say the same twice: one is kept, and the client is told.

use crate::{Value, meta};

/// When duplicates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In what the client sent.
    Request,
    /// In what it came to: by a patch, or by admission.
    Admitted,
}

/// Takes out the references that repeat another one, and tells whose they were.
pub fn dedup_owner_references(object: &mut Value, stage: Stage) -> Option<String> {
    let owners = meta::owner_references(object);
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut twice: Vec<String> = Vec::new();
    for owner in owners {
        if kept.contains(owner) {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner.clone());
        }
    }
    if twice.is_empty() {
        return None;
    }
    meta::metadata_mut(object).insert("ownerReferences".to_owned(), kept.into());
    let when = match stage {
        Stage::Request => "",
        Stage::Admitted => " after mutating admission happens",
    };
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
         reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reference_that_is_repeated_is_kept_once() {
        let (a, b) = (
            json!({"uid": "a", "name": "x"}),
            json!({"uid": "a", "name": "y"}),
        );
        let mut object = json!({"metadata": {"ownerReferences": [a, b, a]}});
        let told = dedup_owner_references(&mut object, Stage::Request).unwrap();
        assert!(
            told.starts_with(".metadata.ownerReferences contains duplicate entries; API server")
        );
        assert!(told.ends_with("please fix your requests; duplicate UID(s) observed: a"));
        assert_eq!(object["metadata"]["ownerReferences"], json!([a, b]));
        assert_eq!(dedup_owner_references(&mut object, Stage::Admitted), None);
    }
}
