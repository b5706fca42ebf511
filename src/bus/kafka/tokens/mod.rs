//! The tokens with which the clients of one cluster log in (OAUTHBEARER).
//!
//! A thread of its own fetches a token at the start and another one at half its life. librdkafka asks for one on the
//! thread that handles the acks, where it gets the one that is there. Only before the first one does it wait, while
//! its client has no connection and no ack can come.

mod aws;
mod msk;
mod oidc;
mod token;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::client::OAuthToken;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use msk::{MskIam, is_region, region_of};
pub use oidc::{ClientAuth, Oidc};

use crate::bus::error::StartError;
use token::Token;

pub(super) const THREAD: &str = "kafka-tokens";
/// How long a client waits for the first token.
const FIRST: Duration = Duration::from_secs(2);
/// Between two attempts to get one; doubles up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The first of several failures in a row is logged, and then one in this time.
const REPEAT: Duration = Duration::from_secs(60);

/// Where tokens come from: `[kafka.oauth]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The token endpoint of an OpenID provider.
    Oidc(Oidc),
    /// Signed here, with the credentials of AWS.
    MskIam(MskIam),
}

impl Source {
    async fn fetch(&self) -> Result<Token, String> {
        match self {
            Self::Oidc(oidc) => oidc.fetch().await,
            Self::MskIam(msk) => msk.fetch().await,
        }
    }

    /// Whose tokens they are, as far as that is known without one.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Oidc(oidc) => &oidc.client_id,
            Self::MskIam(_) => "an AWS identity",
        }
    }

    /// What gives them, where it has not answered yet.
    fn giver(&self) -> &'static str {
        match self {
            Self::Oidc(_) => "the token server",
            Self::MskIam(_) => "the server of the AWS credentials",
        }
    }
}

/// The tokens of one login. Cheap to clone; the last one that is dropped ends the thread.
#[derive(Clone)]
pub(super) struct Tokens {
    shared: Arc<Shared>,
    _running: Arc<DropGuard>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// There is another source.
    renewed: Notify,
}

struct State {
    source: Source,
    token: Option<Token>,
    /// Why there is none, or no new one.
    failure: Option<String>,
}

impl Tokens {
    /// Begins to fetch, on the thread that `spawn` starts.
    pub(super) fn start(
        source: Source,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let state = Mutex::new(State { source, token: None, failure: None });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), renewed: Notify::new() });
        let stop = CancellationToken::new();
        let running = Arc::new(stop.clone().drop_guard());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let keeper = Arc::clone(&shared);
        spawn(Box::new(move || {
            runtime.block_on(stop.run_until_cancelled(keep(&keeper)));
        }))?;
        Ok(Self { shared, _running: running })
    }

    /// Takes the next tokens from another source, the first of them at once.
    pub(super) fn renew(&self, source: Source) {
        let mut state = self.shared.state.lock();
        if state.source != source {
            state.source = source;
            self.shared.renewed.notify_one();
            tracing::info!("kafka: the login has changed: getting a new token with it");
        }
    }

    /// Waits for the first token; the error says why there is none.
    pub(super) fn first(&self, within: Duration) -> Result<(), String> {
        let mut state = self.shared.state.lock();
        let waiting = |state: &mut State| state.token.is_none() && state.failure.is_none();
        self.shared.changed.wait_while_for(&mut state, waiting, within);
        match (&state.token, &state.failure) {
            (Some(_), _) => Ok(()),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(format!("{} has not answered yet", state.source.giver())),
        }
    }

    /// Why there is no new token, while there is an old one.
    pub(super) fn lapse(&self) -> Option<String> {
        let state = self.shared.state.lock();
        state.failure.clone().filter(|_| state.token.is_some())
    }

    pub(super) fn has_token(&self) -> bool {
        self.shared.state.lock().token.is_some()
    }
}

/// Begins to fetch for a verb that ends by itself, if its login has tokens.
pub(super) fn of_verb(source: Option<Source>) -> Result<Option<Tokens>, StartError> {
    let spawn = |work| thread::Builder::new().name(THREAD.into()).spawn(work).map(drop);
    let tokens = source.map(|source| Tokens::start(source, spawn)).transpose();
    tokens.map_err(|source| StartError::Thread { thread: THREAD, source })
}

/// Answers librdkafka, which asks on the thread that polls a client.
pub(super) fn hand_out(tokens: Option<&Tokens>) -> Result<OAuthToken, Box<dyn Error>> {
    let tokens = tokens.ok_or("a login with unsecured tokens is not renewed: restart the bridge")?;
    tokens.first(FIRST)?;
    let state = tokens.shared.state.lock();
    // The first one stays until there is another one.
    Ok(state.token.as_ref().map(Token::told).ok_or("there is no token")?)
}

/// Fetches one token after the other.
async fn keep(shared: &Shared) {
    let (mut pause, mut logged) = (PAUSE, None::<Instant>);
    loop {
        let source = shared.state.lock().source.clone();
        let fetched = source.fetch().await;
        let next = match fetched {
            Ok(token) => {
                let half = token.left() / 2;
                let mut state = shared.state.lock();
                (state.token, state.failure) = (Some(token), None);
                if logged.take().is_some() {
                    tracing::info!("kafka: there is a new token");
                }
                pause = PAUSE;
                half.max(PAUSE)
            }
            Err(reason) => {
                let mut state = shared.state.lock();
                // Without any, the client tells.
                if let Some(token) = &state.token
                    && logged.is_none_or(|at| at.elapsed() >= REPEAT)
                {
                    logged = Some(Instant::now());
                    let seconds_left = token.left().as_secs();
                    tracing::warn!(reason, seconds_left, "kafka: cannot get a new token; trying again");
                }
                state.failure = Some(reason);
                let next = pause;
                pause = MAX_PAUSE.min(2 * pause);
                next
            }
        };
        shared.changed.notify_all();
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = shared.renewed.notified() => pause = PAUSE,
        }
    }
}
