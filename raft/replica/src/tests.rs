//! The replica as a whole: one node over restarts, three nodes over an in-process network with
//! partitions, damaged files, and openraft's own storage suite over the real log and the real state machine.

mod cluster;
mod damage;
mod durable;
mod failover;
mod harness;
mod identity;
mod indexes;
mod reads;
mod single;
mod stored;
mod suite;
