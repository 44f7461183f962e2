//! Flow control of push consumers: how many bytes may be on their way to a client before it has said
//! that it read them.

/// The first flow control window, bytes.
const FLOW_WINDOW_BYTES_MIN: u64 = 2 << 20;
/// The widest flow control window, bytes.
const FLOW_WINDOW_BYTES_MAX: u64 = 32 << 20;

#[derive(Clone, Debug)]
pub(super) struct Flow {
    window: u64,
    outstanding: u64,
    /// The unanswered request and the bytes its answer will confirm.
    asked: Option<(String, u64)>,
    announced: bool,
    requests: u64,
}

impl Flow {
    pub(super) fn new() -> Self {
        Self {
            window: FLOW_WINDOW_BYTES_MIN,
            outstanding: 0,
            asked: None,
            announced: true,
            requests: 0,
        }
    }

    /// Nothing is on its way any more; answers to what was asked before mean nothing.
    pub(super) fn renewed(&self) -> Self {
        Self {
            requests: self.requests,
            ..Self::new()
        }
    }

    pub(super) fn sent(&mut self, bytes: u64, stream: &str, consumer: &str) {
        self.outstanding += bytes;
        if self.outstanding > self.window / 2 {
            self.ask(stream, consumer);
        }
    }

    /// Asks how far the client is, unless it is being asked.
    pub(super) fn ask(&mut self, stream: &str, consumer: &str) {
        if self.asked.is_none() {
            self.requests += 1;
            let reply = format!("$JS.FC.{stream}.{consumer}.{:04X}", self.requests);
            self.asked = Some((reply, self.outstanding));
            self.announced = false;
        }
    }

    /// The request to send, once.
    pub(super) fn announce(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.announced, true) {
            return None;
        }
        self.asked().map(str::to_owned)
    }

    /// The request that waits for an answer.
    pub(super) fn asked(&self) -> Option<&str> {
        self.asked.as_ref().map(|(reply, _)| reply.as_str())
    }

    pub(super) fn confirm(&mut self) {
        if let Some((_, bytes)) = self.asked.take() {
            self.outstanding = self.outstanding.saturating_sub(bytes);
            self.window = (self.window * 2).min(FLOW_WINDOW_BYTES_MAX);
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.asked.is_some() && self.outstanding >= self.window
    }
}
