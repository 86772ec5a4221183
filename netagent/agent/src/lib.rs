//! Watches services, endpoints and pods, and keeps the kernel in step.
