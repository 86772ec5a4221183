//! Reconcile functions, pure, and the loops around them.
