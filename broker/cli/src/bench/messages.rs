//! Plain messages: publishing, receiving, asking.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::load::{Load, Share, Times, note, payload, phase, times};
use super::report::Report;
use super::{AmountArgs, PubArgs, RequestArgs, SubArgs};
use crate::connect::{Bus, connect};
use crate::error::{Attempt, Result, failed};
use crate::output;
use crate::settings::Settings;

/// How long silence lasts before what has not come counts as lost.
const SILENCE: Duration = Duration::from_secs(3);
/// Bytes of a message that hold its time.
const STAMP: usize = 8;

/// As many connections as clients are wanted.
async fn connections(settings: &Settings, count: u16) -> Result<Vec<Arc<Bus>>> {
    let mut all = Vec::with_capacity(count.into());
    for _ in 0..count {
        all.push(Arc::new(connect(settings).await?));
    }
    Ok(all)
}

/// A subject that nobody else uses.
fn own_subject(bus: &Bus) -> String {
    let inbox = bus.client.new_inbox();
    let id = inbox.rsplit('.').next().unwrap_or_default();
    format!("unibus.bench.{id}")
}

fn of(all: &[Arc<Bus>], number: u16) -> Result<Arc<Bus>> {
    match all.get(usize::from(number)) {
        Some(bus) => Ok(Arc::clone(bus)),
        None => failed("a connection is missing"),
    }
}

/// Publishes; subscribers of our own measure how long messages take.
///
/// # Errors
/// [`crate::error::CliError`].
pub(super) async fn publish(args: &PubArgs, settings: &Settings) -> Result<Vec<Report>> {
    let senders = connections(settings, args.amount.clients).await?;
    let receivers = connections(settings, args.subs).await?;
    let subject = match &args.subject {
        Some(subject) => subject.clone(),
        None => own_subject(of(&senders, 0)?.as_ref()),
    };
    let began = Instant::now();
    let load = Load::new(args.amount.msgs, args.amount.time);
    let mut arrivals = tokio::task::JoinSet::new();
    for bus in &receivers {
        let subscription = bus.client.subscribe(subject.clone()).await;
        let subscription = subscription.or_wrong(|| format!("can't subscribe to {subject:?}"))?;
        bus.subscribed().await?;
        let load = Arc::clone(&load);
        arrivals.spawn(measured(subscription, load, args.amount.msgs, began));
    }
    let (size, stamped) = (args.amount.size, args.subs > 0);
    let sent = phase("pub", &args.amount, &load, |number, share| {
        let bus = of(&senders, number);
        send(bus, subject.clone(), size, share, stamped.then_some(began))
    })
    .await;
    load.stop();
    let mut reports = vec![sent?];
    if args.subs > 0 {
        reports.push(deliveries(args, arrivals, load.finished()).await?);
    }
    Ok(reports)
}

async fn deliveries(
    args: &PubArgs,
    mut arrivals: tokio::task::JoinSet<Result<(Times, u64, Duration)>>,
    sent: u64,
) -> Result<Report> {
    let (mut all, mut got, mut took) = (times()?, 0, Duration::ZERO);
    while let Some(ended) = arrivals.join_next().await {
        let ended = ended.or_failed(|| "a subscriber ended".to_owned())?;
        let (times, count, time) = ended?;
        all.add(times).or_failed(|| "no histogram".to_owned())?;
        got += count;
        took = took.max(time);
    }
    let lost = (sent * u64::from(args.subs)).saturating_sub(got);
    Ok(Report::new("delivery", &args.amount, got, took, all)
        .by(args.subs)
        .lost(lost))
}

/// Publishes a share; with `began`, each message says how long after it was sent.
async fn send(
    bus: Result<Arc<Bus>>,
    subject: String,
    size: u64,
    mut share: Share,
    began: Option<Instant>,
) -> Result<Times> {
    let bus = bus?;
    let (subject, plain) = (async_nats::Subject::from(subject), payload(size));
    while share.more() {
        let payload = match began {
            Some(began) => stamped(&plain, began),
            None => plain.clone(),
        };
        let sent = bus.client.publish(subject.clone(), payload).await;
        sent.or_failed(|| format!("can't publish to {subject}"))?;
        share.done();
    }
    bus.arrived().await?;
    times()
}

fn stamped(plain: &Bytes, began: Instant) -> Bytes {
    let mut message = BytesMut::with_capacity(plain.len().max(STAMP));
    message.put_u64(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    message.extend_from_slice(plain.get(STAMP..).unwrap_or_default());
    message.freeze()
}

/// Receives until everything has come, or nothing more does.
async fn measured(
    mut subscription: Subscriber,
    load: Arc<Load>,
    limit: u64,
    began: Instant,
) -> Result<(Times, u64, Duration)> {
    let (mut times, mut got, mut last) = (times()?, 0, began);
    while got < limit {
        let message = match timeout(SILENCE, subscription.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(_) if load.is_over() => break,
            Err(_) => continue,
        };
        let stamp = message.payload.get(..STAMP);
        if let Some(stamp) = stamp.and_then(|stamp| <[u8; STAMP]>::try_from(stamp).ok()) {
            let sent = began + Duration::from_nanos(u64::from_be_bytes(stamp));
            note(&mut times, sent);
        }
        got += 1;
        last = Instant::now();
        if load.is_over() && got >= load.finished() {
            break;
        }
    }
    Ok((times, got, last - began))
}

/// Counts what others publish, from the first message on.
///
/// # Errors
/// Where nothing comes.
pub(super) async fn receive(args: &SubArgs, settings: &Settings) -> Result<Vec<Report>> {
    let buses = connections(settings, args.amount.clients).await?;
    let mut subscriptions = Vec::with_capacity(buses.len());
    for bus in &buses {
        let subject = args.subject.clone();
        let subscription = match &args.queue {
            Some(queue) => bus.client.queue_subscribe(subject, queue.clone()).await,
            None => bus.client.subscribe(subject).await,
        };
        let what = || format!("can't subscribe to {:?}", args.subject);
        subscriptions.push(subscription.or_wrong(what)?);
        bus.subscribed().await?;
    }
    output::tell(&format!(
        "waiting for messages on {:?}; Ctrl-C ends it",
        args.subject
    ));
    let mut messages = futures::stream::select_all(subscriptions);
    let first = tokio::select! {
        first = messages.next() => first,
        _ = tokio::signal::ctrl_c() => None,
    };
    if first.is_none() {
        return failed("nothing came");
    }
    let limit = match args.queue {
        Some(_) => args.amount.msgs,
        None => args.amount.msgs * u64::from(args.amount.clients),
    };
    let (load, whole) = (Load::new(limit, args.amount.time), args.amount.clone());
    let one = AmountArgs {
        clients: 1,
        ..whole.clone()
    };
    let counting = std::sync::Mutex::new(Some(messages));
    let report = phase("sub", &one, &load, |_, share| {
        let messages = counting.lock().ok().and_then(|mut held| held.take());
        count(messages, share)
    })
    .await?;
    let lost = match load.is_over() {
        true => 0,
        false => limit - load.finished(),
    };
    Ok(vec![report.by(whole.clients).lost(lost)])
}

async fn count(
    messages: Option<futures::stream::SelectAll<Subscriber>>,
    mut share: Share,
) -> Result<Times> {
    let Some(mut messages) = messages else {
        return failed("there is no subscription");
    };
    // The first one came before the clock was started.
    if share.more() {
        share.done();
    }
    while share.more() {
        match timeout(SILENCE, messages.next()).await {
            Ok(Some(_)) => share.done(),
            Ok(None) | Err(_) => break,
        }
    }
    times()
}

/// Asks one question after the other with each client.
///
/// # Errors
/// Where one is not answered.
pub(super) async fn request(args: &RequestArgs, settings: &Settings) -> Result<Vec<Report>> {
    let askers = connections(settings, args.amount.clients).await?;
    let answerers = connections(settings, args.responders).await?;
    let subject = match &args.subject {
        Some(subject) => subject.clone(),
        None => own_subject(of(&askers, 0)?.as_ref()),
    };
    let mut answering = tokio::task::JoinSet::new();
    for bus in &answerers {
        let group = "unibus-bench".to_owned();
        let questions = bus.client.queue_subscribe(subject.clone(), group).await;
        let questions = questions.or_wrong(|| format!("can't subscribe to {subject:?}"))?;
        bus.subscribed().await?;
        answering.spawn(answer(bus.client.clone(), questions));
    }
    let load = Load::new(args.amount.msgs, args.amount.time);
    let size = args.amount.size;
    let report = phase("request", &args.amount, &load, |number, share| {
        ask(of(&askers, number), subject.clone(), size, share)
    })
    .await;
    answering.abort_all();
    Ok(vec![report?])
}

async fn answer(client: Client, mut questions: Subscriber) {
    while let Some(question) = questions.next().await {
        let Some(reply) = question.reply else {
            continue;
        };
        if client.publish(reply, question.payload).await.is_err() {
            return;
        }
    }
}

async fn ask(bus: Result<Arc<Bus>>, subject: String, size: u64, mut share: Share) -> Result<Times> {
    let (bus, mut times) = (bus?, times()?);
    let (subject, payload) = (async_nats::Subject::from(subject), payload(size));
    while share.more() {
        let began = Instant::now();
        let answer = bus.client.request(subject.clone(), payload.clone()).await;
        answer.or_failed(|| format!("no answer from {subject}"))?;
        note(&mut times, began);
        share.done();
    }
    Ok(times)
}
