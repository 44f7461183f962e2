//! What monitoring is told about streams and consumers. Reads the replicated state of this node, and on
//! the leader what only the leader knows; the control plane's own streams are left out.

use unibus_proto::jetstream::info::{AccountInfo, ApiStats, ClusterInfo, ConsumerInfo, StreamInfo};
use unibus_state::State;

use super::core::Core;
use super::{JetStream, internal};

/// Sums over all streams of this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Streams, consumers and bytes, and how often the API was used.
    pub(crate) account: AccountInfo,
    /// Messages of all streams.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamReport {
    pub(crate) info: StreamInfo,
    /// When they were asked for.
    pub(crate) consumers: Option<Vec<ConsumerInfo>>,
}

impl JetStream {
    pub(crate) fn totals(&self) -> Totals {
        let core = &self.core;
        let (mut totals, account) = core.replica.with_state(|state| {
            let mut totals = Totals::default();
            for stream in state.streams().filter(|s| !internal::is_stream(s.name())) {
                totals.messages += stream.messages();
                totals.bytes += stream.bytes();
            }
            (totals, state.account_info())
        });
        let (total, errors, inflight) = core.counters.read();
        totals.account = AccountInfo {
            domain: core.options.domain.clone(),
            api: ApiStats {
                level: core.options.api_level,
                total,
                errors,
                inflight,
            },
            ..account
        };
        totals
    }

    /// Where all streams and consumers live.
    pub(crate) fn cluster(&self) -> ClusterInfo {
        self.core.cluster_info()
    }

    /// Up to `limit` streams by name.
    pub(crate) fn streams(&self, consumers: bool, limit: usize) -> Vec<StreamReport> {
        let core = &self.core;
        let cluster = core.cluster_info();
        let now = Core::now();
        let mut infos = core.replica.with_state(|state: &State| {
            let mut streams: Vec<_> = state
                .streams()
                .filter(|stream| !internal::is_stream(stream.name()))
                .collect();
            streams.sort_by(|a, b| a.name().cmp(b.name()));
            let infos = streams.iter().take(limit).map(|stream| {
                let names = stream.consumers().take(limit);
                let names: Vec<String> = names.map(|c| c.name().to_string()).collect();
                (Core::stream_info_of(state, stream, now), names)
            });
            infos.collect::<Vec<_>>()
        });
        let leads = core.is_leader();
        let reports = infos.drain(..).map(|(mut info, mut names)| {
            info.cluster = Some(cluster.clone());
            names.sort();
            let stream = info.config.name.clone();
            let consumers = consumers.then(|| {
                let of_name = |name: &String| {
                    let mut info = core.consumer_info(&stream, name)?;
                    if leads {
                        core.add_live(&mut info);
                    }
                    Some(info)
                };
                names.iter().filter_map(of_name).collect()
            });
            StreamReport { info, consumers }
        });
        reports.collect()
    }

    /// Whether this stream, and this consumer of it, are there.
    pub(crate) fn has(&self, stream: &str, consumer: Option<&str>) -> bool {
        self.core.replica.with_state(|state| {
            let stream = state.stream(stream);
            stream.is_some_and(|s| consumer.is_none_or(|name| s.consumer(name).is_some()))
        })
    }
}
