//! Who is there: tokens (JWT, RFC 7519) and what they are checked with, a shared secret or the public
//! keys of an issuer (JWKS, RFC 7517). The algorithm is fixed by the key and never chosen by the
//! token: a secret checks HS256 alone, a public key its own algorithm alone. An issuer that cannot be reached when
//! the server starts is asked again until its keys are there; until then nobody can be told whether a token of it is
//! good, so clients are told to come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use rowtide_postgres::mutate::Author;
use rowtide_postgres::said_once::SaidOnce;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::limits::{
    JWKS_BYTES, JWKS_MAX_PAUSE, JWKS_MIN_PAUSE, JWKS_REFRESH, JWKS_TIMEOUT, MAX_TOKEN_BYTES,
    MAX_USER_ID_BYTES,
};

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);
/// What public keys can check.
const OF_KEYS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// The shortest secret, in bytes: as long as the output of SHA-256 (RFC 7518, 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// Whose token it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// For whom rules are judged; shared with everything that is done for them.
    pub author: Arc<Author>,
    /// When the token ends, seconds since 1970, by the clock of who issued it.
    pub expires_at_s: u64,
}

impl Identity {
    /// How long the token is still good at `unix`, the time since 1970, by whichever clock is slower. May be
    /// longer than an `Instant` can be away.
    pub fn remaining(&self, unix: Duration) -> Duration {
        // What is let in with some leeway must not be sent away at once for want of it.
        Duration::from_secs(self.expires_at_s).saturating_add(LEEWAY).saturating_sub(unix)
    }
}

/// Why a token is not taken. The text is for the client's author and holds nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unauthorized {
    /// There was none.
    #[error("a token is missing: send it as `Authorization: Bearer …` or in `connect`")]
    Missing,
    /// It is not a JWT that this server takes.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// `sub` cannot be a user id.
    #[error("the token's `sub` must be 1 to {MAX_USER_ID_BYTES} bytes without NUL")]
    UserId,
}

/// Why it is not known whose token it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is not taken, and will not be.
    #[error(transparent)]
    Unauthorized(#[from] Unauthorized),
    /// The keys that would tell were never read: it may be taken later. Why is for the operator alone.
    #[error("tokens cannot be checked yet: this server has not read the keys of their issuer")]
    NoKeysYet,
}

/// Why tokens cannot be checked at all, and will not be before the configuration is another.
#[derive(Debug, Error)]
pub enum AuthError {
    /// The secret is too short.
    #[error(
        "the token secret must have at least {MIN_SECRET_BYTES} bytes; make one with `openssl rand -base64 32`"
    )]
    ShortSecret,
    /// Neither a secret nor keys.
    #[error("tokens cannot be checked: set `token_secret` or `jwks`")]
    NoKeys,
    /// The file of keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Keys cannot be read.
#[derive(Clone, Debug, Error)]
#[error("cannot read the keys of `{from}`: {why}")]
pub struct KeysError {
    /// File or URL.
    pub from: String,
    /// Why not.
    pub why: String,
}

/// Where tokens' keys come from, and what tokens must say.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// The secret of HS256.
    pub secret: Option<String>,
    /// A file, or an `http(s)` URL, of a JWKS.
    pub jwks: Option<String>,
    /// The `iss` that tokens must have.
    pub issuer: Option<String>,
    /// The `aud` that tokens must have.
    pub audience: Option<String>,
}

/// Checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    inner: Arc<Inner>,
}

struct Inner {
    secret: Option<DecodingKey>,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<String>,
}

struct Jwks {
    source: Source,
    keys: watch::Sender<Keys>,
    /// When the keys were last asked for because of one that is not known. Held while asking.
    asked: Mutex<Option<Instant>>,
}

/// What is known of an issuer's keys. Once there are some there always are.
enum Keys {
    /// They are being asked for, and there was no answer yet.
    Asked,
    /// They could not be read until now: why, in a sentence.
    Missing(String),
    Known(Vec<Key>),
}

enum Source {
    File(PathBuf),
    Url(String),
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Payload {
    sub: String,
    #[serde(deserialize_with = "numeric_date")]
    exp: u64,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Auth {
    /// Reads the keys of a file; those of a URL are asked for from now on, until they are there or `stop`.
    ///
    /// # Errors
    /// When there is neither secret nor key, or a file of keys cannot be read.
    pub async fn start(options: &AuthOptions, stop: CancellationToken) -> Result<Auth, AuthError> {
        let secret = match &options.secret {
            Some(secret) if secret.len() < MIN_SECRET_BYTES => return Err(AuthError::ShortSecret),
            Some(secret) => Some(DecodingKey::from_secret(secret.as_bytes())),
            None => None,
        };
        let jwks = match &options.jwks {
            None => None,
            Some(from) => {
                let (source, keys) = if from.starts_with("https://") || from.starts_with("http://")
                {
                    (Source::Url(from.clone()), Keys::Asked)
                } else {
                    let source = Source::File(PathBuf::from(from));
                    let keys = source.read().await?;
                    (source, Keys::Known(keys))
                };
                Some(Jwks { source, keys: watch::channel(keys).0, asked: Mutex::new(None) })
            }
        };
        if secret.is_none() && jwks.is_none() {
            return Err(AuthError::NoKeys);
        }
        let (issuer, audience) = (options.issuer.clone(), options.audience.clone());
        let auth = Auth { inner: Arc::new(Inner { secret, jwks, issuer, audience }) };
        let asks = auth.clone();
        tokio::spawn(async move {
            if let Some(jwks) = &asks.inner.jwks {
                stop.run_until_cancelled(jwks.ask_until_known()).await;
            }
        });
        Ok(auth)
    }

    /// Why tokens of the issuer cannot be checked yet, in a sentence; `None` once they can.
    pub fn missing_keys(&self) -> Option<String> {
        match &*self.inner.jwks.as_ref()?.keys.borrow() {
            Keys::Known(_) => None,
            Keys::Asked => Some("the keys of tokens are being asked for".to_owned()),
            Keys::Missing(why) => Some(why.clone()),
        }
    }

    /// Waits until tokens can be checked. Cancel safe.
    pub async fn has_keys(&self) {
        if let Some(jwks) = &self.inner.jwks {
            // The sender lives as long as we do.
            drop(jwks.keys.subscribe().wait_for(|keys| matches!(keys, Keys::Known(_))).await);
        }
    }

    /// Checks a token. Waits for the issuer's keys if they are being asked for the first time.
    ///
    /// # Errors
    /// When it is not good now, not for this server, or cannot be checked yet.
    pub async fn check(&self, token: &str) -> Result<Identity, TokenError> {
        let invalid = |what: &str| Unauthorized::Invalid(what.to_owned());
        if token.is_empty() {
            return Err(Unauthorized::Missing.into());
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid("it is too long").into());
        }
        let header = decode_header(token).map_err(|_| invalid("it is not a JWT"))?;
        if header.alg == Algorithm::HS256 {
            let Some(secret) = &self.inner.secret else {
                return Err(invalid("its algorithm is not accepted").into());
            };
            return Ok(self.verify(token, secret, header.alg)?);
        }
        let Some(jwks) = self.inner.jwks.as_ref().filter(|_| OF_KEYS.contains(&header.alg)) else {
            return Err(invalid("its algorithm is not accepted").into());
        };
        jwks.was_answered().await;
        if !jwks.knows(&header) {
            jwks.ask_again(&header).await;
        }
        let keys = jwks.keys.borrow();
        let Keys::Known(keys) = &*keys else { return Err(TokenError::NoKeysYet) };
        let fits = keys.iter().filter(|key| key.fits(&header));
        let mut refused = invalid("its key is not known");
        for key in fits {
            match self.verify(token, &key.key, key.algorithm) {
                Ok(identity) => return Ok(identity),
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    fn verify(
        &self,
        token: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
    ) -> Result<Identity, Unauthorized> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.inner.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.inner.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        let data = decode::<Payload>(token, key, &validation)
            .map_err(|error| Unauthorized::Invalid(why(error.kind())))?;
        let Payload { sub, exp, mut rest } = data.claims;
        if sub.is_empty() || sub.len() > MAX_USER_ID_BYTES || sub.contains('\0') {
            return Err(Unauthorized::UserId);
        }
        rest.insert("sub".to_owned(), sub.clone().into());
        let author = Arc::new(Author { user_id: sub, claims: rest });
        Ok(Identity { author, expires_at_s: exp })
    }
}

impl Jwks {
    fn knows(&self, header: &Header) -> bool {
        match &*self.keys.borrow() {
            Keys::Known(keys) => keys.iter().any(|key| key.fits(header)),
            Keys::Asked | Keys::Missing(_) => false,
        }
    }

    /// Asks until there are keys, the less often the longer it takes.
    async fn ask_until_known(&self) {
        let (mut pause, mut said) = (JWKS_MIN_PAUSE, SaidOnce::default());
        while !matches!(&*self.keys.borrow(), Keys::Known(_)) {
            match self.source.read().await {
                Ok(keys) => drop(self.keys.send_replace(Keys::Known(keys))),
                Err(error) => {
                    let why = error.to_string();
                    if said.is_new(&why) {
                        tracing::warn!("{why}; clients are told to come back until they are there");
                    }
                    self.keys.send_replace(Keys::Missing(why));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(JWKS_MAX_PAUSE);
                }
            }
        }
        if !said.is_empty() {
            tracing::info!("the keys of tokens are there");
        }
    }

    /// Waits for the first answer of the issuer, whatever it is. Cancel safe.
    async fn was_answered(&self) {
        // The sender lives as long as we do.
        drop(self.keys.subscribe().wait_for(|keys| !matches!(keys, Keys::Asked)).await);
    }

    /// The issuer may have a new key. Of many who come with it at once one asks, and the others wait
    /// for the answer; keys that are made up must not make us a load on the issuer. An issuer that has never answered
    /// is asked already.
    async fn ask_again(&self, header: &Header) {
        if !matches!(&*self.keys.borrow(), Keys::Known(_)) {
            return;
        }
        let mut asked = self.asked.lock().await;
        if self.knows(header) || asked.is_some_and(|at| at.elapsed() < JWKS_REFRESH) {
            return;
        }
        *asked = Some(Instant::now());
        // An issuer that does not answer leaves the old keys.
        match self.source.read().await {
            Ok(keys) => drop(self.keys.send_replace(Keys::Known(keys))),
            Err(error) => tracing::warn!(%error, "cannot refresh the keys of tokens"),
        }
    }
}

impl Key {
    fn fits(&self, header: &Header) -> bool {
        let same_id = header.kid.is_none() || self.id.is_none() || header.kid == self.id;
        same_id && header.alg == self.algorithm
    }

    fn of(jwk: &Jwk) -> Option<Key> {
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
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
    async fn read(&self) -> Result<Vec<Key>, KeysError> {
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
            return Err(fail("it has no key for RS256, ES256 or EdDSA".to_owned()));
        }
        Ok(keys)
    }
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, 2), which is cut off.
fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = Number::deserialize(deserializer)?;
    let date = number.as_u64().or_else(|| {
        let seconds = number.as_f64().filter(|seconds| *seconds >= 0.0)?;
        // What is too large becomes the largest.
        Some(seconds as u64)
    });
    date.ok_or_else(|| serde::de::Error::custom("a date is a number that is not negative"))
}

/// Why a token is refused, without what the token says.
fn why(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "it has expired".to_owned(),
        ErrorKind::ImmatureSignature => "it is not good yet".to_owned(),
        ErrorKind::InvalidSignature => "its signature is not right".to_owned(),
        ErrorKind::InvalidIssuer => "it is of another issuer".to_owned(),
        ErrorKind::InvalidAudience => "it is for another audience".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => {
            format!("`{claim}` is missing, or not what it must be")
        }
        ErrorKind::InvalidClaimFormat(claim) => format!("`{claim}` is not what it must be"),
        _ => "it cannot be read".to_owned(),
    }
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

/// A token of HS256 for development and tests.
///
/// # Errors
/// When it cannot be signed.
pub fn sign(secret: &str, user_id: &str, lifetime: Duration) -> Result<String, Unauthorized> {
    sign_claims(secret, user_id, serde_json::Map::new(), lifetime)
}

/// As [`sign`], with further claims; those that every token has are not theirs to set.
///
/// # Errors
/// When it cannot be signed.
pub fn sign_claims(
    secret: &str,
    user_id: &str,
    mut claims: serde_json::Map<String, serde_json::Value>,
    lifetime: Duration,
) -> Result<String, Unauthorized> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    claims.insert("sub".to_owned(), user_id.into());
    claims.insert("iat".to_owned(), now.as_secs().into());
    claims.insert("exp".to_owned(), (now + lifetime).as_secs().into());
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .map_err(|error| Unauthorized::Invalid(error.to_string()))
}
