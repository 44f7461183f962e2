//! Somebody with keys, and requests as such a person makes them; each part of a request can be
//! changed after it was signed.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use unibus_proto::control::{
    EndpointId, MemberRole, Party, Policy, SignPublic, member_statement, room_statement,
    sealed_key_statement,
};
use unibus_proto::nkey::UserSeed;
use unibus_proto::signing::{body_hash, sign_request};

use crate::world::{Answer, raw};

/// Somebody.
pub(crate) struct Person {
    secret: [u8; 32],
}

/// A request that is ready to be sent, or to be spoilt first.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) from: [u8; 4],
}

impl Request {
    /// The bytes on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: node\r\n", self.method, self.uri);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!(
            "content-length: {}\r\nconnection: close\r\n\r\n",
            self.body.len()
        ));
        [head.into_bytes(), self.body.clone()].concat()
    }

    pub(crate) async fn send(&self, port: u16) -> anyhow::Result<Answer> {
        let answer = raw(port, self.from, &self.bytes()).await?;
        crate::openapi::describes(self, &answer);
        Ok(answer)
    }

    /// The value of a header, to be changed.
    pub(crate) fn header(&mut self, name: &str) -> &mut String {
        let found = self.headers.iter_mut().find(|(header, _)| *header == name);
        &mut found.expect("the header").1
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs()
}

impl Person {
    pub(crate) fn new() -> Self {
        Self {
            secret: rand::random(),
        }
    }

    pub(crate) fn seed(&self) -> UserSeed {
        UserSeed::from_bytes(self.secret)
    }

    pub(crate) fn sign_pub(&self) -> String {
        self.seed().public().to_hex()
    }

    pub(crate) fn endpoint(&self) -> EndpointId {
        EndpointId::of(&self.seed().public())
    }

    pub(crate) fn party(&self) -> Party {
        Party {
            endpoint: self.endpoint(),
            sign_pub: SignPublic(self.seed().public()),
            // Only its form matters to the node.
            kex_pub: self.sign_pub().parse().expect("32 bytes"),
        }
    }

    /// A request signed now.
    pub(crate) fn request(&self, method: &str, uri: &str, body: &[u8]) -> Request {
        self.request_at(now(), method, uri, body)
    }

    pub(crate) fn request_at(&self, at: u64, method: &str, uri: &str, body: &[u8]) -> Request {
        let hash = body_hash(body);
        let headers = sign_request(&self.seed(), method, uri, at, &rand::random(), &hash);
        Request {
            method: method.to_owned(),
            uri: uri.to_owned(),
            headers: headers.into(),
            body: body.to_vec(),
            from: [127, 0, 0, 1],
        }
    }

    pub(crate) async fn get(&self, port: u16, uri: &str) -> anyhow::Result<Answer> {
        self.request("GET", uri, b"").send(port).await
    }

    pub(crate) async fn post(&self, port: u16, uri: &str, body: &Value) -> anyhow::Result<Answer> {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        self.request("POST", uri, &body).send(port).await
    }

    pub(crate) async fn delete(&self, port: u16, uri: &str) -> anyhow::Result<Answer> {
        self.request("DELETE", uri, b"").send(port).await
    }

    /// A key sealed by this person to another (the node can't tell what is in it).
    pub(crate) fn sealed(&self, room: &str, epoch: u64, to: &EndpointId) -> Value {
        let sealed = format!("sealed {room} {epoch} {to}");
        let room = room.parse().expect("a room id");
        let statement = sealed_key_statement(&room, epoch, to, sealed.as_bytes());
        let text = data_encoding::BASE64.encode(sealed.as_bytes());
        json!({ "sealed_key": text, "signature": self.seed().sign(statement.as_bytes()) })
    }

    /// The body of `POST /rooms` for a room of this person's.
    pub(crate) fn room(&self, id: &str, subject: &str, policy: Policy) -> Value {
        self.room_of(&self.party(), id, subject, policy)
    }

    /// The same, signed by this person for another owner.
    pub(crate) fn room_of(&self, owner: &Party, id: &str, subject: &str, policy: Policy) -> Value {
        let (room, place) = (
            id.parse().expect("an id"),
            subject.parse().expect("a subject"),
        );
        let statement = room_statement(&room, &place, &policy, owner);
        json!({
            "id": id,
            "subject": subject,
            "policy": policy,
            "owner": owner,
            "signature": self.seed().sign(statement.as_bytes()),
            "sealed_key": self.sealed(id, 1, &owner.endpoint),
        })
    }

    /// The body of an invitation.
    pub(crate) fn invitation(&self, room: &str, epoch: u64, member: &Self) -> Value {
        let party = member.party();
        let id = room.parse().expect("a room id");
        let statement = member_statement(&id, &party, MemberRole::Member);
        json!({
            "member": party,
            "signature": self.seed().sign(statement.as_bytes()),
            "epoch": epoch,
            "sealed_key": self.sealed(room, epoch, &party.endpoint),
        })
    }

    /// The body of a rekey.
    pub(crate) fn rekey(&self, room: &str, epoch: u64, members: &[&Self]) -> Value {
        let keys: Vec<Value> = members
            .iter()
            .map(|member| {
                let mut key = self.sealed(room, epoch, &member.endpoint());
                key["endpoint"] = json!(member.endpoint());
                key
            })
            .collect();
        json!({ "epoch": epoch, "keys": keys })
    }
}

/// A name that no other test has.
pub(crate) fn fresh(prefix: &str) -> String {
    let random: [u8; 6] = rand::random();
    format!("{prefix}{}", data_encoding::HEXLOWER.encode(&random))
}
