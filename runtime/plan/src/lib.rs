//! (pods wanted, pods observed) to steps; pure.
