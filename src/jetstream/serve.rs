//! What this node does for its peers as the leader: `RpcClass::Leader`.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use unibus_proto::NodeId;

use super::core::Core;
use super::leader::ToLeader;

/// Serves one request. What has an order happens before the future is polled.
pub(super) fn serve(
    core: &Arc<Core>,
    from: NodeId,
    request: &Bytes,
) -> BoxFuture<'static, Result<Bytes, String>> {
    let request = match ToLeader::decode(request) {
        Ok(request) => request,
        Err(error) => return ready(Err(error.to_string())).boxed(),
    };
    match request {
        ToLeader::Inputs { batch } => {
            let verdict = core.engine.accept(batch, false);
            async move {
                match verdict.await {
                    Ok(verdict) => Ok(verdict.encode()),
                    Err(_) => Err("no longer the leader".to_owned()),
                }
            }
            .boxed()
        }
        _ if !core.is_leader() => {
            tracing::debug!(%from, "asked as the leader, which this node is not");
            // The peer looks for the leader anew.
            ready(Err("not the leader".to_owned())).boxed()
        }
        ToLeader::ConsumerInfo { stream, consumer } => {
            ready(info(core, &stream, &consumer)).boxed()
        }
        ToLeader::Unpin {
            stream,
            consumer,
            group,
        } => {
            let answer: &'static [u8] = match core.engine.unpin(core, &stream, &consumer, &group) {
                None => b"",
                Some(false) => b"\0",
                Some(true) => b"\x01",
            };
            ready(Ok(Bytes::from_static(answer))).boxed()
        }
        ToLeader::StepDown => {
            let core = Arc::clone(core);
            async move {
                core.replica.transfer_leadership().await;
                Ok(Bytes::new())
            }
            .boxed()
        }
    }
}

/// The JSON of a consumer's info, or nothing when there is no such consumer.
fn info(core: &Core, stream: &str, consumer: &str) -> Result<Bytes, String> {
    let Some(mut info) = core.consumer_info(stream, consumer) else {
        return Ok(Bytes::new());
    };
    core.add_live(&mut info);
    serde_json::to_vec(&info)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}
