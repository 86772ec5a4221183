//! clone3, mounts, cgroups, seccomp, capabilities: the kernel's choke points.
