//! Who is there: tokens (JWT, RFC 7519) and what they are checked with, a shared secret or the public
//! keys of an issuer (JWKS, RFC 7517). The algorithm is fixed by the key and never chosen by the
//! token: a secret checks HS256 alone, a public key its own algorithm alone. An issuer that cannot be reached when
//! the server starts is asked again until its keys are there; until then nobody can be told whether a token of it is
//! good, so clients are told to come back.

mod keys;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::dangerous::insecure_decode;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use rowtide_postgres::mutate::Author;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use self::keys::{Jwks, Known, OF_KEYS};
use crate::limits::{JWKS_MAX_AGE, MAX_TOKEN_BYTES, MAX_USER_ID_BYTES};

pub use self::keys::KeysError;

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);
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
    /// `sub` is of this kind.
    #[error("the token's `sub` must be text, and is {0}: its issuer has to write it as a string")]
    NotText(&'static str),
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

/// Where tokens' keys come from, and what tokens must say.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// The secret of HS256.
    pub secret: Option<String>,
    /// A file, or an `http(s)` URL, of a JWKS.
    pub jwks: Option<String>,
    /// The `iss` that tokens must have.
    pub issuer: Option<String>,
    /// The `aud` that tokens must have.
    pub audience: Option<String>,
    /// How old the keys of the JWKS become before they are read again: so long is a key taken that was taken out.
    pub jwks_age: Duration,
}

impl Default for AuthOptions {
    /// Nothing is checked with; keys become as old as [`JWKS_MAX_AGE`].
    fn default() -> AuthOptions {
        let (secret, jwks, issuer, audience) = (None, None, None, None);
        AuthOptions { secret, jwks, issuer, audience, jwks_age: JWKS_MAX_AGE }
    }
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

#[derive(Deserialize)]
struct Payload {
    sub: Option<Value>,
    /// The check of claims looks at what the token says, and names it where it is none.
    #[serde(default, deserialize_with = "numeric_date")]
    exp: Option<u64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
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
            Some(from) => Some(Jwks::of(from, options.jwks_age).await?),
        };
        if secret.is_none() && jwks.is_none() {
            return Err(AuthError::NoKeys);
        }
        let (issuer, audience) = (options.issuer.clone(), options.audience.clone());
        let auth = Auth { inner: Arc::new(Inner { secret, jwks, issuer, audience }) };
        let asks = auth.clone();
        tokio::spawn(async move {
            if let Some(jwks) = &asks.inner.jwks {
                stop.run_until_cancelled(jwks.keep_fresh()).await;
            }
        });
        Ok(auth)
    }

    /// Why tokens of the issuer cannot be checked yet, in a sentence; `None` once they can.
    pub fn missing_keys(&self) -> Option<String> {
        self.inner.jwks.as_ref()?.missing()
    }

    /// How old the keys of the issuer are, if there are some.
    pub fn age_of_keys(&self) -> Option<Duration> {
        self.inner.jwks.as_ref()?.age()
    }

    /// Waits until tokens can be checked. Cancel safe.
    pub async fn has_keys(&self) {
        if let Some(jwks) = &self.inner.jwks {
            jwks.are_known().await;
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
        let header = read_header(token)?;
        if header.alg == Algorithm::HS256 {
            let Some(secret) = &self.inner.secret else {
                return Err(invalid("its algorithm is not accepted").into());
            };
            let verified = self.verify(token, secret, header.alg);
            return verified.map_err(|(NotTaken::Key(why) | NotTaken::Token(why))| why.into());
        }
        let Some(jwks) = self.inner.jwks.as_ref().filter(|_| OF_KEYS.contains(&header.alg)) else {
            return Err(invalid("its algorithm is not accepted").into());
        };
        jwks.was_answered().await;
        let mut keys = jwks.known();
        loop {
            let Some(known) = keys else { return Err(TokenError::NoKeysYet) };
            match self.verify_with(&known, token, &header) {
                Ok(identity) => return Ok(identity),
                Err(NotTaken::Token(why)) => return Err(why.into()),
                // The issuer may have another key by now, also under the same id or under none.
                Err(NotTaken::Key(why)) => match jwks.newer_than(&known).await {
                    Some(newer) => keys = Some(newer),
                    None => return Err(why.into()),
                },
            }
        }
    }

    /// Checks a token with each key that it may be of.
    fn verify_with(
        &self,
        keys: &Known,
        token: &str,
        header: &Header,
    ) -> Result<Identity, NotTaken> {
        let not_known = Unauthorized::Invalid("its key is not known".to_owned());
        let mut rejected = NotTaken::Key(not_known);
        for key in keys.that_fit(header) {
            match self.verify(token, &key.key, key.algorithm) {
                Err(NotTaken::Key(why)) => rejected = NotTaken::Key(why),
                of_token => return of_token,
            }
        }
        Err(rejected)
    }

    fn verify(
        &self,
        token: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
    ) -> Result<Identity, NotTaken> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
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
        let data = decode::<Payload>(token, key, &validation).map_err(|error| {
            let said = Unauthorized::Invalid(why(error.kind()));
            match error.kind() {
                ErrorKind::InvalidSignature => NotTaken::Key(said),
                // It was signed, so it is worth a look at what its issuer has written.
                ErrorKind::Json(_) => NotTaken::Token(wrong_claim(token).unwrap_or(said)),
                _ => NotTaken::Token(said),
            }
        })?;
        let Payload { sub, exp, mut rest } = data.claims;
        let sub = user_id(sub).map_err(NotTaken::Token)?;
        // The database is told all of them.
        rest.insert("sub".to_owned(), sub.clone().into());
        rest.extend(exp.map(|exp| ("exp".to_owned(), exp.into())));
        let author = Arc::new(Author { user_id: sub, claims: rest });
        // It was checked, so it is there.
        let missing =
            || Unauthorized::Invalid(why(&ErrorKind::MissingRequiredClaim("exp".to_owned())));
        let expires_at_s = exp.ok_or_else(missing).map_err(NotTaken::Token)?;
        Ok(Identity { author, expires_at_s })
    }
}

/// Why a token is not taken.
enum NotTaken {
    /// No key that is known has signed it.
    Key(Unauthorized),
    /// Whoever has signed it, it is not a good one.
    Token(Unauthorized),
}

/// The header of a token that says nothing that is not understood here.
fn read_header(token: &str) -> Result<Header, Unauthorized> {
    let invalid = |what: &str| Unauthorized::Invalid(what.to_owned());
    let header = decode_header(token)
        .map_err(|_| invalid("it is not a JWT, or its algorithm is none that is known"))?;
    // What is named there must be understood or the token rejected (RFC 7515, 4.1.11), and nothing is.
    if header.crit.is_some() {
        return Err(invalid("its `crit` asks for something that this server does not know"));
    }
    Ok(header)
}

/// The user's id, of a `sub`.
fn user_id(sub: Option<Value>) -> Result<String, Unauthorized> {
    let kind = match sub {
        Some(Value::String(sub)) => {
            let fits = !sub.is_empty() && sub.len() <= MAX_USER_ID_BYTES && !sub.contains('\0');
            return if fits { Ok(sub) } else { Err(Unauthorized::UserId) };
        }
        None | Some(Value::Null) => {
            return Err(Unauthorized::Invalid("`sub` is missing".to_owned()));
        }
        Some(Value::Number(_)) => "a number",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    };
    Err(Unauthorized::NotText(kind))
}

/// What is wrong with the claims of a token that cannot be read as such, if it is one that has to be there.
fn wrong_claim(token: &str) -> Option<Unauthorized> {
    let claims = insecure_decode::<Map<String, Value>>(token).ok()?.claims;
    let no_time = |claim: &&str| claims.get(*claim).is_some_and(|value| !value.is_number());
    let invalid =
        |claim: &str| Unauthorized::Invalid(why(&ErrorKind::InvalidClaimFormat(claim.to_owned())));
    let times = ["exp", "nbf"].into_iter().find(no_time).map(invalid);
    user_id(claims.get("sub").cloned()).err().or(times)
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, 2), which is cut off; `None` of what is no such number.
fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Value::Number(number) = Value::deserialize(deserializer)? else { return Ok(None) };
    Ok(number.as_u64().or_else(|| {
        let seconds = number.as_f64().filter(|seconds| *seconds >= 0.0)?;
        // What is too large becomes the largest.
        Some(seconds as u64)
    }))
}

/// Why a token is rejected, without what the token says.
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
