//! What strangers send to the payload API, on either side: a validator's token and request, a
//! server's answer, an operator's files.
//!
//! Whatever the bytes are, nothing panics; what is accepted means the same when it is written and
//! read again; and nobody is known by a token that was not made with his secret.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use preconf_payload_api::{
    BearerError, ErrorBody, MAX_REQUEST_BYTES, PayloadRequest, PayloadResponse, RequestBody,
    RequestError, ValidatorPubkey, ValidatorSecret, ValidatorSecrets, Whitelist, bearer,
};

/// When the tokens are looked at.
const NOW: u64 = 1_760_000_000;

/// Treats the bytes as each of the things that are read from strangers.
///
/// # Panics
/// If anything is accepted that does not mean what it says.
pub fn fuzz_bodies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    check_token(text.trim().as_bytes());
    check_header(bytes);
    check_request(bytes);
    check_body(bytes);
    if let Ok(response) = PayloadResponse::decode(bytes) {
        let again = PayloadResponse::decode(&response.to_json());
        assert_eq!(again.expect("what we write can be read"), response);
    }
    if let Ok(whitelist) = Whitelist::parse(&text) {
        assert!(!whitelist.is_empty());
    }
    if let Ok(secrets) = ValidatorSecrets::parse(&text) {
        assert!(!secrets.is_empty());
    }
    // A peer's error is shown, whatever it is.
    let _ = serde_json::from_slice::<ErrorBody>(bytes);
}

fn check_token(token: &[u8]) {
    let validators = [1, 2].map(|id| (ValidatorPubkey([id; 48]), [id; 32]));
    let listed = validators.map(|(pubkey, secret)| {
        let secret = alloy_primitives::hex::encode_prefixed(secret);
        format!("\"{pubkey}\":\"{secret}\"")
    });
    let listed = ValidatorSecrets::parse(&format!("{{{}}}", listed.join(",")))
        .expect("two validators with their secrets");
    let Ok(pubkey) = listed.identify(token, NOW) else { return };
    let token = str::from_utf8(token).expect("a token is text");
    for (known, secret) in validators {
        let verified = ValidatorSecret::from_bytes(secret).verify(token, NOW).is_ok();
        assert_eq!(verified, known == pubkey);
    }
}

/// A token is found where Go's server finds it, and it is that.
fn check_header(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let scheme = bytes.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    match bearer(&headers) {
        Ok(token) => {
            assert!(scheme && token == &bytes[7..]);
            check_token(token);
        }
        Err(BearerError::Missing) => assert!(bytes.is_empty()),
        Err(BearerError::Form) => assert!(!(bytes.is_empty() || scheme)),
    }
}

/// In whatever pieces a body comes, as much of it is read as a request may have.
fn check_body(bytes: &[u8]) {
    let kept = &bytes[..bytes.len().min(MAX_REQUEST_BYTES)];
    let is_cut = kept.len() < bytes.len();
    for size in [1, 1_000, usize::MAX] {
        let mut body = RequestBody::default();
        let _ = bytes.chunks(size).all(|piece| body.take(piece));
        match (body.read(), PayloadRequest::decode(kept)) {
            (Ok(read), Ok(decoded)) => assert_eq!(read, decoded),
            (Err(RequestError::TooLarge), Err(RequestError::Empty | RequestError::Truncated)) => {
                assert!(is_cut);
            }
            (Err(read), Err(decoded)) => {
                assert_eq!(read.to_string(), decoded.to_string());
                let is_short = matches!(decoded, RequestError::Empty | RequestError::Truncated);
                assert!(!is_cut || !is_short);
            }
            (read, decoded) => panic!("{read:?} in pieces, {decoded:?} at once"),
        }
    }
}

fn check_request(bytes: &[u8]) {
    let Ok(request) = PayloadRequest::decode(bytes) else { return };
    let mut written = request.to_json();
    assert_eq!(PayloadRequest::decode(&written).expect("what we write can be read"), request);
    // What follows is of no interest.
    written.extend_from_slice(bytes);
    assert_eq!(PayloadRequest::decode(&written).expect("it begins as before"), request);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODIES: [&[u8]; 2] = [
        include_bytes!("../../crates/payload-api/testdata/request.json"),
        include_bytes!("../../crates/payload-api/testdata/response.json"),
    ];

    proptest! {
        #[test]
        fn whatever_strangers_send_is_read_or_refused(bytes: Vec<u8>) {
            fuzz_bodies(&bytes);
        }

        #[test]
        fn a_good_body_with_something_wrong_in_it_is_read_or_refused(
            body in 0..BODIES.len(), at: usize, with: Vec<u8>, cut in 0..16_usize,
        ) {
            let body = BODIES[body];
            let at = at % body.len();
            let end = body.len().min(at + cut);
            let bytes = [&body[..at], &with, &body[end..]].concat();
            fuzz_bodies(&bytes);
        }

        #[test]
        fn a_body_is_cut_where_it_is_too_long_and_nowhere_else(
            before in 1_800..2_100_usize, after in 0..300_usize,
        ) {
            let bytes = [&b" ".repeat(before), BODIES[0], &b"x".repeat(after)].concat();
            fuzz_bodies(&bytes);
            let mut body = RequestBody::default();
            let _ = body.take(&bytes);
            let is_whole = before + BODIES[0].len() <= MAX_REQUEST_BYTES;
            assert_eq!(body.read().is_ok(), is_whole);
        }

        #[test]
        fn a_header_bears_a_token_after_its_scheme(
            scheme in "[Bb]earer|BEARER|Basic|bearer:|é|", space in " {0,2}", token in "[ -~é]{0,40}",
        ) {
            fuzz_bodies(format!("{scheme}{space}{token}").as_bytes());
        }

        #[test]
        fn a_token_is_known_by_its_secret_whenever_it_was_made(id in 1..4_u8, ago in -400..400_i64) {
            let made = NOW.saturating_add_signed(-ago);
            let bytes = ValidatorSecret::from_bytes([id; 32]).sign(made).into_bytes();
            fuzz_bodies(&bytes);
        }
    }
}
