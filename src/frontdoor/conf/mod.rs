//! nats-server's configuration language: text in, a tree of values with their places out. Pure: files
//! and the environment are asked for through [`Sources`]. Knows no directive.

pub mod fuzzing;
pub mod lexer;
pub mod parser;
pub mod value;

pub use parser::{ConfError, Sources, parse};
pub use value::{Entry, Map, Node, Place, Value};

#[cfg(test)]
mod tests;
