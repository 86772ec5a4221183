//! Clients of the API: in-process and by kubeconfig, shared reflectors, keyed work queue.
