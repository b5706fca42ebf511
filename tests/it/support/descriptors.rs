//! The limit of file descriptors of this process and its children.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to at least this number; panics if the system does not allow that.
pub fn raise(needed: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return;
    }
    let allowed = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum });
    assert!(allowed.is_ok(), "this test needs {needed} descriptors: ulimit -n is {current:?} of {maximum:?}");
}
