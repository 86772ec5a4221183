//! Flow control's own objects: made when they are missing, kept as this release has them unless somebody changed a
//! suggested one (`apf.kubernetes.io/autoupdate-spec`), removed when this release no longer has them.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use kernelet_api::{
    ApiError, Value,
    flowcontrol::{AUTO_UPDATE, BuiltIn, EXEMPT, GROUP, Standing, built_in},
    meta,
};
use serde_json::json;

use super::{Failed, ensure};
use crate::{cache::KeyRange, pipeline, state::State, user::UserInfo};

const PLURALS: [&str; 2] = ["flowschemas", "prioritylevelconfigurations"];

/// Makes what is missing, mends what differs, removes what has gone.
pub async fn reconcile(state: &Arc<State>, user: &UserInfo) -> Result<(), Failed> {
    for wanted in built_in() {
        let there = state
            .cache
            .resource(&format!("{GROUP}/{}", wanted.plural))
            .and_then(|cache| cache.get(meta::name(&wanted.object)))
            .map(|object| object.tree());
        if there.is_some_and(|there| mended(&there, wanted).is_none()) {
            continue;
        }
        let mend = |old: &Value| mended(old, wanted);
        ensure(
            state,
            user,
            GROUP,
            wanted.plural,
            wanted.object.clone(),
            &mend,
        )
        .await?;
    }
    for plural in PLURALS {
        remove_former(state, user, plural).await?;
    }
    Ok(())
}

/// What the annotation says, if it says anything.
fn says(object: &Value) -> Option<bool> {
    match object["metadata"]["annotations"][AUTO_UPDATE].as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The object as it should be, if it isn't so.
fn mended(old: &Value, wanted: &BuiltIn) -> Option<Value> {
    // Without a word, what was never changed may be changed.
    let follows = wanted.standing == Standing::Mandatory
        || says(old).unwrap_or(old["metadata"]["generation"] == 1);
    let mut spec = wanted.object["spec"].clone();
    if meta::name(old) == EXEMPT && spec.get("exempt").is_some() {
        // Its shares are the administrator's.
        spec["exempt"] = old["spec"]["exempt"].clone();
    }
    let (annotate, differs) = (says(old) != Some(follows), follows && old["spec"] != spec);
    if !annotate && !differs {
        return None;
    }
    let mut new = old.clone();
    if differs {
        new["spec"] = spec;
    }
    if annotate {
        let annotations = meta::metadata_mut(&mut new)
            .entry("annotations")
            .or_insert_with(|| json!({}));
        annotations[AUTO_UPDATE] = follows.to_string().into();
    }
    Some(new)
}

async fn remove_former(state: &Arc<State>, user: &UserInfo, plural: &str) -> Result<(), Failed> {
    let Some(cache) = state.cache.resource(&format!("{GROUP}/{plural}")) else {
        return Ok(());
    };
    let everything = KeyRange {
        namespace: "",
        after: "",
    };
    let (objects, _) = cache.list(everything, 0, |_| true);
    for object in objects {
        let (name, tree) = (object.name(), object.tree());
        let known = built_in()
            .iter()
            .any(|b| b.plural == plural && meta::name(&b.object) == name);
        if known || says(&tree) != Some(true) || !meta::deletion_timestamp(&tree).is_empty() {
            continue;
        }
        let failed = |error| Failed {
            what: format!("{plural} {name:?}"),
            error,
        };
        let request = Request::delete(format!("/apis/{GROUP}/v1/{plural}/{name}"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(ApiError::internal(error)))?;
        let serve = pipeline::serve(state.clone(), Some(Arc::new(user.clone())), request);
        // Boxed: the pipeline leads to the objects that are kept here.
        let status = Box::pin(serve).await.status();
        if !status.is_success() && status != http::StatusCode::NOT_FOUND {
            return Err(failed(ApiError::internal(format!(
                "what this release no longer has can't be deleted: {status}"
            ))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(plural: &str, name: &str) -> &'static BuiltIn {
        built_in()
            .iter()
            .find(|b| b.plural == plural && meta::name(&b.object) == name)
            .unwrap()
    }

    #[test]
    fn what_somebody_changed_is_left_alone_if_it_may_be() {
        let (level, catch_all) = (
            of("prioritylevelconfigurations", "workload-low"),
            of("flowschemas", "catch-all"),
        );
        let mut there = level.object.clone();
        assert_eq!(mended(&there, level), None);
        there["spec"]["limited"]["nominalConcurrencyShares"] = 7.into();
        assert_eq!(mended(&there, level).unwrap()["spec"], level.object["spec"]);
        there["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(mended(&there, level), None);
        // Without the annotation, the generation tells; and then the annotation does.
        there["metadata"] = json!({"name": "workload-low", "generation": 2});
        let told = mended(&there, level).unwrap();
        assert_eq!(told["spec"], there["spec"]);
        assert_eq!(says(&told), Some(false));
        let mut there = catch_all.object.clone();
        there["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(says(&mended(&there, catch_all).unwrap()), Some(true));
    }

    #[test]
    fn the_exempt_levels_shares_are_the_administrators() {
        let exempt = of("prioritylevelconfigurations", "exempt");
        let mut there = exempt.object.clone();
        there["spec"]["exempt"]["nominalConcurrencyShares"] = 10.into();
        assert_eq!(mended(&there, exempt), None);
    }
}
