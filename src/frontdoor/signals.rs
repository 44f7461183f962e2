//! What operators ask of a running process by signals: stop, leave slowly, read the configuration
//! again, open the log anew. Owns the handlers; acting on a wish is the caller's.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wish {
    /// SIGINT, SIGTERM, SIGQUIT: stop in an orderly way. The name is for the log.
    Stop(&'static str),
    /// SIGUSR2: lame duck mode, then stop.
    LameDuck,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open the log file anew.
    Reopen,
}

/// The process's signals, from here on handled.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
    stopping: bool,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The operating system's.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            stopping: false,
        })
    }

    /// The next wish. A second wish to stop ends the process at once with the status that shells use
    /// for its signal: an operator who asks twice does not want to wait.
    pub async fn next(&mut self) -> Wish {
        let (wish, status) = tokio::select! {
            _ = self.interrupt.recv() => (Wish::Stop("interrupt"), 130),
            _ = self.terminate.recv() => (Wish::Stop("terminated"), 143),
            _ = self.quit.recv() => (Wish::Stop("quit"), 131),
            _ = self.hangup.recv() => (Wish::Reload, 0),
            _ = self.user_1.recv() => (Wish::Reopen, 0),
            _ = self.user_2.recv() => (Wish::LameDuck, 0),
        };
        if let Wish::Stop(name) = wish {
            if self.stopping {
                tracing::warn!(signal = name, "asked a second time: ending at once");
                std::process::exit(status);
            }
            self.stopping = true;
        }
        wish
    }

    /// Heeds nothing but a second wish to stop, for ever.
    pub async fn only_stop(&mut self) {
        loop {
            self.next().await;
        }
    }
}
