//! One connection to a server, and what the server said against it.

use std::future::{Ready, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Auth, AuthError, Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use unibus_client::Identity;
use unibus_proto::nkey::UserSeed;

use crate::error::{Attempt, CliError, Result, failed, wrong};
use crate::output;
use crate::settings::Settings;

/// Complaints that are kept; a server that sends more has said enough.
const COMPLAINTS_MAX: usize = 64;
/// How long after the server's answer a refusal that it sent before may be told by the library.
const REFUSAL_GRACE: Duration = Duration::from_millis(25);

/// A connection and how patient its user is.
pub(crate) struct Bus {
    pub(crate) client: Client,
    /// How long one answer is awaited.
    pub(crate) timeout: Duration,
    domain: Option<String>,
    complaints: Arc<Complaints>,
    /// A subject of this connection alone, which it says a word to and hears it from.
    echo: String,
}

/// What the server refused, as it said it.
#[derive(Default)]
struct Complaints {
    list: Mutex<Vec<String>>,
    more: Notify,
}

/// A server's address.
///
/// # Errors
/// [`CliError::Wrong`] with the value and what is wanted.
pub(crate) fn address(server: &str) -> Result<async_nats::ServerAddr> {
    let parsed: std::result::Result<async_nats::ServerAddr, _> = server.parse();
    let address = parsed.or_wrong(|| format!("--server {server:?} is no address"))?;
    if address.host().is_empty() {
        return wrong(format!(
            "--server {server:?} names no host; wanted nats://HOST:PORT"
        ));
    }
    Ok(address)
}

/// Connects, or says why not.
///
/// # Errors
/// [`CliError::Wrong`] for settings that can't be; [`CliError::Failed`] where no server takes us.
pub(crate) async fn connect(settings: &Settings) -> Result<Bus> {
    let servers = settings.servers();
    let addresses = servers
        .iter()
        .map(|server| address(server))
        .collect::<Result<Vec<_>>>()?;
    let complaints = Arc::new(Complaints::default());
    let options = options(settings)
        .await?
        .event_callback(listener(Arc::clone(&complaints)));
    let names = servers.join(", ");
    let client = Box::pin(options.connect(addresses))
        .await
        .map_err(|error| refusal(&names, settings, &error))?;
    Ok(Bus {
        echo: client.new_inbox(),
        client,
        timeout: settings.timeout(),
        domain: settings.js_domain.clone(),
        complaints,
    })
}

/// The library's options for these settings.
async fn options(settings: &Settings) -> Result<ConnectOptions> {
    let mut options = logging_in(settings)
        .await?
        .name("unibus")
        .connection_timeout(settings.timeout())
        .request_timeout(Some(settings.timeout()));
    for file in [&settings.tls_ca, &settings.tls_cert, &settings.tls_key]
        .into_iter()
        .flatten()
    {
        std::fs::metadata(file).or_wrong(|| format!("can't read {}", file.display()))?;
    }
    if let Some(ca) = &settings.tls_ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if settings.tls_first {
        options = options.require_tls(true).tls_first();
    }
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    Ok(options)
}

/// Who we are to the server.
async fn logging_in(settings: &Settings) -> Result<ConnectOptions> {
    let login = &settings.login;
    let options = ConnectOptions::new();
    if let (Some(user), Some(password)) = (&login.user, &login.password) {
        return Ok(options.user_and_password(user.clone(), password.clone()));
    }
    if let Some(token) = &login.token {
        return Ok(options.token(token.clone()));
    }
    if let Some(path) = &login.nkey {
        return Ok(proving(seed(path)?, |seed| seed));
    }
    if let Some(path) = &login.identity {
        let identity = crate::identity::load(path)?;
        return Ok(proving(identity, Identity::signing));
    }
    if let Some(path) = &login.creds {
        let options = options.credentials_file(path).await;
        return options.or_wrong(|| format!("--creds {}", path.display()));
    }
    Ok(options)
}

/// Proves a key, and signs nothing for a server but nonces.
fn proving<K>(key: K, seed: fn(&K) -> &UserSeed) -> ConnectOptions
where
    K: Send + Sync + 'static,
{
    ConnectOptions::with_auth_callback(move |nonce| {
        let seed = seed(&key);
        let mut auth = Auth::new();
        auth.nkey = Some(seed.public().to_nkey());
        let proof = seed.answer_nonce(&nonce).map_err(AuthError::new);
        ready(proof.map(|proof| {
            auth.signature = Some(proof.to_vec());
            auth
        }))
    })
}

/// The seed in a file: the word of it that begins with SU.
fn seed(path: &std::path::Path) -> Result<UserSeed> {
    let what = || format!("--nkey {}", path.display());
    let text = std::fs::read_to_string(path).or_wrong(what)?;
    let word = text.split_whitespace().find(|word| word.starts_with("SU"));
    let Some(word) = word else {
        return wrong(format!(
            "{} holds no user's seed (a word that begins with SU)",
            what()
        ));
    };
    UserSeed::parse(word).or_wrong(what)
}

fn refusal(names: &str, settings: &Settings, error: &async_nats::ConnectError) -> CliError {
    // The library tells some of what went wrong in TLS by its words alone.
    let words = error.to_string();
    let text = match error.kind() {
        ConnectErrorKind::AuthorizationViolation => format!(
            "the server at {names} does not let {} in: authorization violation",
            settings.login.words()
        ),
        ConnectErrorKind::TimedOut => format!(
            "no answer from {names} within {}",
            crate::text::duration_shown(settings.timeout())
        ),
        ConnectErrorKind::Tls => format!(
            "no TLS with {names}: {error}; --tls-ca names the CA of the server's certificate"
        ),
        _ if words.contains("invalid peer certificate") => {
            format!(
                "no TLS with {names}: {error}; --tls-ca names the CA of the server's certificate"
            )
        }
        _ if words.contains("CertificateRequired") => format!(
            "no TLS with {names}: it wants to see a certificate; --tls-cert and --tls-key name one"
        ),
        _ => format!("can't connect to {names}: {error}"),
    };
    CliError::Failed(text)
}

/// Notes what the server refuses, and tells a person of lost and new connections.
fn listener(complaints: Arc<Complaints>) -> impl Fn(Event) -> Ready<()> + Send + Sync + 'static {
    let lost = AtomicBool::new(false);
    move |event| {
        match event {
            Event::Disconnected => {
                lost.store(true, Ordering::Relaxed);
                output::tell("unibus: the connection is lost; connecting again …");
            }
            Event::Connected if lost.swap(false, Ordering::Relaxed) => {
                output::tell("unibus: connected again");
            }
            Event::SlowConsumer(_) => {
                output::tell("unibus: messages come faster than they are read; some are lost");
            }
            Event::ServerError(ServerError::Other(text)) => complaints.add(text),
            Event::ServerError(other) => complaints.add(other.to_string()),
            _ => {}
        }
        ready(())
    }
}

impl Complaints {
    fn add(&self, text: String) {
        let text = text.trim_matches('\'').to_owned();
        if let Ok(mut list) = self.list.lock()
            && list.len() < COMPLAINTS_MAX
        {
            list.push(text);
        }
        self.more.notify_waiters();
    }

    fn find(&self, matches: impl Fn(&str) -> bool) -> Option<String> {
        let list = self.list.lock().ok()?;
        list.iter().find(|text| matches(text)).cloned()
    }

    /// Waits for a complaint that matches.
    async fn wait(&self, matches: impl Fn(&str) -> bool) -> String {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if let Some(found) = self.find(&matches) {
                return found;
            }
            more.await;
        }
    }
}

impl Bus {
    /// The streams' API, with the patience and the domain of the settings.
    pub(crate) fn jetstream(&self) -> async_nats::jetstream::Context {
        // The prefix that a builder without a domain and without a prefix has.
        let prefix = match &self.domain {
            Some(domain) => format!("$JS.{domain}.API"),
            None => "$JS.API".to_owned(),
        };
        ContextBuilder::new()
            .timeout(self.timeout)
            .ack_timeout(self.timeout)
            .api_prefix(prefix)
            .build(self.client.clone())
    }

    /// Waits until the server has dealt with everything that was published.
    ///
    /// # Errors
    /// Where it refused a publish, or does not answer in time.
    pub(crate) async fn published(&self) -> Result {
        self.settled("Violation for Publish", REFUSAL_GRACE).await
    }

    /// As [`Bus::published`], for measurements: a refusal that is told late is not waited for.
    pub(crate) async fn arrived(&self) -> Result {
        self.settled("Violation for Publish", Duration::ZERO).await
    }

    /// Waits until the server has dealt with everything that was subscribed to.
    ///
    /// # Errors
    /// Where it refused a subscription, or does not answer in time.
    pub(crate) async fn subscribed(&self) -> Result {
        self.settled("Violation for Subscription", REFUSAL_GRACE)
            .await
    }

    /// Whether a message is this connection's word to itself, which who listens to everything hears too.
    pub(crate) fn is_echo(&self, message: &async_nats::Message) -> bool {
        message.subject.as_str() == self.echo
    }

    /// A word to oneself comes back after the effects of all that went before, whoever else listens; so
    /// does a refusal of that very word, which says nothing about the command.
    async fn settled(&self, kind: &str, grace: Duration) -> Result {
        let prefix = self.echo.rsplit_once('.').map_or(&*self.echo, |two| two.0);
        let deadline = Instant::now() + self.timeout;
        let answered = timeout_at(deadline, async {
            tokio::select! {
                heard = self.hears_itself() => heard,
                _ = self.complaints.wait(|text| text.contains(prefix)) => Ok(()),
            }
        })
        .await;
        // The library tells refusals through a task of its own, which the answer may overtake.
        let is_it = |text: &str| text.contains(kind) && !text.contains(prefix);
        if !grace.is_zero() {
            let _none_came = tokio::time::timeout(grace, self.complaints.wait(is_it)).await;
        }
        let refused = self.complaints.find(is_it);
        match (refused, answered) {
            (Some(text), _) => failed(format!("the server refuses it: {text}")),
            (None, Ok(Ok(()))) => Ok(()),
            (None, Ok(Err(reason))) => failed(format!("the server did not confirm it: {reason}")),
            (None, Err(_)) => failed(format!(
                "the server did not confirm it within {}; --timeout gives it longer",
                crate::text::duration_shown(self.timeout)
            )),
        }
    }

    async fn hears_itself(&self) -> std::result::Result<(), String> {
        let (client, echo) = (&self.client, &self.echo);
        let subscribed = client.subscribe(echo.clone()).await;
        let mut heard = subscribed.map_err(|error| error.to_string())?;
        let said = client.publish(echo.clone(), "".into()).await;
        said.map_err(|error| error.to_string())?;
        match heard.next().await {
            Some(_) => Ok(()),
            None => Err("the connection is closed".to_owned()),
        }
    }

    /// Ends with the first refusal of a publish or a subscription.
    pub(crate) async fn refusal(&self) -> CliError {
        let text = self
            .complaints
            .wait(|text| text.contains("Violation"))
            .await;
        CliError::Failed(format!("the server refuses it: {text}"))
    }

    /// Ends with the first refusal of a subscription: a permission may be taken away at any time.
    pub(crate) async fn refused_subscription(&self) -> CliError {
        let text = self
            .complaints
            .wait(|text| text.contains("Violation for Subscription"))
            .await;
        CliError::Failed(format!("the server refuses it: {text}"))
    }
}
