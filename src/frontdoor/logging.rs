//! Log lines in nats-server's form, on stderr or in a file that can be opened anew while the process
//! runs: `[PID] 2026/11/22 21:30:00.123456 [INF] words`. Owns the process's one subscriber.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use time::OffsetDateTime;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use super::options::LogOptions;
use crate::telemetry::QUIET;

/// The process's log: where it goes and how much of it.
#[derive(Clone, Debug)]
pub struct Log {
    sink: Sink,
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Sets up the process's log. Call it once.
    ///
    /// # Errors
    /// The log file can't be opened.
    pub fn init(options: &LogOptions) -> io::Result<Self> {
        let sink = Sink::default();
        sink.open(options)?();
        let (filter, handle) = reload::Layer::new(filter(options));
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines {
                pid: std::process::id(),
                time: Arc::clone(&sink.time),
            })
            .with_ansi(false)
            .with_writer(sink.clone());
        let set_up = tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init();
        if let Err(error) = set_up {
            tracing::debug!(%error, "logging was set up before");
        }
        Ok(Self {
            sink,
            filter: handle,
        })
    }

    /// Logs from here on as `options` say; opens the file anew.
    ///
    /// # Errors
    /// The log file can't be opened: the old one stays.
    pub fn change(&self, options: &LogOptions) -> io::Result<()> {
        self.prepare(options)?();
        Ok(())
    }

    /// The first half of [`Self::change`]: opens the file. What is returned is the second.
    ///
    /// # Errors
    /// The log file can't be opened.
    pub fn prepare(&self, options: &LogOptions) -> io::Result<impl FnOnce() + use<'_>> {
        let opened = self.sink.open(options)?;
        let filter = filter(options);
        Ok(move || {
            opened();
            if let Err(error) = self.filter.reload(filter) {
                tracing::error!(%error, "how much is logged can't be changed");
            }
        })
    }
}

impl Log {
    /// Whether lines go to a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.sink.file.lock().is_some()
    }
}

/// `debug` shows what each connection does, `trace` each operation.
fn filter(options: &LogOptions) -> EnvFilter {
    let level = match (options.trace, options.debug) {
        (true, _) => "trace",
        (false, true) => "debug",
        (false, false) => "info",
    };
    let ours = format!("info,unibus_node={level},unibus_broker={level},nats_server={level}");
    EnvFilter::new(format!("{},{ours}", QUIET.join(",")))
}

/// Where lines go.
#[derive(Clone, Debug, Default)]
struct Sink {
    /// `None` = stderr.
    file: Arc<Mutex<Option<File>>>,
    time: Arc<AtomicBool>,
}

impl Sink {
    /// Opens the file. What is returned makes it the one that is written to.
    fn open(&self, options: &LogOptions) -> io::Result<impl FnOnce() + use<'_>> {
        let opened = match &options.file {
            Some(path) => Some(append_to(path)?),
            None => None,
        };
        let time = options.time;
        Ok(move || {
            *self.file.lock() = opened;
            self.time.store(time, Ordering::Relaxed);
        })
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    let opened = File::options().create(true).append(true).open(path);
    opened.map_err(|error| {
        let words = format!("the log file {} can't be opened: {error}", path.display());
        io::Error::new(error.kind(), words)
    })
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.file.lock() {
            Some(file) => file.write(line),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// One line for an event.
struct Lines {
    pid: u32,
    time: Arc<AtomicBool>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(line, "[{}] ", self.pid)?;
        if self.time.load(Ordering::Relaxed) {
            let now = OffsetDateTime::now_utc();
            let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
            write!(line, "{year}/{month:02}/{day:02} ")?;
            let (hour, minute, second, micro) = now.to_hms_micro();
            write!(line, "{hour:02}:{minute:02}:{second:02}.{micro:06} ")?;
        }
        write!(line, "[{}] ", mark(*event.metadata().level()))?;
        context.field_format().format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

fn mark(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERR",
        Level::WARN => "WRN",
        Level::INFO => "INF",
        Level::DEBUG => "DBG",
        Level::TRACE => "TRC",
    }
}
