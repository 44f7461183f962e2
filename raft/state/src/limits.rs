//! What the account and the server may use together: replicated, so that every node refuses the same.
//! Set by a command from the nodes' configuration; -1 is no limit.

use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::config::{Storage, StreamConfig};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::AccountLimits;

use crate::command::ConsumerCreate;
use crate::state::State;
use crate::stream::limit;

/// All limits that are not a stream's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The account's.
    pub account: AccountLimits,
    /// Bytes in memory that the servers give (`max_mem_store`).
    pub server_memory: i64,
    /// Bytes on disk that the servers give (`max_file_store`).
    pub server_storage: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            account: AccountLimits::default(),
            server_memory: -1,
            server_storage: -1,
        }
    }
}

impl Limits {
    fn account_bytes(&self, storage: Storage) -> Option<u64> {
        limit(match storage {
            Storage::File => self.account.max_storage,
            Storage::Memory => self.account.max_memory,
        })
    }

    fn server_bytes(&self, storage: Storage) -> Option<u64> {
        limit(match storage {
            Storage::File => self.server_storage,
            Storage::Memory => self.server_memory,
        })
    }

    fn stream_bytes(&self, storage: Storage) -> Option<u64> {
        limit(match storage {
            Storage::File => self.account.storage_max_stream_bytes,
            Storage::Memory => self.account.memory_max_stream_bytes,
        })
    }

    /// Whether bytes in use matter at all.
    pub(crate) fn bounds_bytes(&self) -> bool {
        [Storage::File, Storage::Memory].into_iter().any(|storage| {
            self.account_bytes(storage).is_some() || self.server_bytes(storage).is_some()
        })
    }
}

/// Bytes in use: file, memory.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) file: u64,
    pub(crate) memory: u64,
}

impl Used {
    pub(crate) fn of(&mut self, storage: Storage) -> &mut u64 {
        match storage {
            Storage::File => &mut self.file,
            Storage::Memory => &mut self.memory,
        }
    }
}

fn exhausted(storage: Storage) -> ApiError {
    match storage {
        Storage::File => error::STORAGE_RESOURCES_EXCEEDED,
        Storage::Memory => error::MEMORY_RESOURCES_EXCEEDED,
    }
}

impl State {
    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether a stream may be created (`before` = `None`) or changed.
    pub(crate) fn check_stream_limits(
        &self,
        config: &StreamConfig,
        before: Option<&StreamConfig>,
    ) -> Result<(), ApiError> {
        let account = &self.limits.account;
        let others = self.streams().filter(|stream| !stream.is_control());
        if before.is_none()
            && limit(account.max_streams).is_some_and(|max| others.count() as u64 >= max)
        {
            return Err(error::MAXIMUM_STREAMS_LIMIT);
        }
        let bytes = limit(config.max_bytes);
        if account.max_bytes_required && bytes.is_none() {
            return Err(error::STREAM_MAX_BYTES_REQUIRED);
        }
        let Some(bytes) = bytes else {
            return Ok(());
        };
        let storage = config.storage;
        if self
            .limits
            .stream_bytes(storage)
            .is_some_and(|max| bytes > max)
        {
            return Err(error::STREAM_MAX_STREAM_BYTES_EXCEEDED);
        }
        let info = self.account_info();
        let reserved = match storage {
            Storage::File => info.reserved_storage,
            Storage::Memory => info.reserved_memory,
        };
        let own = before.map_or(0, |config| limit(config.max_bytes).unwrap_or(0));
        let wanted = reserved.saturating_sub(own).saturating_add(bytes);
        let over = |max: Option<u64>| max.is_some_and(|max| wanted > max);
        // A stream that asks for no more than it has may always be changed.
        if bytes > own
            && (over(self.limits.account_bytes(storage)) || over(self.limits.server_bytes(storage)))
        {
            return Err(exhausted(storage));
        }
        Ok(())
    }

    /// Whether a consumer may be created, if it is not there yet.
    pub(crate) fn check_consumer_limits(&self, create: &ConsumerCreate) -> Result<(), ApiError> {
        let (config, account) = (&create.config, &self.limits.account);
        let stream = self.stream(&create.stream);
        let known = |name: &str| stream.is_some_and(|stream| stream.consumer(name).is_some());
        if create.privileged || known(&config.name) || known(&config.durable_name) {
            return Ok(());
        }
        let max_ack_pending = config.max_ack_pending;
        let count = || -> u64 {
            let streams = self.streams().filter(|stream| !stream.is_control());
            streams.map(|stream| stream.consumers().len() as u64).sum()
        };
        if limit(account.max_consumers).is_some_and(|max| count() >= max) {
            return Err(error::MAXIMUM_CONSUMERS_LIMIT);
        }
        match limit(account.max_ack_pending) {
            Some(max) if max_ack_pending > 0 && max_ack_pending.unsigned_abs() > max => {
                let text = format!("consumer max ack pending exceeds system limit of {max}");
                Err(ApiError::with(400, 10121, text))
            }
            _ => Ok(()),
        }
    }

    /// Whether `bytes` more may be stored.
    pub(crate) fn check_room(&mut self, storage: Storage, bytes: u64) -> Result<(), ApiError> {
        if !self.limits.bounds_bytes() {
            return Ok(());
        }
        let used = self.used();
        let wanted = used.clone().of(storage).saturating_add(bytes);
        if self
            .limits
            .account_bytes(storage)
            .is_some_and(|max| wanted > max)
        {
            return Err(error::ACCOUNT_RESOURCES_EXCEEDED);
        }
        if self
            .limits
            .server_bytes(storage)
            .is_some_and(|max| wanted > max)
        {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        Ok(())
    }

    /// Bytes in use by all streams, counted again when something other than a publish changed them.
    fn used(&mut self) -> Used {
        if let Some(used) = self.used {
            return used;
        }
        let mut used = Used::default();
        for stream in self.streams() {
            *used.of(stream.config().storage) += stream.bytes();
        }
        self.used = Some(used);
        used
    }
}
