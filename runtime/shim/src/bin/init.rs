//! Pid 1 of a pod that shares its process namespace: reaps, and ends when it is told to.

fn main() {
    // Its memory and its empty root are nobody's business in the pod.
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    // SAFETY: a zeroed set is initialised by sigemptyset; all pointers are to locals.
    let signals = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&mut set, signal);
        }
        // Blocked, so that they wait for sigwait instead of being ignored, as pid 1's are.
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    loop {
        // SAFETY: waits for any child without a place for its status.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        let mut signal = 0;
        // SAFETY: set and signal are valid locals.
        unsafe { libc::sigwait(&signals, &mut signal) };
        if signal != libc::SIGCHLD {
            // With pid 1 the kernel ends the whole namespace.
            std::process::exit(0);
        }
    }
}
