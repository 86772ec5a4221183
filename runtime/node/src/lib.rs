//! Pod workers, volumes, probes, the kubelet's HTTPS API, status.
