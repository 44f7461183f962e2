//! The program in a terminal of its own: a pseudo-terminal that keys are typed into, and the screen that it
//! would show.

use std::ffi::OsStr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use parking_lot::Mutex;
use pty_process::{Command, OwnedWritePty, Size};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::Notify;
use unibus_testkit::PATIENCE;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// A terminal and the program in it.
pub(crate) struct Terminal {
    keys: OwnedWritePty,
    child: Child,
    glass: Arc<Glass>,
}

/// What a terminal was told to do beside showing something.
#[derive(Debug, Default)]
struct Outside(Vec<&'static str>);

impl vt100::Callbacks for Outside {
    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.0.push("bell");
    }

    fn set_window_title(&mut self, _: &mut vt100::Screen, _: &[u8]) {
        self.0.push("title");
    }

    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8], _: &[u8]) {
        self.0.push("clipboard");
    }
}

/// What the terminal shows.
struct Glass {
    parser: Mutex<vt100::Parser<Outside>>,
    /// All bytes that came, also of what was overwritten since.
    written: Mutex<Vec<u8>>,
    changed: Notify,
    ended: AtomicBool,
}

impl Terminal {
    /// Starts a program in a terminal of so many rows and columns.
    pub(crate) fn start<E: AsRef<OsStr>>(
        program: &str,
        args: &[&str],
        environment: impl IntoIterator<Item = (&'static str, E)>,
        (rows, columns): (u16, u16),
    ) -> anyhow::Result<Self> {
        let parser = vt100::Parser::new_with_callbacks(
            NonZeroU16::try_from(rows)?,
            NonZeroU16::try_from(columns)?,
            0,
            Outside::default(),
        );
        let (pty, pts) = pty_process::open()?;
        pty.resize(Size::new(rows, columns))?;
        let command = Command::new(program).args(args).env_clear();
        let child = command.envs(environment).kill_on_drop(true).spawn(pts)?;
        let (mut shown, keys) = pty.into_split();
        let glass = Arc::new(Glass {
            parser: Mutex::new(parser),
            written: Mutex::default(),
            changed: Notify::new(),
            ended: AtomicBool::new(false),
        });
        let on_glass = Arc::clone(&glass);
        tokio::spawn(async move {
            let mut bytes = vec![0; READ_BYTES];
            // The last one to close the other end makes reading fail.
            while let Ok(count @ 1..) = shown.read(&mut bytes).await {
                on_glass.parser.lock().process(&bytes[..count]);
                on_glass.written.lock().extend_from_slice(&bytes[..count]);
                on_glass.changed.notify_waiters();
            }
            on_glass.ended.store(true, Ordering::Release);
            on_glass.changed.notify_waiters();
        });
        Ok(Self { keys, child, glass })
    }

    /// Types.
    pub(crate) async fn keys(&mut self, keys: &str) -> anyhow::Result<()> {
        self.keys.write_all(keys.as_bytes()).await?;
        Ok(())
    }

    /// Types a line and enters it.
    pub(crate) async fn enter(&mut self, line: &str) -> anyhow::Result<()> {
        self.keys(line).await?;
        self.keys("\r").await
    }

    /// Changes the size; the program is told by a signal.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> anyhow::Result<()> {
        let mut parser = self.glass.parser.lock();
        let (tall, wide) = (NonZeroU16::try_from(rows)?, NonZeroU16::try_from(columns)?);
        parser.screen_mut().set_size(tall, wide);
        self.keys.resize(Size::new(rows, columns))?;
        Ok(())
    }

    /// The rows of the screen.
    pub(crate) fn screen(&self) -> String {
        self.glass.parser.lock().screen().contents()
    }

    /// Everything that the program wrote, with what it overwrote since and how.
    pub(crate) fn written(&self) -> String {
        String::from_utf8_lossy(&self.glass.written.lock()).into_owned()
    }

    /// Whether the program has the whole screen, as editors have, and the shell's lies below it.
    pub(crate) fn is_taken(&self) -> bool {
        self.glass.parser.lock().screen().alternate_screen()
    }

    /// What the program made the terminal do beside showing something.
    pub(crate) fn outside(&self) -> Vec<&'static str> {
        self.glass.parser.lock().callbacks().0.clone()
    }

    /// Waits until the screen is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let looking = async {
            loop {
                let changed = self.glass.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let screen = self.screen();
                if wanted(&screen) {
                    return Ok(screen);
                }
                anyhow::ensure!(!self.glass.ended.load(Ordering::Acquire), "it has ended");
                changed.await;
            }
        };
        let looked = tokio::time::timeout(PATIENCE, looking).await;
        let looked = looked
            .map_err(anyhow::Error::from)
            .and_then(|looked| looked);
        looked.with_context(|| format!("waiting for {what}; the screen:\n{}", self.screen()))
    }

    /// Waits until this stands on the screen.
    pub(crate) async fn shows(&self, text: &str) -> anyhow::Result<String> {
        let what = format!("{text:?}");
        self.until(&what, |screen| screen.contains(text)).await
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Waits for the program's end: its status.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<i32> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status =
            status.with_context(|| format!("no end; the screen:\n{}", self.screen()))??;
        // What it wrote last may not be read yet.
        while !self.glass.ended.load(Ordering::Acquire) {
            let changed = self.glass.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.glass.ended.load(Ordering::Acquire) {
                tokio::time::timeout(PATIENCE, changed).await?;
            }
        }
        status.code().context("ended by a signal")
    }
}
