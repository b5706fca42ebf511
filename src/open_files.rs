//! The limit of files that this process may have open at once. A connection counts as one.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for what is no connection of the public listener: the admin listener, the broker, files.
const RESERVE: u64 = 256;

/// Raises the soft limit to the hard one.
pub fn raise_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// How many of the wanted connections the hard limit leaves room for; the error says what to set.
pub fn connections(wanted: usize) -> Result<usize, (usize, String)> {
    let Some(limit) = getrlimit(Resource::Nofile).maximum else { return Ok(wanted) };
    let needed = (wanted as u64).saturating_add(RESERVE);
    if needed <= limit {
        return Ok(wanted);
    }
    let room = limit.saturating_sub(RESERVE).max(limit / 2);
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(wanted);
    let message = format!(
        "this process may open {limit} files, so only {room} connections are accepted at once, not {wanted}; raise \
         the limit to {needed} (LimitNOFILE in systemd, `ulimit -Hn` in a shell, `--ulimit nofile` of a container), \
         or lower http.max_connections"
    );
    Err((room, message))
}
