//! The keyboard: single keys, without Enter and without echo.
//!
//! Hand-written, because the raw mode of libraries also takes Ctrl-C and Ctrl-Z and the line ends of the output, and
//! they leave it on when the process is suspended or ended by a signal.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Signal, getpgrp, getpid, kill_process};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Keys that were pressed and not yet handled.
const QUEUE: usize = 64;

/// How often it looks whether the process is in the foreground, where it was not.
const LOOK: Duration = Duration::from_millis(200);

/// The same for a read, in tenths of a second.
const READ: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    /// The terminal was closed.
    Hangup,
}

/// The terminal that keys are read from. Its mode is restored when this is dropped.
pub struct Keyboard(Arc<Terminal>);

struct Terminal {
    /// The mode that it is restored to.
    before: Termios,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The process is being suspended.
    Suspended,
    Closed,
}

impl Keyboard {
    pub fn open() -> io::Result<(Self, mpsc::Receiver<Key>)> {
        let terminal = Arc::new(Terminal { before: tcgetattr(io::stdin())?, state: Mutex::new(State::Open) });
        let keyboard = Self(Arc::clone(&terminal));
        let (keys, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(suspend(Arc::clone(&terminal), signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?));
        tokio::spawn(hang_up(keys.clone(), signal(SignalKind::hangup())?));
        tokio::spawn(quit(Arc::clone(&terminal), signal(SignalKind::quit())?));
        thread::Builder::new().name("keyboard".into()).spawn(move || terminal.read(&keys))?;
        Ok((keyboard, receiver))
    }

    /// Restores the mode of the terminal before the process ends in a way that does not drop this.
    pub fn restore(&self) -> impl FnOnce() + Send + use<> {
        let terminal = Arc::clone(&self.0);
        move || terminal.leave(State::Closed)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.0.leave(State::Closed);
    }
}

impl Terminal {
    fn leave(&self, state: State) {
        {
            let mut current = self.state.lock();
            // A suspension does not open it again.
            if *current != State::Closed {
                *current = state;
            }
        }
        // A background process may not change the mode, and has not.
        if is_in_foreground() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
        }
    }

    /// Passes keys on until it is closed.
    fn read(&self, keys: &mpsc::Sender<Key>) {
        let mut bytes = [0; 64];
        while *self.state.lock() != State::Closed {
            if !self.take() {
                thread::sleep(LOOK);
                continue;
            }
            let count = rustix::io::read(io::stdin(), &mut bytes).unwrap_or_default();
            for key in parse(&bytes[..count]) {
                // More keys than are handled are dropped.
                let _ = keys.try_send(key);
            }
        }
    }

    /// Sets the mode for single keys, which a shell may have changed, if the process is in the foreground: elsewhere a
    /// read would suspend it. Whether keys can be read.
    fn take(&self) -> bool {
        let state = self.state.lock();
        if *state != State::Open || !is_in_foreground() {
            return false;
        }
        let Ok(mut mode) = tcgetattr(io::stdin()) else { return false };
        if !mode.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO) {
            return true;
        }
        mode.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        mode.special_codes[SpecialCodeIndex::VMIN] = 0;
        mode.special_codes[SpecialCodeIndex::VTIME] = READ;
        tcsetattr(io::stdin(), OptionalActions::Now, &mode).is_ok()
    }
}

fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Restores the mode before each suspension by Ctrl-Z (SIGTSTP), which then happens, and takes the terminal again after
/// it: the reading thread may have been caught in a read of a whole line.
async fn suspend(terminal: Arc<Terminal>, mut signals: tokio::signal::unix::Signal) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = signals.recv() => {
                terminal.leave(State::Suspended);
                let _ = kill_process(getpid(), Signal::STOP);
                // Another thread may receive it, a moment after this call has returned.
                tokio::time::sleep(LOOK).await;
                let mut state = terminal.state.lock();
                if *state == State::Suspended {
                    *state = State::Open;
                }
            }
            _ = look.tick() => {
                terminal.take();
            }
        }
    }
}

async fn hang_up(keys: mpsc::Sender<Key>, mut signals: tokio::signal::unix::Signal) {
    while signals.recv().await.is_some() {
        // The run may have ended.
        let _ = keys.send(Key::Hangup).await;
    }
}

/// Ctrl-\ ends the process at once, as without this handler, but dumps no core.
async fn quit(terminal: Arc<Terminal>, mut signals: tokio::signal::unix::Signal) {
    if signals.recv().await.is_some() {
        terminal.leave(State::Closed);
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// The keys in what was read at once. Sequences that begin with Escape, such as those of arrows, are ignored.
fn parse(bytes: &[u8]) -> impl Iterator<Item = Key> {
    let text =
        if bytes.len() > 1 && bytes[0] == 0x1b { "" } else { str::from_utf8(bytes).unwrap_or_default() };
    text.chars().map(|c| match c {
        '\n' | '\r' => Key::Enter,
        '\x1b' => Key::Escape,
        '\x08' | '\x7f' => Key::Backspace,
        c => Key::Char(c),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_and_escape_sequences_ignored() {
        let keys = |text: &str| parse(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(keys("é\r"), [Key::Char('é'), Key::Enter]);
        assert_eq!(keys("\x1b"), [Key::Escape]);
        assert_eq!(keys("\x7f"), [Key::Backspace]);
        assert_eq!(keys("\x1b[A"), []);
    }
}
