//! The pure core: `state` is what a chat knows, inputs (keys, news, ticks) change it (`update`, `keys`,
//! `doing`, `news`) and leave orders behind. No terminal, no session, no file, no clock.

pub(super) mod clean;
pub(super) mod command;
mod doing;
pub(super) mod heard;
pub(super) mod keys;
mod line;
pub(super) mod log;
pub(super) mod names;
mod news;
pub(super) mod state;
#[cfg(test)]
pub(super) mod tests;
mod update;
pub(super) mod wrap;
