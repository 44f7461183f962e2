//! Makes a new cluster's first users those that `user add` left beside the node's identity before
//! the node ever started. A cluster that has, or had, a user takes none: who starts a node beside an
//! existing cluster gets no admin into it this way.

use std::time::Duration;

use unibus_raft::Replica;

use super::buckets::Bucket;
use super::records::{Committed, Draft, Records, StoreError};
use crate::access::UserRecord;
use crate::access::first_users::{FirstUsers, FirstUsersError};

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
/// Between two attempts while the cluster does not answer.
const RETRY: Duration = Duration::from_millis(200);

/// Takes the file's users, if there are any; returns when they are in force here, or put aside.
pub(crate) async fn take(replica: &Replica, file: &FirstUsers) {
    let users = match file.load() {
        Ok(users) if users.is_empty() => return,
        Ok(users) => users,
        Err(error) => {
            tracing::error!(%error, "this node's first users are not taken");
            return;
        }
    };
    let records = Records::new(replica.clone(), ATTEMPT_MAX);
    loop {
        match propose(&records, &users).await {
            Ok(committed) => return finish(file, &users, &committed),
            // Proposed again, an entry that was made after all finds its own records: then the users
            // are there, and the file is put aside instead of being removed.
            Err(error) => tracing::debug!(%error, "taking the first users: trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn propose(records: &Records, users: &[UserRecord]) -> Result<Committed, StoreError> {
    let mut draft = Draft::default();
    draft.expect_stream(Bucket::Users.stream(), 0);
    for user in users {
        draft.put(Bucket::Users, &user.sign_pub, user);
    }
    records.commit(draft).await
}

fn finish(file: &FirstUsers, users: &[UserRecord], committed: &Committed) {
    let put_away: Result<(), FirstUsersError> = match committed {
        Committed::Done { .. } => {
            for user in users {
                tracing::info!(user = user.sign_pub, role = %user.role, "first user added");
            }
            file.taken()
        }
        Committed::Conflict { .. } | Committed::Refused(_) => file.unused().map(|aside| {
            tracing::warn!(
                file = %aside.display(),
                "the cluster has users already: this node's first users are not added; an admin \
                 can add them"
            );
        }),
    };
    if let Err(error) = put_away {
        tracing::warn!(%error, "the file of this node's first users is left over");
    }
}
