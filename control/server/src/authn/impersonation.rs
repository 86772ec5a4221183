//! `Impersonate-User` and its like: a request made in another's name, by whoever may `impersonate` each part of it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use kernelet_api::ApiError;

use crate::{
    authz::{Attributes, Authorizer, Decision, Target},
    user::{ANONYMOUS, SYSTEM_AUTHENTICATED, SYSTEM_UNAUTHENTICATED, UserInfo},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// One thing that is to be impersonated, as authorisation sees it.
struct Part<'a> {
    kind: &'static str,
    group: &'static str,
    resource: &'static str,
    /// The key of an extra.
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Part<'_> {
    /// As Go prints the object reference that upstream makes of it.
    fn told(&self) -> String {
        let version = if self.group.is_empty() {
            String::new()
        } else {
            format!("{}/v1", self.group)
        };
        let Part {
            kind,
            namespace,
            name,
            subresource,
            ..
        } = self;
        format!("{{{kind} {namespace} {name}  {version}  {subresource}}}")
    }
}

/// Who the request is made as: the impersonated identity, or the caller's own where no header asks for another.
pub fn impersonate(
    authz: &Authorizer,
    user: Arc<UserInfo>,
    headers: &HeaderMap,
) -> Result<Arc<UserInfo>, ApiError> {
    let text = |value: &HeaderValue| {
        value
            .to_str()
            .map(str::to_owned)
            .map_err(|_| ApiError::bad_request("an Impersonate header is not text"))
    };
    let one = |name: &str| -> Result<String, ApiError> {
        Ok(headers.get(name).map(text).transpose()?.unwrap_or_default())
    };
    let (name, uid) = (one(USER)?, one(UID)?);
    let groups: Vec<String> = headers
        .get_all(GROUP)
        .iter()
        .map(text)
        .collect::<Result<_, _>>()?;
    let mut extra: Vec<(String, String)> = Vec::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let key = percent_encoding::percent_decode_str(key)
                .decode_utf8()
                .map_or_else(|_| key.to_owned(), Into::into);
            extra.push((key, text(value)?));
        }
    }
    let other = UserInfo {
        name,
        uid,
        groups,
        ..UserInfo::default()
    };
    let parts = parts(&other, &extra);
    if parts.is_empty() {
        return Ok(user);
    }
    if other.name.is_empty() {
        let parts: Vec<String> = parts.iter().map(Part::told).collect();
        return Err(ApiError::bad_request(format!(
            "requested [{}] without impersonating a user",
            parts.join(" ")
        )));
    }
    for part in &parts {
        let attributes = Attributes {
            user: &user,
            verb: "impersonate",
            target: Target::Resource {
                group: part.group,
                resource: part.resource,
                subresource: part.subresource,
                namespace: part.namespace,
                name: part.name,
                field_selector: "",
            },
        };
        if let Decision::No(reason) = authz.decide(&attributes) {
            return Err(attributes.forbidden(&reason));
        }
    }
    Ok(Arc::new(completed(other, extra)))
}

fn parts<'a>(other: &'a UserInfo, extra: &'a [(String, String)]) -> Vec<Part<'a>> {
    let core = |kind, resource, namespace, name| Part {
        kind,
        group: "",
        resource,
        subresource: "",
        namespace,
        name,
    };
    let mut parts = Vec::new();
    if !other.name.is_empty() {
        parts.push(match other.as_service_account() {
            Some((namespace, name)) => core("ServiceAccount", "serviceaccounts", namespace, name),
            None => core("User", "users", "", &other.name),
        });
    }
    parts.extend(
        other
            .groups
            .iter()
            .map(|group| core("Group", "groups", "", group)),
    );
    parts.extend(extra.iter().map(|(key, value)| Part {
        kind: "UserExtra",
        group: AUTHENTICATION,
        resource: "userextras",
        subresource: key,
        namespace: "",
        name: value,
    }));
    if !other.uid.is_empty() {
        parts.push(Part {
            kind: "UID",
            group: AUTHENTICATION,
            resource: "uids",
            subresource: "",
            namespace: "",
            name: &other.uid,
        });
    }
    parts
}

/// With the groups that come by themselves, where none that says otherwise was asked for.
fn completed(mut other: UserInfo, extra: Vec<(String, String)>) -> UserInfo {
    if let Some((namespace, _)) = other.as_service_account()
        && other.groups.is_empty()
    {
        other.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let implied = if other.name == ANONYMOUS {
        SYSTEM_UNAUTHENTICATED
    } else {
        SYSTEM_AUTHENTICATED
    };
    let decided = other.in_group(SYSTEM_UNAUTHENTICATED)
        || (implied == SYSTEM_AUTHENTICATED && other.in_group(SYSTEM_AUTHENTICATED));
    if !decided {
        other.groups.push(implied.to_owned());
    }
    for (key, value) in extra {
        other.extra.entry(key).or_default().push(value);
    }
    other
}

/// The request's headers without what proved or changed its identity: nothing behind this point, least of all what a
/// proxied request is sent to, has a use for them.
pub fn without_credentials(headers: &HeaderMap) -> HeaderMap {
    let secret = |name: &HeaderName| {
        let name = name.as_str();
        name == "authorization" || matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA)
    };
    headers
        .iter()
        .filter(|(name, _)| !secret(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name groups…` → the groups that the identity has in the end.
    fn check(name: &str, groups: &[&str], expect: &[&str]) {
        let other = UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
            ..UserInfo::default()
        };
        assert_eq!(
            completed(other, Vec::new()).groups,
            expect,
            "{name} {groups:?}"
        );
    }

    #[test]
    fn groups_come_by_themselves_unless_told_otherwise() {
        check("bob", &[], &["system:authenticated"]);
        check("bob", &["dev"], &["dev", "system:authenticated"]);
        check("bob", &["system:authenticated"], &["system:authenticated"]);
        check(
            "bob",
            &["system:unauthenticated"],
            &["system:unauthenticated"],
        );
        check("system:anonymous", &[], &["system:unauthenticated"]);
        check(
            "system:anonymous",
            &["dev"],
            &["dev", "system:unauthenticated"],
        );
        check(
            "system:serviceaccount:ns:a",
            &[],
            &[
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                "system:authenticated",
            ],
        );
        check(
            "system:serviceaccount:ns:a",
            &["x"],
            &["x", "system:authenticated"],
        );
    }

    #[test]
    fn what_is_asked_for_without_a_user_is_told_as_upstream_tells_it() {
        let other = UserInfo {
            groups: vec!["dev".to_owned()],
            uid: "7".to_owned(),
            ..UserInfo::default()
        };
        let extra = [("scopes".to_owned(), "a".to_owned())];
        let told: Vec<String> = parts(&other, &extra).iter().map(Part::told).collect();
        assert_eq!(
            told,
            [
                "{Group  dev    }",
                "{UserExtra  a  authentication.k8s.io/v1  scopes}",
                "{UID  7  authentication.k8s.io/v1  }",
            ]
        );
    }
}
