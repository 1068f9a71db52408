//! The public keys of an issuer (JWKS, RFC 7517): read from a file or a URL, again after a time, so that a key that
//! was taken out is not taken for ever, and again when a token is of none of them, so that a new one is found at
//! once. An issuer that does not answer leaves the keys as they were.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse, RSAKeyParameters,
};
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use rowtide_postgres::said_once::SaidOnce;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{Mutex, watch};

use crate::limits::{
    JWKS_BYTES, JWKS_MAX_PAUSE, JWKS_MIN_PAUSE, JWKS_REFRESH, JWKS_TIMEOUT, MIN_RSA_BITS,
};

/// What public keys can check.
pub(super) const OF_KEYS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Keys cannot be read.
#[derive(Clone, Debug, Error)]
#[error("cannot read the keys of `{from}`: {why}")]
pub struct KeysError {
    /// File or URL.
    pub from: String,
    /// Why not.
    pub why: String,
}

pub(super) struct Jwks {
    source: Source,
    /// How old keys become.
    max_age: Duration,
    keys: watch::Sender<Keys>,
    /// When the keys were last asked for because of a token. Held while asking.
    asked: Mutex<Option<Instant>>,
}

/// What is known of an issuer's keys. Once there are some there always are.
enum Keys {
    /// They are being asked for, and there was no answer yet.
    Asked,
    /// They could not be read until now: why, in a sentence.
    Missing(String),
    Known(Arc<Known>),
}

/// Keys as they were read at one time.
pub(super) struct Known {
    keys: Vec<Key>,
    read: Instant,
}

enum Source {
    File(PathBuf),
    Url(String),
}

pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Known {
    /// The keys that a token may be of.
    pub(super) fn that_fit(&self, header: &Header) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.fits(header))
    }
}

impl Jwks {
    /// Reads the keys of a file; those of a URL are asked for by [`Jwks::keep_fresh`].
    pub(super) async fn of(from: &str, max_age: Duration) -> Result<Jwks, KeysError> {
        let (source, keys) = if from.starts_with("https://") || from.starts_with("http://") {
            (Source::Url(from.to_owned()), Keys::Asked)
        } else {
            let source = Source::File(PathBuf::from(from));
            let keys = source.read().await?;
            (source, Keys::Known(keys))
        };
        Ok(Jwks { source, max_age, keys: watch::channel(keys).0, asked: Mutex::new(None) })
    }

    pub(super) fn known(&self) -> Option<Arc<Known>> {
        match &*self.keys.borrow() {
            Keys::Known(known) => Some(Arc::clone(known)),
            Keys::Asked | Keys::Missing(_) => None,
        }
    }

    /// Why there are no keys, in a sentence.
    pub(super) fn missing(&self) -> Option<String> {
        match &*self.keys.borrow() {
            Keys::Known(_) => None,
            Keys::Asked => Some("the keys of tokens are being asked for".to_owned()),
            Keys::Missing(why) => Some(why.clone()),
        }
    }

    /// How long ago they were read.
    pub(super) fn age(&self) -> Option<Duration> {
        self.known().map(|known| known.read.elapsed())
    }

    /// Waits until there are keys. Cancel safe.
    pub(super) async fn are_known(&self) {
        // The sender lives as long as we do.
        drop(self.keys.subscribe().wait_for(|keys| matches!(keys, Keys::Known(_))).await);
    }

    /// Asks until there are keys, the less often the longer it takes, and again whenever they have become old.
    pub(super) async fn keep_fresh(&self) {
        let (mut pause, mut said) = (JWKS_MIN_PAUSE, SaidOnce::default());
        loop {
            if let Some(left) = self.age().and_then(|age| self.max_age.checked_sub(age)) {
                tokio::time::sleep(left).await;
                continue;
            }
            match self.source.read().await {
                Ok(keys) => {
                    if !said.is_empty() {
                        tracing::info!("the keys of tokens are there");
                    }
                    said.clear();
                    pause = JWKS_MIN_PAUSE;
                    self.keys.send_replace(Keys::Known(keys));
                }
                Err(error) => {
                    let why = error.to_string();
                    let is_first = self.known().is_none();
                    if said.is_new(&why) {
                        let meanwhile = if is_first {
                            "clients are told to come back until they are there"
                        } else {
                            "the old ones are taken until they can be read again"
                        };
                        tracing::warn!("{why}; {meanwhile}");
                    }
                    if is_first {
                        self.keys.send_replace(Keys::Missing(why));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(JWKS_MAX_PAUSE);
                }
            }
        }
    }

    /// Waits for the first answer of the issuer, whatever it is. Cancel safe.
    pub(super) async fn was_answered(&self) {
        // The sender lives as long as we do.
        drop(self.keys.subscribe().wait_for(|keys| !matches!(keys, Keys::Asked)).await);
    }

    /// Keys that were read after these. Of many who come with a new key at once one asks, and the others wait for
    /// the answer; tokens that are made up must not make us a load on the issuer.
    pub(super) async fn newer_than(&self, known: &Arc<Known>) -> Option<Arc<Known>> {
        let newer = || self.known().filter(|other| !Arc::ptr_eq(other, known));
        let mut asked = self.asked.lock().await;
        if let Some(newer) = newer() {
            return Some(newer);
        }
        if asked.is_some_and(|at| at.elapsed() < JWKS_REFRESH) {
            return None;
        }
        *asked = Some(Instant::now());
        match self.source.read().await {
            Ok(keys) => drop(self.keys.send_replace(Keys::Known(keys))),
            Err(error) => tracing::warn!(%error, "cannot refresh the keys of tokens"),
        }
        newer()
    }
}

impl Key {
    fn fits(&self, header: &Header) -> bool {
        let same_id = header.kid.is_none() || self.id.is_none() || header.kid == self.id;
        same_id && header.alg == self.algorithm
    }

    /// The key, if it may be one of tokens.
    fn of(jwk: &Jwk) -> Option<Key> {
        let operations = jwk.common.key_operations.as_ref();
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption))
            || operations.is_some_and(|of| !of.contains(&KeyOperations::Verify))
        {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(key) if bits(key) < MIN_RSA_BITS => {
                tracing::warn!(
                    bits = bits(key),
                    "an RSA key of the issuer is not taken: it has fewer than {MIN_RSA_BITS} bits"
                );
                return None;
            }
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            _ => return None,
        };
        let declared = jwk.common.key_algorithm;
        if declared.is_some_and(|declared| declared.to_string() != format!("{algorithm:?}")) {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Key { id: jwk.common.key_id.clone(), algorithm, key })
    }
}

impl Source {
    async fn read(&self) -> Result<Arc<Known>, KeysError> {
        let (from, text) = match self {
            Source::File(path) => (path.display().to_string(), read_file(path).await),
            Source::Url(url) => (shown(url), fetch(url).await),
        };
        let fail = |why: String| KeysError { from: from.clone(), why };
        let set: KeySet = serde_json::from_slice(&text.map_err(&fail)?)
            .map_err(|error| fail(format!("not a JWKS: {error}")))?;
        // One by one: keys of kinds that are not known stand beside the others (RFC 7517, 5).
        let readable = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = readable.filter_map(|jwk| Key::of(&jwk)).collect();
        if keys.is_empty() {
            let what = format!("for RS256 with at least {MIN_RSA_BITS} bits, ES256 or EdDSA");
            return Err(fail(format!("it has no key {what}")));
        }
        Ok(Arc::new(Known { keys, read: Instant::now() }))
    }
}

/// How long the modulus is; 0 if it cannot be read.
fn bits(key: &RSAKeyParameters) -> usize {
    // Base64 for URLs (RFC 7518, 6.3.1.1): six bits a character, those that are missing to whole bytes at the end.
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let text = key.n.trim_end_matches('=').bytes();
    let Some(digits) = text.map(digit).collect::<Option<Vec<u8>>>() else { return 0 };
    let whole = digits.len() * 6 / 8 * 8;
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    let zeros = digits.get(leading).map_or(0, |digit| digit.leading_zeros() as usize - 2);
    whole.saturating_sub(leading * 6 + zeros)
}

async fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| error.to_string())
}

/// A URL without what may be secret in it.
fn shown(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(url) => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{}://{host}{port}{}", url.scheme(), url.path())
        }
        Err(_) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}

async fn fetch(url: &str) -> Result<Vec<u8>, String> {
    // Installed already is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder()
        .timeout(JWKS_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(3))
        .build()
        .map_err(|error| error.to_string())?;
    let mut response = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| error.without_url().to_string())?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| e.without_url().to_string())? {
        if body.len() + chunk.len() > JWKS_BYTES {
            return Err(format!("it is larger than {JWKS_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
