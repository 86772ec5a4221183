//! What a seccomp agent is told of the process whose calls it decides on: OCI's container process state.

use kernelet_container::Listener;
use kernelet_spec::{ProcessPlan, Seccomp};
use serde_json::{Value, json};

use crate::state::Saved;

/// `None`: no call is left to anybody. `status`: the container's, `creating` or, for exec, `running`.
pub fn of(plan: &ProcessPlan, saved: &Saved, status: &'static str) -> Option<Listener> {
    let Seccomp::Profile(profile) = &plan.seccomp else {
        return None;
    };
    let wish = profile.listener.clone()?;
    let saved = saved.clone();
    Some(Listener {
        path: wish.path,
        message: Box::new(move |pid| {
            let of_container = match status {
                "creating" => pid,
                _ => saved.pid,
            };
            let state: Value = serde_json::from_str(&saved.oci_state(status, of_container))
                .expect("a state is JSON");
            json!({
                "ociVersion": saved.oci_version,
                "fds": ["seccompFd"],
                "pid": pid,
                "metadata": wish.metadata,
                "state": state,
            })
            .to_string()
        }),
    })
}
