//! Scenarios, run as root on this kernel by test.sh.
