//! `GET /users`, `POST /users`, `POST /users/{key}/revoke`: the allowlist, for admins.

use hyper::{Response, StatusCode};
use serde::Deserialize;
use unibus_proto::control::SignPublic;

use super::buckets::Bucket;
use super::caller::Caller;
use super::plane::Call;
use super::records::Entry;
use super::refusal::Refusal;
use super::reply::{Body, json};
use crate::access::{Grants, Role, Status, UserRecord};

const ADMINS_ONLY: &str = "only an admin can see and change the users";

/// Body of `POST /users`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddUser {
    sign_pub: SignPublic,
    #[serde(default)]
    name: String,
    #[serde(default = "member")]
    role: Role,
    #[serde(default)]
    grants: Grants,
}

fn member() -> Role {
    Role::Member
}

fn require_admin(caller: &Caller) -> Result<(), Refusal> {
    caller.require(ADMINS_ONLY, |identity| identity.role == Role::Admin)
}

pub(crate) async fn list(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let users = call
        .read(|records, caller| {
            require_admin(caller)?;
            Ok(records.list::<UserRecord>(Bucket::Users, "*")?)
        })
        .await?;
    let users: Vec<UserRecord> = users.into_iter().map(|(_, user)| user).collect();
    Ok(json(StatusCode::OK, &users))
}

pub(crate) async fn add(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let asked: AddUser = call.json()?;
    let record = UserRecord::new(&asked.sign_pub.0, &asked.name, asked.role, asked.grants)
        .map_err(|error| Refusal::bad(error.to_string()))?;
    let changed = call
        .change(|records, caller, draft| {
            require_admin(caller)?;
            let key = &record.sign_pub;
            let found: Entry<UserRecord> = records.get(Bucket::Users, key)?;
            if let Some(user) = found.value {
                return Err(Refusal::conflict(format!(
                    "this user is there already (role {}, {})",
                    user.role, user.status
                )));
            }
            draft.expect(Bucket::Users, key, found.revision);
            draft.put(Bucket::Users, key, &record);
            Ok(record.clone())
        })
        .await?;
    Ok(call.changed(StatusCode::CREATED, &changed))
}

pub(crate) async fn revoke(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let key: SignPublic = call.param(0)?;
    let key = key.to_string();
    let changed = call
        .change(|records, caller, draft| {
            require_admin(caller)?;
            let found: Entry<UserRecord> = records.get(Bucket::Users, &key)?;
            let Some(user) = found.value else {
                return Err(Refusal::not_found("there is no such user"));
            };
            if user.status == Status::Revoked {
                return Err(Refusal::conflict("this user is revoked already"));
            }
            let revoked = user.revoked();
            draft.expect(Bucket::Users, &key, found.revision);
            draft.put(Bucket::Users, &key, &revoked);
            Ok(revoked)
        })
        .await?;
    Ok(call.changed(StatusCode::OK, &changed))
}
