//! A pod's shim. Started by the agent only, with its descriptors in place.

fn main() -> std::process::ExitCode {
    kernelet_shim::run()
}
