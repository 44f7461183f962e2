//! When this node's route certificate expires: one that has is refused at the start, and one that is about to
//! is told in time. Routes that stand outlive it, so nobody would notice before they break.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::mesh;
use crate::shutdown::Shutdown;

/// How long before its end it is told: time to issue another and to restart one node after the other.
const TOLD_BEFORE: Duration = Duration::from_secs(30 * DAY_S);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(DAY_S);
const DAY_S: u64 = 24 * 3600;

/// Why a route certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It can't be read.
    #[error(transparent)]
    Unreadable(#[from] mesh::MeshError),
    /// No peer would accept it.
    #[error(
        "route certificate {} expired {days} days ago: issue another with `unibus-node pki issue` and put it \
         in its place",
        path.display()
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// Since when, in whole days.
        days: u64,
    },
}

/// Checks that the certificate in a PEM file has not expired.
///
/// # Errors
/// [`CertificateError`].
pub fn check_route_certificate(path: &Path) -> Result<(), CertificateError> {
    let not_after = mesh::certificate_not_after(path)?;
    match SystemTime::now().duration_since(not_after) {
        Err(_) => Ok(()),
        Ok(since) => Err(CertificateError::Expired {
            path: path.to_owned(),
            days: since.as_secs() / DAY_S,
        }),
    }
}

/// Says once a day that the certificate is about to expire, until shutdown.
pub(super) async fn watch(path: PathBuf, not_after: SystemTime, mut shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.wait() => {}
        () = async {
            loop {
                if let Some(words) = warning(not_after, SystemTime::now()) {
                    tracing::warn!(path = %path.display(), "the route certificate {words}: issue another with \
                        `unibus-node pki issue`, put it in its place and restart the node");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        } => {}
    }
}

fn warning(not_after: SystemTime, now: SystemTime) -> Option<String> {
    match not_after.duration_since(now) {
        Err(_) => Some("has expired: routes that end are not made again".to_owned()),
        Ok(left) if left <= TOLD_BEFORE => {
            let days = left.as_secs() / DAY_S;
            Some(format!("expires in {days} days"))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{TOLD_BEFORE, check_route_certificate, warning};

    #[test]
    fn what_expires_is_told_a_month_before_and_what_has_expired_is_refused() {
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(warning(now + TOLD_BEFORE + day, now), None);
        let soon = warning(now + day * 3, now).unwrap();
        assert_eq!(soon, "expires in 3 days");
        assert!(warning(now - day, now).unwrap().contains("has expired"));

        let dir = tempfile::tempdir().unwrap();
        let write = |year: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["n".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let path = dir.path().join(format!("{year}.crt"));
            std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
            path
        };
        check_route_certificate(&write(4000)).unwrap();
        let refused = check_route_certificate(&write(2020)).unwrap_err();
        assert!(refused.to_string().contains("expired"), "{refused}");
    }
}
