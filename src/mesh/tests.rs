//! Real meshes on loopback with minted certificates: who gets a route, who does not and why, what
//! survives a restart, and what RPCs promise.

mod fixture;
mod hostile;
mod refusing;
mod routing;
mod rpc;
