//! What a session makes of servers that know less than it does.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use unibus_proto::control::Policy;

use super::*;

/// How a path begins, and what it is answered.
type Served = (&'static str, u16, String);

/// A refusal in a server's form.
fn refusal(words: &str) -> String {
    serde_json::json!({ "error": words }).to_string()
}

/// What the router of every build says of a path that leads nowhere.
fn nothing() -> String {
    refusal("nothing is here")
}

/// A control plane that serves this, and nothing else; the first that fits counts.
async fn server(served: Vec<Served>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let fits = served.iter().find(|(begin, ..)| path.starts_with(begin));
            let (status, body) = match fits {
                Some((_, status, body)) => (*status, body.clone()),
                None => (404, nothing()),
            };
            let answer = format!(
                "HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    format!("http://{address}")
}

/// The keys of an epoch, as a session asks these servers for them.
async fn keys(servers: &[&String]) -> Result<Vec<KeyReply>, Error> {
    let options = servers.iter().fold(Options::new(), |options, url| {
        options.control_plane(url.as_str())
    });
    let control = Control::new(&options, Arc::new(Identity::generate().unwrap())).unwrap();
    control.epoch_keys(&"kitchen".parse().unwrap(), 3).await
}

fn room() -> String {
    let record = RoomRecord {
        id: "kitchen".parse().unwrap(),
        subject: "team.kitchen".parse().unwrap(),
        policy: Policy::MATRIX,
        owner: Identity::generate().unwrap().party().endpoint.clone(),
        epoch: 3,
        created_at: "2026-11-30T00:00:00Z".to_owned(),
        owner_signature: String::new(),
        needs_rekey: false,
    };
    serde_json::to_string(&record).unwrap()
}

#[tokio::test]
async fn a_node_that_serves_the_room_and_not_its_keys_is_older() {
    let old = server(vec![
        ("/rooms/kitchen/keys", 404, nothing()),
        ("/rooms/kitchen", 200, room()),
    ])
    .await;
    let error = keys(&[&old]).await.unwrap_err();
    assert!(
        matches!(&error, Error::OlderNode { server, .. } if *server == old),
        "{error:?}"
    );
    let words = error.to_string();
    for said in ["older", "/rooms/{id}/keys", "upgrade"] {
        assert!(words.contains(said), "{said:?} is not in {words:?}");
    }
    // One that was upgraded already answers for all.
    let new = server(vec![("/rooms/kitchen/keys?epoch=3", 200, "[]".to_owned())]).await;
    assert_eq!(keys(&[&old, &new]).await.unwrap(), []);
    assert_eq!(keys(&[&new, &old]).await.unwrap(), []);
}

#[tokio::test]
async fn a_room_that_is_not_there_makes_no_older_node() {
    for wanted in [403, 404] {
        let none = server(vec![("/rooms/kitchen", wanted, refusal("no such room"))]).await;
        let error = keys(&[&none]).await.unwrap_err();
        assert!(
            matches!(&error, Error::Refused { status, words }
                if *status == wanted && words == "no such room"),
            "{error:?}"
        );
    }
    // Nor does a server that serves no rooms at all.
    let error = keys(&[&server(Vec::new()).await]).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { status: 404, .. }),
        "{error:?}"
    );
}
