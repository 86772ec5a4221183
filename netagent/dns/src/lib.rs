//! The cluster's DNS.
