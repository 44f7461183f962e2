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

pub(crate) use body::BodyArgs;
pub(crate) use publish::PubArgs;
pub(crate) use reply::ReplyArgs;
pub(crate) use request::ReqArgs;
pub(crate) use subscribe::SubArgs;

pub(crate) use body::{Body, headers, stdin};
pub(crate) use shown::{Shape, payload_json, show};
