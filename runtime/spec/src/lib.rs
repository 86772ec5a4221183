//! OCI bundle to validated container plan; pure.
