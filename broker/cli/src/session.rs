//! From the context and the flags to a session of rooms: who one is, where both planes of a bus are,
//! and which room is meant.

use unibus_client::{Error, MyRoom, Options, Session};
use unibus_proto::control::RoomId;

use crate::connect::address;
use crate::context::Store;
use crate::error::{CliError, Result, wrong};
use crate::identity;
use crate::settings::Settings;

/// Port of a node's control plane where none is named.
const CONTROL_PORT: u16 = 8470;

/// What a session does by itself beside what it is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Care {
    /// It makes a new key for a room that it owns when somebody has gone: what runs for long.
    Rooms,
    /// Nothing.
    Nothing,
}

/// Where the servers of these settings are, as the rooms' library takes it.
///
/// # Errors
/// [`CliError::Wrong`] with the value that can't be used.
pub(crate) fn options(settings: &Settings) -> Result<Options> {
    if settings.tls_cert.is_some() {
        return wrong("rooms know their people by identity: leave out --tls-cert and --tls-key");
    }
    if settings.tls_first {
        return wrong("rooms are reached by TLS after the server's INFO: leave out --tls-first");
    }
    let mut options = Options::new().name("unibus");
    if let Some(ca) = &settings.tls_ca {
        options = options.ca(ca.clone());
    }
    if settings.timeout_ms.is_some() {
        options = options.call_timeout(settings.timeout());
    }
    for url in control_planes(settings)? {
        options = options.control_plane(url);
    }
    for server in settings.servers() {
        let named = server.contains("://");
        options = options.message_plane(if named {
            server
        } else {
            format!("nats://{server}")
        });
    }
    options.check().map_err(as_wrong)?;
    Ok(options)
}

/// The control planes: as named, or those of the servers.
fn control_planes(settings: &Settings) -> Result<Vec<String>> {
    if !settings.control.is_empty() {
        return Ok(settings.control.clone());
    }
    let scheme = match settings.tls_ca {
        Some(_) => "https",
        None => "http",
    };
    let mut urls = Vec::new();
    for server in settings.servers() {
        let server = address(&server)?;
        let host = server.host();
        // Library and URLs differ about the brackets of an IPv6 address.
        let url = match host.contains(':') && !host.starts_with('[') {
            true => format!("{scheme}://[{host}]:{CONTROL_PORT}"),
            false => format!("{scheme}://{host}:{CONTROL_PORT}"),
        };
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    Ok(urls)
}

/// Connects to both planes as the identity of these settings.
///
/// # Errors
/// [`CliError::Wrong`] for settings that can't be, or without an identity; [`CliError::Failed`] where
/// no server lets it in.
pub(crate) async fn open(settings: &Settings, care: Care) -> Result<Session> {
    let mut options = options(settings)?.caretaker(care == Care::Rooms);
    let me = identity::load(&identity::file_of(settings)?)?;
    // Without a home nothing is kept, and each run believes what the servers say of a room at first.
    if let Some(store) = Store::find() {
        let file = format!("rooms-{}.json", me.endpoint());
        options = options.memory(store.folder().join(file));
    }
    let nkey = me.nkey();
    Box::pin(Session::connect(me, options))
        .await
        .map_err(|error| match error {
            Error::Options(words) => CliError::Wrong(words),
            Error::Unreachable { .. } if settings.control.is_empty() => CliError::Failed(format!(
                "{error}; the control plane is looked for at port {CONTROL_PORT} of each server: \
                 --control names it"
            )),
            other => CliError::Failed(refusal(&other, &nkey)),
        })
}

fn refusal(error: &Error, nkey: &str) -> String {
    let text = error.to_string();
    match error.is_forbidden() || text.contains("authorization violation") {
        true => format!("{text}; an admin lets you in: unibus-node user add {nkey}"),
        false => text,
    }
}

/// The room that is meant: one that this identity belongs to, or else is invited to, by its id or its subject.
///
/// # Errors
/// [`CliError::Wrong`] where the name is that of several, [`CliError::Failed`] where there is none, or the
/// servers don't answer.
pub(crate) async fn room(session: &Session, named: &str) -> Result<RoomId> {
    let rooms = session.list_my_rooms().await.map_err(as_failed)?;
    let found = match joined(&rooms, named)? {
        Some(room) => Some(room),
        None => only(rooms.iter().filter(|room| !room.joined), named)?,
    };
    found_room(found, named)
}

/// The room that is meant, where an invitation to one is to be accepted.
///
/// # Errors
/// As [`room`].
pub(crate) async fn invitation(session: &Session, named: &str) -> Result<RoomId> {
    let rooms = session.list_my_rooms().await.map_err(as_failed)?;
    let found = match only(rooms.iter().filter(|room| !room.joined), named)? {
        Some(room) => Some(room),
        None => joined(&rooms, named)?,
    };
    found_room(found, named)
}

fn found_room(found: Option<&MyRoom>, named: &str) -> Result<RoomId> {
    match found {
        Some(room) => Ok(room.id.clone()),
        None => Err(CliError::Failed(format!(
            "you belong to no room {named:?}: unibus room list shows yours"
        ))),
    }
}

/// The one of these rooms that was joined and is called so: invitations, which anybody may make, don't count.
///
/// # Errors
/// [`CliError::Wrong`] where there are several.
pub(crate) fn joined<'a>(rooms: &'a [MyRoom], named: &str) -> Result<Option<&'a MyRoom>> {
    only(rooms.iter().filter(|room| room.joined), named)
}

/// Whether a name is the room's id or its subject.
pub(crate) fn is_called(room: &MyRoom, named: &str) -> bool {
    room.id.as_str() == named || room.subject.as_str() == named
}

/// Whoever makes a room chooses its id and its subject: one room's id may be the subject of another.
fn only<'a>(rooms: impl Iterator<Item = &'a MyRoom>, named: &str) -> Result<Option<&'a MyRoom>> {
    let mut called = rooms.filter(|room| is_called(room, named));
    match (called.next(), called.next()) {
        (Some(one), Some(other)) => wrong(format!(
            "{named:?} is the name of two rooms: {} on {}, and {} on {}; name the one you mean by its other name",
            one.id, one.subject, other.id, other.subject
        )),
        (found, _) => Ok(found),
    }
}

/// An error of a call, in its words.
pub(crate) fn as_failed(error: Error) -> CliError {
    match error {
        Error::Options(words) => CliError::Wrong(words),
        other => CliError::Failed(other.to_string()),
    }
}

fn as_wrong(error: Error) -> CliError {
    CliError::Wrong(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{control_planes, options};
    use crate::settings::Settings;

    fn settings(servers: &[&str], control: &[&str], ca: bool) -> Settings {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Settings {
            servers: owned(servers),
            control: owned(control),
            tls_ca: ca.then(|| "ca.crt".into()),
            ..Settings::default()
        }
    }

    #[test]
    fn the_control_plane_is_beside_the_servers_unless_named() {
        for (servers, ca, wanted) in [
            (&[][..], false, "http://127.0.0.1:8470"),
            (&["tls://a.example:4333"], true, "https://a.example:8470"),
            (&["a.example"], false, "http://a.example:8470"),
            (&["nats://[::1]:4222"], false, "http://[::1]:8470"),
            (
                &["nats://a", "nats://b", "nats://a:1"],
                false,
                "http://a:8470,http://b:8470",
            ),
        ] {
            let settings = settings(servers, &[], ca);
            assert_eq!(control_planes(&settings).unwrap().join(","), wanted);
            assert!(options(&settings).is_ok(), "{servers:?}");
        }
        let named = settings(&["nats://a"], &["http://x:1"], false);
        assert_eq!(control_planes(&named).unwrap(), ["http://x:1"]);
    }

    #[test]
    fn what_is_not_secure_is_refused_with_status_2() {
        for bad in [
            settings(&["tls://a"], &["http://a:8470"], true),
            settings(&["tls://a"], &[], false),
            settings(&["nats://a"], &["https://a:8470"], false),
            settings(&["nats://a"], &["a:8470"], false),
            settings(&["ws://a"], &[], false),
        ] {
            assert_eq!(options(&bad).unwrap_err().status(), 2, "{bad:?}");
        }
        let mut certified = settings(&["nats://a"], &[], false);
        certified.tls_cert = Some("c".into());
        assert_eq!(options(&certified).unwrap_err().status(), 2);
    }
}
