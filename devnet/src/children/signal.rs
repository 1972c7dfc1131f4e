//! The two things that only the operating system can do: ask a process to stop, and end one with
//! its parent.

#![expect(unsafe_code, reason = "signals are sent and received through libc")]

use tokio::process::Command;

/// Asks a process to stop.
pub(super) fn terminate(pid: u32) {
    send(pid, libc::SIGTERM);
}

/// Lets a process stand still, or go on.
pub(super) fn pause(pid: u32, stands_still: bool) {
    send(pid, if stands_still { libc::SIGSTOP } else { libc::SIGCONT });
}

/// Has a process read its files anew.
pub(super) fn hang_up(pid: u32) {
    send(pid, libc::SIGHUP);
}

/// Switches the passthrough of a builder.
pub(super) fn pass_through(pid: u32, on: bool) {
    send(pid, if on { libc::SIGUSR1 } else { libc::SIGUSR2 });
}

fn send(pid: u32, signal: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: kill has no memory effects. The process is our child and has not been waited for, so
    // its id is not another process' yet.
    unsafe { libc::kill(pid, signal) };
}

/// Lets the child be killed when the thread that starts it ends, however it ends.
#[cfg(target_os = "linux")]
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: getpid has no memory effects.
    let ours = unsafe { libc::getpid() };
    let arrange = move || {
        // SAFETY: prctl with these arguments and getppid have no memory effects, and both may be
        // called between fork and exec.
        let (arranged, parent) = unsafe {
            let arranged = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            (arranged, libc::getppid())
        };
        // If we ended before the call, nobody will ever send the signal.
        if arranged == 0 && parent == ours { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure allocates nothing and takes no lock: `last_os_error` only reads errno.
    unsafe { command.pre_exec(arrange) };
}

/// Elsewhere a child outlives a parent that is killed.
#[cfg(not(target_os = "linux"))]
pub(super) fn die_with_parent(_command: &mut Command) {}
