//! Signed requests: whatever the headers are, reading them never fails by panic, and nothing but the
//! signer's own request is taken for it.

use unibus_proto::nkey::UserSeed;
use unibus_proto::signing::{
    HEADER_KEY, HEADER_NONCE, HEADER_SIGNATURE, HEADER_TIMESTAMP, RequestProof, body_hash,
    sign_request,
};

const METHOD: &str = "POST";
const URI: &str = "/rooms?wait=all";
const BODY: &[u8] = b"{}";
const AT_S: u64 = 1_700_000_000;

/// Lines are key, timestamp, nonce, signature, method, path and body; what is missing is as signed.
pub fn signed_request(data: &[u8]) {
    let hash = body_hash(BODY);
    let seed = UserSeed::from_bytes([7; 32]);
    let signed = sign_request(&seed, METHOD, URI, AT_S, &[9; 16], &hash);
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut given = |name: &str| {
        let line = lines.next().filter(|line| !line.is_empty());
        let text = line.map(|line| String::from_utf8_lossy(line).into_owned());
        text.unwrap_or_else(|| {
            let found = signed.iter().find(|(header, _)| *header == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        })
    };
    let headers = [HEADER_KEY, HEADER_TIMESTAMP, HEADER_NONCE, HEADER_SIGNATURE]
        .map(|name| (name, given(name)));
    let (mut method, mut uri, mut body) = (given(""), given(""), given(""));
    for (text, default) in [(&mut method, METHOD), (&mut uri, URI), (&mut body, "{}")] {
        if text.is_empty() {
            default.clone_into(text);
        }
    }
    let read = RequestProof::read(|name| {
        let found = headers.iter().find(|(header, _)| *header == name);
        found.map(|(_, value)| value.as_str())
    });
    let Ok(proof) = read else { return };
    let _ = proof.check_clock(AT_S * 1000);
    let fits = proof.check_signature(&method, &uri, &body_hash(body.as_bytes()));
    // The key may be spelled otherwise, the signature with or without padding: what is signed may not.
    let same = proof.key == seed.public()
        && proof.timestamp == AT_S
        && headers[2].1 == signed[3].1
        && (method.as_str(), uri.as_str(), body.as_bytes()) == (METHOD, URI, BODY);
    assert!(same || fits.is_err(), "a forged request is accepted");
}
