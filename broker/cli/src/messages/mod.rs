//! `pub`, `sub`, `req` and `reply`: plain messages.

mod body;
mod publish;
mod reply;
mod request;
mod shown;
mod subscribe;

pub(crate) use publish::publish;
pub(crate) use reply::reply;
pub(crate) use request::request;
pub(crate) use subscribe::subscribe;

pub use body::BodyArgs;
pub use publish::PubArgs;
pub use reply::ReplyArgs;
pub use request::ReqArgs;
pub use subscribe::SubArgs;

pub(crate) use body::{Body, headers, stdin};
pub(crate) use shown::{Shape, payload_json, show};
