//! `process` and `linux.namespaces` of real containers: each field is asked of the program inside.

mod attributes;
mod harness;
mod namespaces;
mod process;
mod rootless;
