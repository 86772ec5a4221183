//! Every documented way out of a container that we know of, each tried three times: with the program as it is shipped,
//! where it must fail; with a build in which defences can be taken out, but none is, where it must fail too; and with
//! that build and the one defence out, where it must succeed. What fails the third time proves nothing.
//!
//! `KERNELET_OCI` names the shipped program, `KERNELET_OCI_WEAKENED` the other one (test.sh builds it).

mod descriptors;
mod harness;
mod paths;
mod privileges;
mod settings;
mod shipped;
