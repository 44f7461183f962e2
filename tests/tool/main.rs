//! The program `unibus` against a real node: what it prints, what JSON it gives, the status it ends with,
//! and what it says to mistakes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod bindings;
mod blobs;
mod bots;
mod chat;
mod contexts;
mod first;
mod identities;
mod logins;
mod messages;
mod objects;
mod progress;
mod rooms;
mod streams;
mod terminal;
mod values;
mod world;
