//! A broker on loopback and a client that speaks raw lines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use unibus_broker::{
    Admission, AuthError, AuthRequest, Authenticator, Broker, BrokerOptions, ClientListener,
    Decision, Grant, Limits, ListenerSettings, UserLimits,
};
use unibus_proto::permissions::Permissions;

/// Nothing in these tests takes longer, unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Admits everyone who doesn't say `user: nobody`, with one shared grant. `name@A` belongs to account `A`;
/// `user: slow` has to wait for a turn at the gate.
pub(crate) struct Anyone {
    grant: watch::Receiver<Grant>,
    gate: Arc<Semaphore>,
    limits: UserLimits,
    lifetime: Option<Duration>,
}

impl Authenticator for Anyone {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision {
        let certified = |name: &&str| {
            let names = request.certificate.map(|c| c.names()).unwrap_or_default();
            names.iter().any(|n| n == name)
        };
        if request.connect.user.as_deref() == Some("nobody") || certified(&"nobody@example") {
            return Decision::Now(Err(AuthError::Refused));
        }
        let user = request.connect.user.as_deref();
        let identity = user.map(Arc::from);
        let account = user.and_then(|user| user.split_once('@'));
        let admission = Admission {
            limits: self.limits,
            account: account.map(|(_, account)| Arc::from(account)),
            expires_at: self.lifetime.map(|left| SystemTime::now() + left),
            user: identity.clone(),
            identity,
            ..Admission::new(self.grant.clone())
        };
        if user != Some("slow") {
            return Decision::Now(Ok(admission));
        }
        let gate = Arc::clone(&self.gate);
        Decision::Later(Box::pin(async move {
            let turn = gate.acquire().await.map_err(|_| AuthError::Refused)?;
            turn.forget();
            Ok(admission)
        }))
    }
}

pub(crate) struct Node {
    pub(crate) broker: Broker,
    pub(crate) addr: SocketAddr,
    pub(crate) grant: watch::Sender<Grant>,
    pub(crate) gate: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut BrokerOptions)) -> Self {
        Self::for_users(UserLimits::default(), None, change).await
    }

    /// A node whose users have these limits and this time.
    pub(crate) async fn for_users(
        limits: UserLimits,
        lifetime: Option<Duration>,
        change: impl FnOnce(&mut BrokerOptions),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut options = BrokerOptions {
            port: addr.port(),
            ..BrokerOptions::default()
        };
        change(&mut options);
        let (grant, receiver) = watch::channel(Grant::Active(Arc::new(Permissions::all())));
        let gate = Arc::new(Semaphore::new(0));
        let anyone = Anyone {
            grant: receiver,
            gate: Arc::clone(&gate),
            limits,
            lifetime,
        };
        let broker = Broker::new(options, Arc::new(anyone));
        let (stop, stopped) = watch::channel(false);
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener, stopped).await });
        Self {
            broker,
            addr,
            grant,
            gate,
            stop,
        }
    }

    /// A further listener of the same broker. It closes with the node.
    pub(crate) async fn listen(&self, settings: ListenerSettings) -> (SocketAddr, ClientListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.listen_on(listener, settings)
    }

    pub(crate) fn listen_on(
        &self,
        listener: TcpListener,
        settings: ListenerSettings,
    ) -> (SocketAddr, ClientListener) {
        let addr = listener.local_addr().unwrap();
        let settings = ClientListener::new(settings);
        let (broker, own, stopped) = (self.broker.clone(), settings.clone(), self.stop.subscribe());
        tokio::spawn(async move { broker.serve_listener(listener, &own, stopped).await });
        (addr, settings)
    }

    pub(crate) async fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        Self::with(|options| change(&mut options.limits)).await
    }

    /// A raw client after INFO, before CONNECT.
    pub(crate) async fn dial(&self) -> Raw {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Raw::over(stream);
        raw.greeted().await;
        raw
    }

    /// A raw client that has connected as usual clients do.
    pub(crate) async fn client(&self) -> Raw {
        self.client_with("\"headers\":true,\"no_responders\":true")
            .await
    }

    /// The same with other CONNECT fields: `"echo":false`. Status lines need `headers` and
    /// `no_responders`.
    pub(crate) async fn client_with(&self, fields: &str) -> Raw {
        let mut raw = self.dial().await;
        raw.connect(fields).await;
        raw
    }
}

/// What a client may talk over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

pub(crate) struct Raw {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    pub(crate) info: String,
}

impl Raw {
    /// A client that has read and sent nothing.
    pub(crate) fn over(stream: impl Duplex + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
            info: String::new(),
        }
    }

    /// Reads the first INFO.
    pub(crate) async fn greeted(&mut self) {
        self.info = self.line().await;
        assert!(self.info.starts_with("INFO {"), "{}", self.info);
    }

    /// CONNECT and what follows it. Returns the second INFO.
    pub(crate) async fn connect(&mut self, fields: &str) -> String {
        self.send(&connect_line(fields)).await;
        assert_eq!(self.line().await, "PONG");
        let info = self.line().await;
        assert!(info.contains("\"connect_info\":true"), "{info}");
        info
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.stream.write_all(bytes))
            .await
            .expect("write in time")
            .unwrap();
    }

    async fn fill(&mut self) -> usize {
        timeout(DEADLINE, self.stream.read_buf(&mut self.buffer))
            .await
            .expect("read in time")
            .unwrap_or(0)
    }

    /// The next line without its end.
    pub(crate) async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8(line)
                    .unwrap()
                    .trim_end_matches(['\r', '\n'])
                    .to_owned();
            }
            assert!(self.fill().await > 0, "closed while a line was expected");
        }
    }

    /// Exactly these bytes come next.
    pub(crate) async fn expect(&mut self, text: &str) {
        while self.buffer.len() < text.len() {
            if self.fill().await == 0 {
                break;
            }
        }
        let got: Vec<u8> = self
            .buffer
            .drain(..text.len().min(self.buffer.len()))
            .collect();
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// Nothing came before the answer to a PING.
    pub(crate) async fn flush(&mut self) {
        self.send("PING\r\n").await;
        self.expect("PONG\r\n").await;
    }

    /// Everything up to the close.
    pub(crate) async fn rest(&mut self) -> String {
        while self.fill().await > 0 {}
        String::from_utf8(std::mem::take(&mut self.buffer)).unwrap()
    }

    /// How many messages come before the answer to a PING.
    pub(crate) async fn count_messages(&mut self) -> usize {
        self.send("PING\r\n").await;
        let mut messages = 0;
        loop {
            let line = self.line().await;
            if line == "PONG" {
                return messages;
            }
            if line.starts_with("MSG ") || line.starts_with("HMSG ") {
                messages += 1;
                let size: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
                self.skip(size + 2).await;
            }
        }
    }

    pub(crate) async fn skip(&mut self, bytes: usize) {
        while self.buffer.len() < bytes {
            assert!(self.fill().await > 0, "closed within a payload");
        }
        self.buffer.drain(..bytes);
    }
}

/// CONNECT and PING as usual clients send them.
pub(crate) fn connect_line(fields: &str) -> String {
    format!("CONNECT {{\"verbose\":false,\"pedantic\":false,\"protocol\":1,{fields}}}\r\nPING\r\n")
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        timeout(DEADLINE, wait).await.is_ok(),
        "never happened: {what}"
    );
}
