//! Who somebody is: an Ed25519 signing key and an X25519 key-agreement key (control-plane.md,
//! Identities), and the file that keeps them.

use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use unibus_keyfile::IdentityError;
use unibus_proto::control::{EndpointId, IdError, Party, SignPublic};
use unibus_proto::nkey::UserSeed;
use zeroize::{Zeroize, Zeroizing};

use crate::rooms::room_key::{KexSecret, SealError};

/// What a contact's text begins with; the two public keys follow in hex.
const CONTACT_PREFIX: &str = "unibus-contact:";
/// Hex digits of a signing key.
const SIGN_DIGITS: usize = 64;

/// Somebody's keys. The same signing key is the nkey by which a server knows its holder. Secrets are
/// wiped when dropped, and `Debug` shows the endpoint only.
///
/// ```
/// use unibus_client::Identity;
///
/// let me = Identity::generate()?;
/// println!("an admin has to add {}; a friend needs {}", me.nkey(), me.contact());
/// // What the friend reads from it: by which endpoint rooms know me, and my public keys.
/// let party = Identity::parse_contact(&me.contact())?;
/// assert_eq!((&party, &party.endpoint), (me.party(), me.endpoint()));
/// // The secret halves sign, and agree on keys; whoever has the public ones can tell.
/// let signature = me.sign_text("a statement");
/// assert!(party.sign_pub.0.verify(b"a statement", &signature));
/// assert!(me.signing().public() == party.sign_pub.0);
/// assert_eq!(me.agreement().public()?, party.kex_pub);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Identity {
    seed: UserSeed,
    kex: KexSecret,
    party: Party,
}

/// What an identity file holds.
#[derive(Serialize, Deserialize)]
struct Content {
    /// `SU…`, secret.
    seed: String,
    /// 64 hex digits, secret.
    kex_secret: String,
    /// `U…`.
    nkey: String,
    /// The same in hex.
    sign_pub: String,
    /// 64 hex digits.
    kex_pub: String,
    /// Follows from `sign_pub`.
    endpoint: String,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.seed.zeroize();
        self.kex_secret.zeroize();
    }
}

impl Identity {
    /// A new identity that is nowhere stored. Example: [`Identity`].
    ///
    /// # Errors
    /// [`IdentityError::Random`] where the system gives no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let (sign, kex) = (unibus_keyfile::random()?, unibus_keyfile::random()?);
        Self::from_secrets(*sign, *kex).map_err(|_| IdentityError::Random)
    }

    /// An identity from the secret halves of its two keys.
    ///
    /// ```
    /// use unibus_client::Identity;
    /// let (sign, kex) = ([1; 32], [2; 32]); // as an application keeps them itself
    /// let me = Identity::from_secrets(sign, kex)?;
    /// assert_eq!(me.party(), Identity::from_secrets(sign, kex)?.party());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SealError::Recipient`] where `kex` is no usable X25519 key.
    pub fn from_secrets(sign: [u8; 32], kex: [u8; 32]) -> Result<Self, SealError> {
        Self::of(UserSeed::from_bytes(sign), KexSecret::from_bytes(&kex)?)
    }

    fn of(seed: UserSeed, kex: KexSecret) -> Result<Self, SealError> {
        let sign_pub = SignPublic(seed.public());
        let party = Party {
            endpoint: sign_pub.endpoint(),
            sign_pub,
            kex_pub: kex.public()?,
        };
        Ok(Self { seed, kex, party })
    }

    /// Reads the identity in a file.
    ///
    /// ```no_run
    /// # use unibus_client::Identity;
    /// let me = Identity::load("me.json".as_ref())?;
    /// # Ok::<(), unibus_client::IdentityError>(())
    /// ```
    ///
    /// # Errors
    /// [`IdentityError`]; the file is left as it is.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let content: Content = unibus_keyfile::read(path)?;
        let corrupt = |reason| IdentityError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        let seed = UserSeed::parse(&content.seed).map_err(|_| corrupt("its seed is none"))?;
        let kex = HEXLOWER.decode(content.kex_secret.as_bytes());
        let kex = Zeroizing::new(kex.map_err(|_| corrupt("its kex_secret is not hex"))?);
        let kex = <&[u8; 32]>::try_from(kex.as_slice())
            .ok()
            .and_then(|bytes| KexSecret::from_bytes(bytes).ok())
            .ok_or_else(|| corrupt("its kex_secret is no X25519 key"))?;
        let identity = Self::of(seed, kex).map_err(|_| corrupt("its kex_secret is unusable"))?;
        let Party {
            endpoint,
            sign_pub,
            kex_pub,
        } = &identity.party;
        let consistent = content.nkey == sign_pub.0.to_nkey()
            && content.sign_pub == sign_pub.to_string()
            && content.kex_pub == kex_pub.as_str()
            && content.endpoint == endpoint.as_str();
        if consistent {
            Ok(identity)
        } else {
            Err(corrupt(
                "its secret keys and its public ones do not belong together",
            ))
        }
    }

    /// Reads the identity in a file, or creates it (mode 0600, folder included) where nothing is. Of
    /// two processes that do so at once, both get the same identity.
    ///
    /// ```
    /// use unibus_client::{Identity, IdentityError};
    /// # let folder = tempfile::tempdir()?;
    /// # let file = folder.path().join("me.json");
    /// let me = Identity::load_or_create(&file)?;
    /// assert_eq!(Identity::load(&file)?.party(), me.party());
    /// // What is there is never overwritten.
    /// let other = Identity::generate()?.create(&file);
    /// assert!(matches!(other, Err(IdentityError::Exists(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`IdentityError`]; a file that is there is never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        unibus_keyfile::load_or_create(path, Self::load, Self::generate, |new| new.create(path))
    }

    /// Writes the identity to a file that must not be there: complete or not at all.
    /// Example: [`Identity::load_or_create`].
    ///
    /// # Errors
    /// [`IdentityError::Exists`], [`IdentityError::Io`].
    pub fn create(&self, path: &Path) -> Result<(), IdentityError> {
        let Party {
            endpoint,
            sign_pub,
            kex_pub,
        } = &self.party;
        let content = Content {
            seed: self.seed.to_nkey(),
            kex_secret: HEXLOWER.encode(self.kex.to_bytes().as_slice()),
            nkey: sign_pub.0.to_nkey(),
            sign_pub: sign_pub.to_string(),
            kex_pub: kex_pub.to_string(),
            endpoint: endpoint.to_string(),
        };
        unibus_keyfile::create(path, &content)
    }

    /// The endpoint: the name by which rooms know this identity. Example: [`Identity`].
    #[must_use]
    pub fn endpoint(&self) -> &EndpointId {
        &self.party.endpoint
    }

    /// Endpoint and public keys: what somebody else needs to know to invite this identity.
    /// Example: [`Identity`].
    #[must_use]
    pub fn party(&self) -> &Party {
        &self.party
    }

    /// The public keys as a text to pass on: what [`Identity::parse_contact`] reads.
    /// Example: [`Identity`].
    #[must_use]
    pub fn contact(&self) -> String {
        let Party {
            sign_pub, kex_pub, ..
        } = &self.party;
        format!("{CONTACT_PREFIX}{sign_pub}{kex_pub}")
    }

    /// Reads somebody's [`Identity::contact`].
    ///
    /// ```
    /// use unibus_client::Identity;
    /// let me = Identity::generate()?;
    /// assert_eq!(&Identity::parse_contact(&me.contact())?, me.party());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`IdError`] where the text is no contact, or one of its keys is none.
    pub fn parse_contact(text: &str) -> Result<Party, IdError> {
        let keys = text.trim().strip_prefix(CONTACT_PREFIX);
        let (sign, kex) = keys
            .and_then(|keys| keys.split_at_checked(SIGN_DIGITS))
            .ok_or(IdError::Sign)?;
        let sign_pub: SignPublic = sign.parse()?;
        Ok(Party {
            endpoint: sign_pub.endpoint(),
            sign_pub,
            kex_pub: kex.parse()?,
        })
    }

    /// The public signing key as `U…`: what an admin adds to a server's users. Example: [`Identity`].
    #[must_use]
    pub fn nkey(&self) -> String {
        self.party.sign_pub.0.to_nkey()
    }

    /// Signs a text, such as a statement of [`unibus_proto::control`]: base64url.
    /// Example: [`Identity`].
    #[must_use]
    pub fn sign_text(&self, text: &str) -> String {
        self.seed.sign(text.as_bytes())
    }

    /// The signing key, for frames and requests. Example: [`Identity`].
    #[must_use]
    pub fn signing(&self) -> &UserSeed {
        &self.seed
    }

    /// The key-agreement key, for sealed room keys. Example: [`Identity`].
    #[must_use]
    pub fn agreement(&self) -> &KexSecret {
        &self.kex
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.party.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn an_identity_is_created_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/me.json");
        let missing = Identity::load(&path);
        assert!(matches!(missing, Err(IdentityError::Missing(_))));
        let created = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(created.party(), again.party());
        assert_eq!(created.agreement().to_bytes(), again.agreement().to_bytes());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let exists = created.create(&path);
        assert!(matches!(exists, Err(IdentityError::Exists(_))));
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(left.count(), 1, "no draft is left");
        let shown = format!("{created:?}");
        assert_eq!(shown, format!("Identity({})", created.endpoint()));
    }

    #[test]
    fn a_damaged_identity_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("me.json");
        let me = Identity::load_or_create(&path).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let other = Identity::generate().unwrap();
        let swap = |from: &str, to: &str| whole.replace(from, to);
        let damaged = [
            String::new(),
            "{}".into(),
            whole[..whole.len() / 2].into(),
            swap(me.endpoint().as_str(), other.endpoint().as_str()),
            swap(&me.nkey(), &other.nkey()),
            swap(me.party().kex_pub.as_str(), other.party().kex_pub.as_str()),
        ];
        for content in damaged {
            std::fs::write(&path, &content).unwrap();
            for outcome in [Identity::load(&path), Identity::load_or_create(&path)] {
                let corrupt = matches!(outcome, Err(IdentityError::Corrupt { .. }));
                assert!(corrupt, "{outcome:?}");
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::write(&path, &whole).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let open = Identity::load(&path);
        assert!(matches!(open, Err(IdentityError::Open(_))), "{open:?}");
    }
}
