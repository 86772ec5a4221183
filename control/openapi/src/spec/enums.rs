//! The values that a field may have, where upstream declares them (`+enum`): facts of upstream's OpenAPI document.
//!
//! What each value means is upstream's text and not carried here.

/// `type field value value…`, the type without its package's front, `[]` after a field whose items are meant; `""` is
/// the empty value.
const TABLE: &str = "\
apps.v1.DaemonSetUpdateStrategy type OnDelete RollingUpdate
apps.v1.DeploymentStrategy type Recreate RollingUpdate
apps.v1.StatefulSetSpec podManagementPolicy OrderedReady Parallel
apps.v1.StatefulSetUpdateStrategy type OnDelete RollingUpdate
certificates.v1.CertificateSigningRequestSpec usages[] any cert_sign client_auth code_signing content_commitment crl_sign data_encipherment decipher_only digital_signature email_protection encipher_only ipsec_end_system ipsec_tunnel ipsec_user key_agreement key_encipherment microsoft_sgc netscape_sgc ocsp_signing s/mime server_auth signing timestamping
core.v1.AppArmorProfile type Localhost RuntimeDefault Unconfined
core.v1.AzureDiskVolumeSource cachingMode None ReadOnly ReadWrite
core.v1.AzureDiskVolumeSource kind Dedicated Managed Shared
core.v1.Container imagePullPolicy Always IfNotPresent Never
core.v1.Container terminationMessagePolicy FallbackToLogsOnError File
core.v1.ContainerPort protocol SCTP TCP UDP
core.v1.ContainerStatus stopSignal SIGNALS
core.v1.EndpointPort protocol SCTP TCP UDP
core.v1.EphemeralContainer imagePullPolicy Always IfNotPresent Never
core.v1.EphemeralContainer terminationMessagePolicy FallbackToLogsOnError File
core.v1.HTTPGetAction scheme HTTP HTTPS
core.v1.HostPathVolumeSource type \"\" BlockDevice CharDevice Directory DirectoryOrCreate File FileOrCreate Socket
core.v1.ImageVolumeSource pullPolicy Always IfNotPresent Never
core.v1.Lifecycle stopSignal SIGNALS
core.v1.ModifyVolumeStatus status InProgress Infeasible Pending
core.v1.NamespaceStatus phase Active Terminating
core.v1.NodeSelectorRequirement operator DoesNotExist Exists Gt In Lt NotIn
core.v1.NodeStatus phase Pending Running Terminated
core.v1.PersistentVolumeClaimSpec accessModes[] ReadOnlyMany ReadWriteMany ReadWriteOnce ReadWriteOncePod
core.v1.PersistentVolumeClaimSpec volumeMode Block Filesystem
core.v1.PersistentVolumeClaimStatus accessModes[] ReadOnlyMany ReadWriteMany ReadWriteOnce ReadWriteOncePod
core.v1.PersistentVolumeClaimStatus phase Bound Lost Pending
core.v1.PersistentVolumeSpec accessModes[] ReadOnlyMany ReadWriteMany ReadWriteOnce ReadWriteOncePod
core.v1.PersistentVolumeSpec persistentVolumeReclaimPolicy Delete Recycle Retain
core.v1.PersistentVolumeSpec volumeMode Block Filesystem
core.v1.PersistentVolumeStatus phase Available Bound Failed Pending Released
core.v1.PodSecurityContext fsGroupChangePolicy Always OnRootMismatch
core.v1.PodSecurityContext supplementalGroupsPolicy Merge Strict
core.v1.PodSpec dnsPolicy ClusterFirst ClusterFirstWithHostNet Default None
core.v1.PodSpec preemptionPolicy Never PreemptLowerPriority
core.v1.PodSpec restartPolicy Always Never OnFailure
core.v1.PodStatus phase Failed Pending Running Succeeded Unknown
core.v1.PodStatus qosClass BestEffort Burstable Guaranteed
core.v1.PortStatus protocol SCTP TCP UDP
core.v1.ResourceQuotaSpec scopes[] BestEffort CrossNamespacePodAffinity NotBestEffort NotTerminating PriorityClass Terminating VolumeAttributesClass
core.v1.ScopedResourceSelectorRequirement operator DoesNotExist Exists In NotIn
core.v1.ScopedResourceSelectorRequirement scopeName BestEffort CrossNamespacePodAffinity NotBestEffort NotTerminating PriorityClass Terminating VolumeAttributesClass
core.v1.SeccompProfile type Localhost RuntimeDefault Unconfined
core.v1.SecurityContext procMount Default Unmasked
core.v1.ServicePort protocol SCTP TCP UDP
core.v1.ServiceSpec externalTrafficPolicy Cluster Local
core.v1.ServiceSpec internalTrafficPolicy Cluster Local
core.v1.ServiceSpec ipFamilies[] \"\" IPv4 IPv6
core.v1.ServiceSpec ipFamilyPolicy PreferDualStack RequireDualStack SingleStack
core.v1.ServiceSpec sessionAffinity ClientIP None
core.v1.ServiceSpec type ClusterIP ExternalName LoadBalancer NodePort
core.v1.Taint effect NoExecute NoSchedule PreferNoSchedule
core.v1.Toleration effect NoExecute NoSchedule PreferNoSchedule
core.v1.Toleration operator Equal Exists Gt Lt
core.v1.TopologySpreadConstraint nodeAffinityPolicy Honor Ignore
core.v1.TopologySpreadConstraint nodeTaintsPolicy Honor Ignore
core.v1.TopologySpreadConstraint whenUnsatisfiable DoNotSchedule ScheduleAnyway
core.v1.VolumeMount mountPropagation Bidirectional HostToContainer None
discovery.v1.EndpointPort protocol SCTP TCP UDP
discovery.v1.EndpointSlice addressType FQDN IPv4 IPv6
policy.v1.PodDisruptionBudgetSpec unhealthyPodEvictionPolicy AlwaysAllow IfHealthyBudget
scheduling.v1.PriorityClass preemptionPolicy Never PreemptLowerPriority
";

/// The signals that a container may be stopped with.
const SIGNALS: &str = "\
SIGABRT SIGALRM SIGBUS SIGCHLD SIGCLD SIGCONT SIGFPE SIGHUP SIGILL SIGINT SIGIO SIGIOT SIGKILL SIGPIPE SIGPOLL \
SIGPROF SIGPWR SIGQUIT SIGRTMAX SIGRTMAX-1 SIGRTMAX-10 SIGRTMAX-11 SIGRTMAX-12 SIGRTMAX-13 SIGRTMAX-14 \
SIGRTMAX-2 SIGRTMAX-3 SIGRTMAX-4 SIGRTMAX-5 SIGRTMAX-6 SIGRTMAX-7 SIGRTMAX-8 SIGRTMAX-9 SIGRTMIN SIGRTMIN+1 \
SIGRTMIN+10 SIGRTMIN+11 SIGRTMIN+12 SIGRTMIN+13 SIGRTMIN+14 SIGRTMIN+15 SIGRTMIN+2 SIGRTMIN+3 SIGRTMIN+4 \
SIGRTMIN+5 SIGRTMIN+6 SIGRTMIN+7 SIGRTMIN+8 SIGRTMIN+9 SIGSEGV SIGSTKFLT SIGSTOP SIGSYS SIGTERM SIGTRAP \
SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ";

/// The values of the field `field` of the type with that full name, in upstream's order; empty for a field that may
/// have any. For a list's items, `field` ends in `[]`.
pub(super) fn of(ty: &str, field: &str) -> Vec<String> {
    let Some(ty) = ty.strip_prefix("io.k8s.api.") else {
        return Vec::new();
    };
    let row = TABLE.lines().find_map(|line| {
        line.strip_prefix(ty)?
            .strip_prefix(' ')?
            .strip_prefix(field)?
            .strip_prefix(' ')
    });
    let values = match row {
        Some("SIGNALS") => SIGNALS,
        other => other.unwrap_or_default(),
    };
    // A value with blanks has underscores in the table.
    values
        .split_whitespace()
        .map(|value| match value {
            "\"\"" => String::new(),
            value => value.replace('_', " "),
        })
        .collect()
}

/// What upstream adds to the description of such a field.
pub(super) fn described(description: &str, values: &[String]) -> String {
    let mut text = format!("{description}\n\nPossible enum values:");
    for value in values {
        text.push_str(&format!("\n - `\"{value}\"`"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernelet_api::Schema;

    #[test]
    fn every_row_is_a_field_of_the_schema_or_of_a_kind_that_is_not_served() {
        let schema = Schema::builtin();
        let mut known = 0;
        for line in TABLE.lines() {
            let mut words = line.split(' ');
            let (ty, field) = (
                words.next().expect("a type"),
                words.next().expect("a field"),
            );
            let Some(ty) = schema.by_name(&format!("io.k8s.api.{ty}")) else {
                continue;
            };
            let field = field.trim_end_matches("[]");
            assert!(schema.get(ty).field(field).is_some(), "{line}");
            known += 1;
        }
        assert!(known > 40, "{known}");
    }

    #[test]
    fn values_are_read_back() {
        let of = |ty: &str, field: &str| of(&format!("io.k8s.api.{ty}"), field);
        assert_eq!(
            of("core.v1.PodSpec", "restartPolicy"),
            ["Always", "Never", "OnFailure"]
        );
        assert_eq!(
            of("core.v1.ServiceSpec", "ipFamilies[]"),
            ["", "IPv4", "IPv6"]
        );
        assert_eq!(
            of("certificates.v1.CertificateSigningRequestSpec", "usages[]")[1],
            "cert sign"
        );
        assert_eq!(of("core.v1.Lifecycle", "stopSignal").len(), 65);
        assert!(of("core.v1.PodSpec", "nodeName").is_empty());
    }
}
