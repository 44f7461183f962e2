//! Files: encrypted here, stored by the hash of their ciphertext, and fetched again, a piece at a time.
//! Memory is bounded by a few pieces, whatever the size of the file.

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Inner, Session};
use crate::control::Ask;
use crate::error::Error;
use crate::rooms::blob::{
    BlobError, BlobHash, BlobKey, BlobRef, Manifest, PIECE_BYTES, PIECES_MAX,
};

/// What a sender says about a file. Example: [`Session::put_blob`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FileInfo {
    /// Its name.
    pub name: Option<String>,
    /// Its media type, such as `image/png`.
    pub media_type: Option<String>,
    /// Its size, for progress only.
    pub size: Option<u64>,
}

/// How far a transfer has come, in bytes of the file. Example: [`Session::put_blob`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Transferred.
    pub done: u64,
    /// Of how many; `None` where the sender did not say.
    pub total: Option<u64>,
}

#[derive(Deserialize)]
struct Stored {
    hash: String,
}

impl Session {
    /// Encrypts a file and stores it. The reference that it answers with holds the key: it belongs into
    /// an encrypted room ([`Speech::file`](crate::Speech::file)) and nowhere else.
    ///
    /// ```no_run
    /// use unibus_client::{FileInfo, Progress, Speech};
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), Box<dyn std::error::Error>> {
    /// let file = tokio::fs::File::open("cat.png").await?;
    /// let info = FileInfo { name: Some("cat.png".into()), ..FileInfo::default() };
    /// let progress = |Progress { done, .. }| println!("{done} bytes");
    /// let stored = session.put_blob(file, info, progress).await?;
    /// session.publish(&room, Speech::file(&stored)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] where the file can't be read, [`Error::Blob`] where it is too large, and as every
    /// call.
    pub async fn put_blob(
        &self,
        mut file: impl AsyncRead + Unpin,
        info: FileInfo,
        mut progress: impl FnMut(Progress),
    ) -> Result<BlobRef, Error> {
        let inner = &self.inner;
        let key = BlobKey::random(&mut rand::rng());
        let mut pieces = Vec::new();
        let mut size = 0;
        let mut piece = next_piece(&mut file).await?;
        loop {
            // A piece says whether it is the last one, so the next one is read before.
            let full = piece.len() == PIECE_BYTES;
            let following = if full {
                next_piece(&mut file).await?
            } else {
                Vec::new()
            };
            let last = following.is_empty();
            let index = pieces.len() as u64;
            if index >= PIECES_MAX {
                return Err(BlobError::TooLarge.into());
            }
            size += piece.len() as u64;
            pieces.push(
                inner
                    .store_blob(key.seal_piece(index, last, &piece))
                    .await?,
            );
            progress(Progress {
                done: size,
                total: info.size,
            });
            if last {
                break;
            }
            piece = following;
        }
        let hash = match &pieces[..] {
            [only] => *only,
            _ => {
                let manifest = Manifest { size, pieces };
                inner.store_blob(key.seal_manifest(&manifest)).await?
            }
        };
        Ok(BlobRef {
            hash,
            key,
            size,
            name: info.name,
            media_type: info.media_type,
        })
    }

    /// Fetches a file, verifies and decrypts it, and writes it to `to`.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session, file: unibus_client::rooms::blob::BlobRef) -> Result<(), Box<dyn std::error::Error>> {
    /// let to = tokio::fs::File::create("cat.png").await?;
    /// session.get_blob(&file, to, |_| {}).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Blob`] where the bytes are not those that were stored, [`Error::Io`] where they can't be
    /// written; what was written until then is a beginning of the file.
    pub async fn get_blob(
        &self,
        file: &BlobRef,
        mut to: impl AsyncWrite + Unpin,
        mut progress: impl FnMut(Progress),
    ) -> Result<(), Error> {
        let inner = &self.inner;
        let root = inner.fetch_blob(&file.hash).await?;
        let (pieces, mut first) = if file.has_manifest() {
            (file.key.open_manifest(&root)?, None)
        } else {
            let pieces = vec![file.hash];
            let size = file.size;
            (Manifest { size, pieces }, Some(root))
        };
        let mut done = 0;
        let count = pieces.pieces.len();
        // Whoever made the reference may announce little and store much: nothing is written but what fits.
        let fits = pieces.size == file.size && count as u64 == pieces_of(file.size);
        if !fits {
            return Err(wrong_length(file, pieces.size));
        }
        for (index, hash) in pieces.pieces.iter().enumerate() {
            let sealed = match first.take() {
                Some(sealed) => sealed,
                None => inner.fetch_blob(hash).await?,
            };
            let last = index + 1 == count;
            let piece = file.key.open_piece(index as u64, last, &sealed)?;
            let length = piece.len() as u64;
            if length != (file.size - done).min(PIECE_BYTES as u64) {
                return Err(wrong_length(file, done + length));
            }
            let written = to.write_all(&piece).await;
            written.map_err(|source| io("writing the file", source))?;
            done += length;
            progress(Progress {
                done,
                total: Some(file.size),
            });
        }
        to.flush()
            .await
            .map_err(|source| io("writing the file", source))
    }
}

impl Inner {
    async fn store_blob(&self, sealed: Vec<u8>) -> Result<BlobHash, Error> {
        let hash = BlobHash::of(&sealed);
        let stored: Stored = self
            .control
            .call(Ask::bytes("/blobs", sealed.into()))
            .await?;
        if stored.hash == hash.to_string() {
            Ok(hash)
        } else {
            Err(BlobError::Hash(hash.to_string()).into())
        }
    }

    async fn fetch_blob(&self, hash: &BlobHash) -> Result<Bytes, Error> {
        let ask = Ask::get(format!("/blobs/{hash}"));
        let sealed = self.control.ask(ask).await.outcome?;
        hash.check(&sealed)?;
        Ok(sealed)
    }
}

/// How many pieces a file of `size` bytes has: an empty one has one.
fn pieces_of(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES as u64).max(1)
}

fn wrong_length(file: &BlobRef, found: u64) -> Error {
    let wanted = file.size;
    BlobError::Length { wanted, found }.into()
}

/// The next piece of a file, full unless the file ends in it.
async fn next_piece(file: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut part = file.take(PIECE_BYTES as u64);
    let read = part.read_to_end(&mut piece).await;
    read.map_err(|source| io("reading the file", source))?;
    Ok(piece)
}

fn io(doing: &'static str, source: std::io::Error) -> Error {
    Error::Io { doing, source }
}
