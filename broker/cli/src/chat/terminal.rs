//! The terminal: taken over, drawn on, and given back, whatever happens. The only place that knows what
//! draws and what reads keys.

use std::io::{IsTerminal, Stdout, stdin, stdout};
use std::sync::Once;

use crossterm::event::{
    DisableBracketedPaste, EnableBracketedPaste, Event, EventStream, KeyCode, KeyEvent,
    KeyEventKind, KeyModifiers,
};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use futures::{FutureExt, StreamExt};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::model::keys::Key;
use super::model::state::{Chat, Drawn};
use super::view::{self, Paint, Zone};
use crate::error::{Attempt, Result, wrong};

/// A terminal that is taken over. Given back when this is dropped, and before a panic is told.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    events: EventStream,
    paint: Paint,
}

/// What a person did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Act {
    Key(Key),
    Paste(String),
    /// The size changed, or something that means nothing here.
    Nothing,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// Where there is none, or one that can't place a cursor.
    pub(super) fn open() -> Result<Self> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return wrong("chat needs a terminal; scripts use unibus room and its commands");
        }
        if std::env::var("TERM").is_ok_and(|term| term == "dumb") {
            return wrong("chat needs a terminal that can place a cursor, and TERM is dumb");
        }
        give_back_before_panics();
        let what = || "the terminal can't be used".to_owned();
        take().or_failed(what)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        if terminal.is_err() {
            give_back();
        }
        Ok(Self {
            terminal: terminal.or_failed(what)?,
            events: EventStream::new(),
            paint: paint(),
        })
    }

    /// Draws a chat.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn draw(&mut self, chat: &Chat) -> Result<Drawn> {
        let mut drawn = Drawn::default();
        let done = self
            .terminal
            .draw(|frame| drawn = view::draw(frame, chat, &self.paint));
        done.or_failed(|| "the terminal is gone".to_owned())?;
        Ok(drawn)
    }

    /// Forgets what is on the screen: the next draw writes everything.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn clear(&mut self) -> Result {
        let cleared = self.terminal.clear();
        cleared.or_failed(|| "the terminal is gone".to_owned())
    }

    /// What a person does next; `None` when the terminal is gone.
    pub(super) async fn act(&mut self) -> Option<Act> {
        match self.events.next().await {
            Some(Ok(event)) => Some(act(event)),
            Some(Err(_)) | None => None,
        }
    }

    /// What a person has done already.
    pub(super) fn act_now(&mut self) -> Option<Act> {
        match self.events.next().now_or_never() {
            Some(Some(Ok(event))) => Some(act(event)),
            _ => None,
        }
    }

    /// Gives the terminal to the shell, and takes it back when the shell goes on with this program.
    ///
    /// # Errors
    /// Where the terminal can't be taken back.
    pub(super) fn suspend(&mut self) -> Result {
        give_back();
        let stopped = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTSTP);
        take().or_failed(|| "the terminal can't be taken back".to_owned())?;
        stopped.or_failed(|| "can't stop".to_owned())?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> std::io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
}

/// As it was before. A terminal that is gone needs nothing any more.
fn give_back() {
    drop(execute!(
        stdout(),
        DisableBracketedPaste,
        LeaveAlternateScreen,
        cursor::Show
    ));
    drop(disable_raw_mode());
}

/// A panic's words would be lost on a screen that is taken over.
fn give_back_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            told(panic);
        }));
    });
}

/// What the environment says about the terminal: colours unless NO_COLOR says no (no-color.org), and
/// Unicode where the locale has it.
fn paint() -> Paint {
    let var = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(var);
    let locale = locale.unwrap_or_default().to_lowercase();
    Paint {
        colour: var("NO_COLOR").is_none(),
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
        zone: Zone::Local,
    }
}

fn act(event: Event) -> Act {
    match event {
        Event::Key(event) if event.kind != KeyEventKind::Release => {
            key(event).map_or(Act::Nothing, Act::Key)
        }
        Event::Paste(text) => Act::Paste(text),
        _ => Act::Nothing,
    }
}

fn key(event: KeyEvent) -> Option<Key> {
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    let alt = event.modifiers.contains(KeyModifiers::ALT);
    let word = control || alt;
    Some(match event.code {
        KeyCode::Char(c) if control => return control_key(c.to_ascii_lowercase()),
        KeyCode::Char('b' | 'B') if alt => Key::WordLeft,
        KeyCode::Char('f' | 'F') if alt => Key::WordRight,
        KeyCode::Char('d' | 'D') if alt => Key::DeleteWord,
        KeyCode::Char(_) if alt => return None,
        KeyCode::Char(c) if c.is_control() => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter if alt => Key::Feed,
        KeyCode::Enter => Key::Enter,
        KeyCode::Backspace if word => Key::EraseWord,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete if word => Key::DeleteWord,
        KeyCode::Delete => Key::Delete,
        KeyCode::Left if word => Key::WordLeft,
        KeyCode::Left => Key::Left,
        KeyCode::Right if word => Key::WordRight,
        KeyCode::Right => Key::Right,
        KeyCode::Up if word => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down if word => Key::Tab,
        KeyCode::Down => Key::Down,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Esc => Key::Esc,
        KeyCode::F(1) => Key::Help,
        _ => return None,
    })
}

fn control_key(c: char) -> Option<Key> {
    Some(match c {
        'a' => Key::Home,
        'b' => Key::Left,
        'c' => Key::Quit,
        'd' => Key::EndOfFile,
        'e' => Key::End,
        'f' => Key::Right,
        'h' => Key::Backspace,
        'j' => Key::Feed,
        'k' => Key::DeleteToEnd,
        'l' => Key::Redraw,
        'n' => Key::Later,
        'p' => Key::Earlier,
        'r' => Key::Reply,
        't' => Key::Thread,
        'u' => Key::EraseLine,
        'w' => Key::EraseWord,
        'z' => Key::Suspend,
        _ => return None,
    })
}
