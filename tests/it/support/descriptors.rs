//! How many descriptors this process and its children may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to at least so many, as far as the system lets it; fails the test where that is not
/// enough.
pub fn raise(needed: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return;
    }
    let allowed = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum });
    assert!(allowed.is_ok(), "this test needs {needed} descriptors: ulimit -n is {current:?} of {maximum:?}");
}
