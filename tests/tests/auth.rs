//! Who is let in, who is not, and for how long: tokens of every kind, through a real server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rowtide::auth::{Auth, AuthOptions};
use rowtide_tests::{App, Bystander, Ending, Raw, SECRET, eventually, warnings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[path = "auth/anonymous.rs"]
mod anonymous;

// Made for these tests with openssl; they open nothing.
const RSA: &str = include_str!("auth/rsa.pem");
const RSA_PUBLIC: &str = include_str!("auth/rsa_public.pem");
const EC: &str = include_str!("auth/ec.pem");
const ED: &str = include_str!("auth/ed.pem");
const ED_NEXT: &str = include_str!("auth/ed_next.pem");
const JWKS: &str = include_str!("auth/jwks.json");
const JWKS_NEXT: &str = include_str!("auth/jwks_next.json");

/// `{"alg":"none","typ":"JWT"}`
const HEADER_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
/// How far clocks may be apart, in seconds; see docs/configuration.md.
const LEEWAY: u64 = 5;

async fn app(auth: AuthOptions) -> App {
    let change = |options: &mut rowtide::server::ServerOptions| options.gateway.auth = auth;
    App::with_options(Bystander::DEFINITION, Bystander::TABLES, change).await
}

async fn with_secret() -> App {
    App::with(Bystander::DEFINITION, Bystander::TABLES).await
}

fn jwks_file() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/auth/jwks.json");
    path.to_str().expect("a path of text").to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Good claims with these changes; a `null` takes one away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({ "sub": "u1", "exp": now() + 600 });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn secret_key() -> EncodingKey {
    EncodingKey::from_secret(SECRET.as_bytes())
}

fn hs256(changes: Value) -> String {
    encode(&Header::new(Algorithm::HS256), &claims(changes), &secret_key()).unwrap()
}

fn token(algorithm: Algorithm, id: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, key).unwrap()
}

fn key(algorithm: Algorithm, pem: &str) -> EncodingKey {
    match algorithm {
        Algorithm::RS256 | Algorithm::RS512 | Algorithm::PS256 => {
            EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()
        }
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(),
        _ => panic!("no key of the tests is for {algorithm:?}"),
    }
}

fn of_issuer(algorithm: Algorithm, id: Option<&str>, pem: &str) -> String {
    token(algorithm, id, &key(algorithm, pem), &claims(json!({})))
}

/// What comes of a token: the user's id, or how the session ended.
async fn try_token(app: &App, token: &str) -> Result<String, Ending> {
    let mut raw = Raw::open(app).await;
    raw.say(&Raw::connect(token)).await;
    let connected = raw.hear().await?;
    raw.until("ready").await;
    raw.assert_alive().await;
    Ok(connected["userId"].as_str().unwrap().to_owned())
}

#[track_caller]
fn assert_user(name: &str, answer: &Result<String, Ending>) {
    assert_eq!(answer.as_deref(), Ok("u1"), "{name}");
}

#[track_caller]
fn assert_unauthorized(name: &str, answer: &Result<String, Ending>) {
    answer.as_ref().expect_err(name).assert(name, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_takes_hs256_and_nothing_else() {
    let app = with_secret().await;
    let mut bystander = Bystander::of(&app).await;
    let good = hs256(json!({}));
    assert_user("HS256", &try_token(&app, &good).await);

    let payload = good.split('.').nth(1).unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other_payload = hs256(json!({ "sub": "u2" }));
    let other_payload = other_payload.split('.').nth(1).unwrap();
    let header = good.split('.').next().unwrap();
    let another_secret = EncodingKey::from_secret(&[7; 64]);
    for (name, token) in [
        ("alg: none", format!("{HEADER_NONE}.{payload}.")),
        ("alg: none with a signature", format!("{HEADER_NONE}.{payload}.{signature}")),
        ("no signature", format!("{head}.")),
        ("two parts", head.to_owned()),
        ("another's payload", format!("{header}.{other_payload}.{signature}")),
        ("another secret", token(Algorithm::HS256, None, &another_secret, &claims(json!({})))),
        ("HS384", token(Algorithm::HS384, None, &secret_key(), &claims(json!({})))),
        ("HS512", token(Algorithm::HS512, None, &secret_key(), &claims(json!({})))),
        ("RS256, but there are no keys", of_issuer(Algorithm::RS256, None, RSA)),
        ("claims that are no object", token(Algorithm::HS256, None, &secret_key(), &json!(["u1"]))),
        ("not a token", "x".to_owned()),
        ("three dots", "...".to_owned()),
        ("empty", String::new()),
        ("longer than 16 KiB", hs256(json!({ "more": "x".repeat(16 << 10) }))),
        ("not ASCII", "é.é.é".to_owned()),
    ] {
        assert_unauthorized(name, &try_token(&app, &token).await);
        bystander.assert_undisturbed(&app, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_must_say_who_and_until_when() {
    let app = with_secret().await;
    let mut bystander = Bystander::of(&app).await;
    for (name, changes) in [
        ("it ends after all clocks", json!({ "exp": u64::MAX })),
        ("it ends long after all clocks", json!({ "exp": 1e19 })),
        ("the end has a fraction", json!({ "exp": now() as f64 + 600.5 })),
        ("the begin is past", json!({ "nbf": now() - 1 })),
        ("the begin is within the leeway", json!({ "nbf": now() + 1 })),
        ("the begin has a fraction", json!({ "nbf": now() as f64 - 0.5 })),
        ("an issuer that is not asked for", json!({ "iss": "someone", "aud": ["something"] })),
    ] {
        assert_user(name, &try_token(&app, &hs256(changes)).await);
    }
    loop {
        let since = now();
        let answer = try_token(&app, &hs256(json!({ "exp": since - 1 }))).await;
        // Where it was not judged within the leeway there is nothing to say of it.
        if answer.is_ok() || now() < since + LEEWAY - 1 {
            assert_user("the end is within the leeway", &answer);
            break;
        }
    }
    for (name, changes) in [
        ("expired", json!({ "exp": now() - LEEWAY - 1 })),
        ("expired with a fraction", json!({ "exp": now() as f64 - 60.5 })),
        ("no exp", json!({ "exp": null })),
        ("exp is 0", json!({ "exp": 0 })),
        ("exp is negative", json!({ "exp": -1 })),
        ("exp is a negative fraction", json!({ "exp": -1.5 })),
        ("exp is the least number", json!({ "exp": i64::MIN })),
        ("exp is larger than numbers are", json!({ "exp": 1e300 })),
        ("exp is text", json!({ "exp": "2100-01-01" })),
        ("exp is a list", json!({ "exp": [now() + 600] })),
        ("nbf is in the future", json!({ "nbf": now() + 600 })),
        ("nbf is the last second there is", json!({ "nbf": u64::MAX })),
        ("nbf is negative", json!({ "nbf": -1 })),
        ("nbf is text", json!({ "nbf": "now" })),
        ("no sub", json!({ "sub": null })),
        ("sub is a number", json!({ "sub": 1 })),
        ("sub is empty", json!({ "sub": "" })),
        ("sub has a NUL", json!({ "sub": "u1\0" })),
        ("sub has 1,025 bytes", json!({ "sub": "x".repeat(1_025) })),
        ("sub has 10 kB", json!({ "sub": "x".repeat(10_000) })),
    ] {
        let claim = name.split(' ').find(|word| ["exp", "sub"].contains(word));
        let answer = try_token(&app, &hs256(changes)).await;
        assert_unauthorized(name, &answer);
        if let (Some(claim), Err(ending)) = (claim, &answer) {
            let named = ending.message.contains(claim) || ending.message.contains("expired");
            assert!(named || claim == "sub", "{name}: {ending:?}");
        }
        bystander.assert_undisturbed(&app, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_tells_nothing_of_the_token() {
    let app = with_secret().await;
    for changes in [json!({ "sub": ["hidden"] }), json!({ "exp": "hidden" })] {
        let refused = try_token(&app, &hs256(changes)).await.unwrap_err();
        assert!(!refused.message.contains("hidden"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_and_audience_are_held_to_what_is_configured() {
    let secret = Some(SECRET.to_owned());
    let issuer = Some("https://issuer.example".to_owned());
    let app = app(AuthOptions {
        secret,
        issuer,
        audience: Some("rowtide".to_owned()),
        ..AuthOptions::default()
    });
    let app = app.await;
    let with = |changes: Value| {
        let mut all = json!({ "iss": "https://issuer.example", "aud": "rowtide" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        hs256(all)
    };
    for (name, token) in
        [("both", with(json!({}))), ("one of many", with(json!({ "aud": ["other", "rowtide"] })))]
    {
        assert_user(name, &try_token(&app, &token).await);
    }
    for (name, changes) in [
        ("another issuer", json!({ "iss": "https://issuer.example.org" })),
        ("no issuer", json!({ "iss": null })),
        ("the issuer is no text", json!({ "iss": 1 })),
        ("another audience", json!({ "aud": "other" })),
        ("other audiences", json!({ "aud": ["other", "another"] })),
        ("no audience", json!({ "aud": null })),
        ("an empty audience", json!({ "aud": [] })),
    ] {
        assert_unauthorized(name, &try_token(&app, &with(changes)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_issuer_each_check_their_own_algorithm() {
    let app = app(AuthOptions { jwks: Some(jwks_file()), ..AuthOptions::default() }).await;
    let mut bystander = {
        // The bystander of other tests has a token of the secret; here there is none.
        let claims = claims(json!({ "sub": "bystander" }));
        let token = token(Algorithm::EdDSA, Some("ed"), &key(Algorithm::EdDSA, ED), &claims);
        Bystander::with_token(&app, &token).await
    };
    for (name, token) in [
        ("RS256", of_issuer(Algorithm::RS256, Some("rsa"), RSA)),
        ("ES256", of_issuer(Algorithm::ES256, Some("ec"), EC)),
        ("EdDSA", of_issuer(Algorithm::EdDSA, Some("ed"), ED)),
        ("RS256 without a key's id", of_issuer(Algorithm::RS256, None, RSA)),
    ] {
        assert_user(name, &try_token(&app, &token).await);
    }
    let confused = |secret: &[u8], id| {
        token(Algorithm::HS256, id, &EncodingKey::from_secret(secret), &claims(json!({})))
    };
    for (name, token) in [
        ("HS256, the public key as its secret", confused(RSA_PUBLIC.as_bytes(), None)),
        ("the same, naming the key", confused(RSA_PUBLIC.as_bytes(), Some("rsa"))),
        ("the same, without its last line feed", confused(RSA_PUBLIC.trim().as_bytes(), None)),
        ("HS256 with the secret of nobody", confused(b"", None)),
        ("alg: none", format!("{HEADER_NONE}.{}.", confused(b"", None).split('.').nth(1).unwrap())),
        ("RS512 of the right key", of_issuer(Algorithm::RS512, Some("rsa"), RSA)),
        ("PS256 of the right key", of_issuer(Algorithm::PS256, Some("rsa"), RSA)),
        ("RS256 naming another key", of_issuer(Algorithm::RS256, Some("ec"), RSA)),
        ("EdDSA of another key with this id", of_issuer(Algorithm::EdDSA, Some("ed"), ED_NEXT)),
        ("EdDSA of a key that is not known", of_issuer(Algorithm::EdDSA, Some("ed-next"), ED_NEXT)),
    ] {
        assert_unauthorized(name, &try_token(&app, &token).await);
        bystander.assert_undisturbed(&app, name).await;
    }
}

/// An issuer that publishes keys.
struct Issuer {
    url: String,
    keys: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn of(keys: &str) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(keys.to_owned()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (published, count) = (Arc::clone(&keys), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n")
                    && let Ok(1..) = stream.read_buf(&mut request).await
                {}
                let body = published.lock().unwrap().clone();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                drop(stream.write_all((head + &body).as_bytes()).await);
            }
        });
        Issuer { url, keys, asked }
    }

    fn publish(&self, keys: &str) {
        keys.clone_into(&mut self.keys.lock().unwrap());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_of_an_issuer_are_asked_for_once() {
    let issuer = Issuer::of(JWKS).await;
    let app = app(AuthOptions { jwks: Some(issuer.url.clone()), ..AuthOptions::default() }).await;
    assert_eq!(issuer.asked(), 1);
    for (name, token) in [
        ("RS256", of_issuer(Algorithm::RS256, Some("rsa"), RSA)),
        ("ES256", of_issuer(Algorithm::ES256, Some("ec"), EC)),
        ("EdDSA", of_issuer(Algorithm::EdDSA, Some("ed"), ED)),
    ] {
        assert_user(name, &try_token(&app, &token).await);
    }
    assert_unauthorized(
        "an algorithm that no key could have",
        &try_token(&app, &token(Algorithm::HS512, Some("new"), &secret_key(), &claims(json!({}))))
            .await,
    );
    assert_eq!(
        issuer.asked(),
        1,
        "known keys, and tokens that no key could check, ask for nothing"
    );

    issuer.publish(JWKS_NEXT);
    // Many come with the new key at once, as after a rotation.
    let next = of_issuer(Algorithm::EdDSA, Some("ed-next"), ED_NEXT);
    let arrive = (0..20).map(|_| try_token(&app, &next));
    for answer in futures_util::future::join_all(arrive).await {
        assert_user("a new key", &answer);
    }
    assert_eq!(issuer.asked(), 2, "one has asked for all");
    let old = of_issuer(Algorithm::EdDSA, Some("ed"), ED);
    assert_unauthorized("a key that was taken back", &try_token(&app, &old).await);
    for id in ["made up", "another"] {
        let token = of_issuer(Algorithm::EdDSA, Some(id), ED_NEXT);
        assert_unauthorized(id, &try_token(&app, &token).await);
    }
    assert_eq!(issuer.asked(), 2, "ids that are made up are no load on the issuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_fails_leaves_the_keys_as_they_were() {
    let issuer = Issuer::of(JWKS).await;
    let app = app(AuthOptions { jwks: Some(issuer.url.clone()), ..AuthOptions::default() }).await;
    issuer.publish("<html>Service unavailable</html>");
    let next = of_issuer(Algorithm::EdDSA, Some("ed-next"), ED_NEXT);
    assert_unauthorized("a new key", &try_token(&app, &next).await);
    assert_eq!(issuer.asked(), 2);
    let old = of_issuer(Algorithm::EdDSA, Some("ed"), ED);
    assert_user("an old key", &try_token(&app, &old).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_used_are_passed_over() {
    let mut keys: Value = serde_json::from_str(JWKS).unwrap();
    let rsa = keys["keys"][0].clone();
    let with = |name: &str, value: Value| {
        let mut key = rsa.clone();
        key[name] = value;
        key
    };
    let strange = [
        json!({ "kty": "AKP", "alg": "ML-DSA-65", "kid": "later", "pub": "AAAA" }),
        json!({ "kty": "EC", "crv": "secp256k1", "kid": "k", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "oct", "kid": "rsa", "k": "AAAA" }),
        json!("not a key"),
        with("use", json!("enc")),
        with("alg", json!("RSA-OAEP")),
    ];
    let all = keys["keys"].as_array_mut().unwrap();
    all.splice(0..0, strange);
    let issuer = Issuer::of(&keys.to_string()).await;
    let app = app(AuthOptions { jwks: Some(issuer.url.clone()), ..AuthOptions::default() }).await;
    let good = of_issuer(Algorithm::RS256, Some("rsa"), RSA);
    assert_user("RS256", &try_token(&app, &good).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_counts_more_than_the_message() {
    let app = with_secret().await;
    let (good, bad) = (hs256(json!({})), hs256(json!({ "exp": 1 })));
    let other = hs256(json!({ "sub": "u2" }));
    for (name, header, message, expected) in [
        ("header alone", Some(format!("Bearer {good}")), None, Some("u1")),
        ("message alone", None, Some(&good), Some("u1")),
        ("the scheme in small letters", Some(format!("bearer {good}")), None, Some("u1")),
        ("two users", Some(format!("Bearer {good}")), Some(&other), Some("u1")),
        ("a bad header", Some(format!("Bearer {bad}")), Some(&good), None),
        ("an empty header", Some("Bearer ".to_owned()), None, None),
        ("another scheme", Some("Basic dTE6dTE=".to_owned()), None, None),
        ("neither", None, None, None),
    ] {
        let mut raw = Raw::open_with(&app, header.as_deref()).await;
        let mut connect = Raw::connect("");
        match message {
            Some(token) => connect["token"] = json!(token),
            None => drop(connect.as_object_mut().unwrap().remove("token")),
        }
        raw.say(&connect).await;
        let user = raw.hear().await.map(|message| message["userId"].clone());
        match expected {
            Some(expected) => assert_eq!(user, Ok(json!(expected)), "{name}"),
            None => user.expect_err(name).assert(name, "unauthorized"),
        }
    }
    // Never from the URL.
    let mut url = app.url();
    url.push_str(&format!("?token={good}&access_token={good}"));
    let mut raw = Raw::open_url(&url, None).await;
    let mut connect = Raw::connect("");
    connect.as_object_mut().unwrap().remove("token");
    raw.say(&connect).await;
    raw.ending().await.assert("a token in the URL", "unauthorized");
}

/// A session whose token ends so many seconds after it was made, or later: it lasts until the session is there. And in how
/// many it was.
async fn live_for(app: &App, mut seconds: u64) -> (Raw, u64) {
    loop {
        let mut raw = Raw::open(app).await;
        let token = hs256(json!({ "exp": now() + seconds - LEEWAY }));
        raw.say(&Raw::connect(&token)).await;
        loop {
            match raw.hear().await {
                Ok(message) if message["type"] == "ready" => return (raw, seconds),
                Ok(_) => {}
                Err(ending) => break ending.assert("its time was over", "unauthorized"),
            }
        }
        assert!(seconds < 120, "a token of {seconds} s is over at once");
        seconds *= 2;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token() {
    let app = with_secret().await;
    let mut bystander = Bystander::of(&app).await;
    let (mut raw, _) = live_for(&app, 2).await;
    raw.ending().await.assert("expired", "unauthorized");
    bystander.assert_undisturbed(&app, "another's end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_never_falls_silent_ends_with_its_token_too() {
    let app = with_secret().await;
    let (mut raw, _) = live_for(&app, 2).await;
    // Faster than it is answered: there is always something left to read.
    let ending = loop {
        for _ in 0..1_000 {
            raw.say(&json!({ "type": "ping" })).await;
        }
        let mut ended = None;
        for _ in 0..500 {
            ended = ended.or(raw.hear().await.err());
        }
        if let Some(ending) = ended {
            break ending;
        }
    };
    ending.assert("expired", "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_of_the_same_user_extends_a_session() {
    let app = with_secret().await;
    let mut seconds = 2;
    let mut extended = loop {
        let (mut raw, enough) = live_for(&app, seconds).await;
        raw.say(&json!({ "type": "auth", "token": hs256(json!({})) })).await;
        raw.say(&json!({ "type": "ping" })).await;
        seconds = enough;
        match raw.hear_news().await {
            Ok(message) => {
                assert_eq!(message["type"], "pong");
                break raw;
            }
            // The first token was over before the second had come.
            Err(ending) => ending.assert("its time was over", "unauthorized"),
        }
        seconds *= 2;
    };
    // A session that ends no sooner than the first token shows that its time is over.
    let (mut other, _) = live_for(&app, seconds).await;
    other.ending().await.assert("expired", "unauthorized");
    extended.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_fit_ends_the_session_that_brings_it() {
    let definition =
        "[tables.note]\nvisible = 'owner = auth.user_id OR owner = auth.claims.team'\n";
    let app = App::with(definition, Bystander::TABLES).await;
    let mut bystander = Bystander::of(&app).await;
    for (name, token, code) in [
        ("of another user", hs256(json!({ "sub": "u2" })), "unauthorized"),
        ("of another issuer's key", of_issuer(Algorithm::RS256, None, RSA), "unauthorized"),
        ("expired", hs256(json!({ "exp": now() - 60 })), "unauthorized"),
        ("empty", String::new(), "unauthorized"),
        ("other rows become visible", hs256(json!({ "team": "a" })), "restarting"),
    ] {
        let mut raw = Raw::live(&app, "u1").await;
        raw.say(&json!({ "type": "auth", "token": token })).await;
        raw.ending().await.assert(name, code);
        bystander.assert_undisturbed(&app, name).await;
    }
    let mut raw = Raw::live(&app, "u1").await;
    raw.say(&json!({ "type": "auth", "token": hs256(json!({ "colour": "red" })) })).await;
    raw.assert_alive().await;
}

/// A set of keys with these changes to the JWKS of the tests; a `null` takes a field away.
fn jwks(change: impl Fn(&mut Value)) -> String {
    let mut keys: Value = serde_json::from_str(JWKS).unwrap();
    keys["keys"].as_array_mut().unwrap().iter_mut().for_each(change);
    keys.to_string()
}

fn without_ids(keys: &str) -> String {
    let mut keys: Value = serde_json::from_str(keys).unwrap();
    for key in keys["keys"].as_array_mut().unwrap() {
        key.as_object_mut().unwrap().remove("kid");
    }
    keys.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_taken_out_is_not_taken_for_ever() {
    let issuer = Issuer::of(JWKS).await;
    let jwks_age = std::time::Duration::from_millis(200);
    let options =
        AuthOptions { jwks: Some(issuer.url.clone()), jwks_age, ..AuthOptions::default() };
    let app = app(options).await;
    let old = of_issuer(Algorithm::EdDSA, Some("ed"), ED);
    assert_user("while it is published", &try_token(&app, &old).await);
    // An issuer that does not answer takes nobody's key.
    issuer.publish("<html>Service unavailable</html>");
    let asked = issuer.asked();
    eventually("it is asked again", || async { (issuer.asked() > asked + 1).then_some(()) }).await;
    assert_user("while the issuer is away", &try_token(&app, &old).await);
    issuer.publish(JWKS_NEXT);
    // Nobody comes with another key, so only time tells of it.
    eventually("the key is not taken any more", || async {
        try_token(&app, &old).await.err().map(|ending| ending.assert("old", "unauthorized"))
    })
    .await;
    let next = of_issuer(Algorithm::EdDSA, Some("ed-next"), ED_NEXT);
    assert_user("the new one", &try_token(&app, &next).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_rotated_without_an_id_is_found() {
    let issuer = Issuer::of(&without_ids(JWKS)).await;
    let app = app(AuthOptions { jwks: Some(issuer.url.clone()), ..AuthOptions::default() }).await;
    assert_user("the old one", &try_token(&app, &of_issuer(Algorithm::EdDSA, None, ED)).await);
    issuer.publish(&without_ids(JWKS_NEXT));
    let next = of_issuer(Algorithm::EdDSA, None, ED_NEXT);
    let arrive = (0..20).map(|_| try_token(&app, &next));
    for answer in futures_util::future::join_all(arrive).await {
        assert_user("the new one", &answer);
    }
    assert_eq!(issuer.asked(), 2, "one has asked for all");
    for _ in 0..3 {
        let forged = of_issuer(Algorithm::EdDSA, None, ED);
        assert_unauthorized("a key that is gone", &try_token(&app, &forged).await);
    }
    assert_eq!(issuer.asked(), 2, "tokens that are made up are no load on the issuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_may_name_another_key() {
    let issuer = Issuer::of(JWKS).await;
    let app = app(AuthOptions { jwks: Some(issuer.url.clone()), ..AuthOptions::default() }).await;
    let next: Value = serde_json::from_str(JWKS_NEXT).unwrap();
    let renamed = next["keys"].as_array().unwrap().iter().find(|key| key["kid"] == "ed-next");
    let mut renamed = renamed.unwrap().clone();
    renamed["kid"] = json!("ed");
    issuer.publish(&json!({ "keys": [renamed] }).to_string());
    let next = of_issuer(Algorithm::EdDSA, Some("ed"), ED_NEXT);
    assert_user("the new key under the old id", &try_token(&app, &next).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_header_demands_must_be_understood() {
    let app = with_secret().await;
    let with = |crit: Option<Vec<String>>| {
        let header = Header { crit, ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(json!({})), &secret_key()).unwrap()
    };
    assert_user("no crit", &try_token(&app, &with(None)).await);
    for crit in [vec![], vec!["exp".to_owned()], vec!["b64".to_owned(), "http://x".to_owned()]] {
        let refused = try_token(&app, &with(Some(crit))).await;
        assert!(
            refused.as_ref().is_err_and(|ending| ending.message.contains("crit")),
            "{refused:?}"
        );
        assert_unauthorized("crit", &refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_sub_is_said() {
    let app = with_secret().await;
    for (sub, word) in [
        (json!(17), "a number"),
        (json!(true), "a boolean"),
        (json!(["u1"]), "a list"),
        (json!({ "id": "u1" }), "an object"),
        (json!(""), "1 to 1024 bytes"),
        (Value::Null, "missing"),
    ] {
        let refused = try_token(&app, &hs256(json!({ "sub": sub }))).await.unwrap_err();
        assert!(refused.message.contains("sub") && refused.message.contains(word), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_and_keys_for_something_else_are_passed_over() {
    // The modulus of an RSA key of 1,024 bits, of one of 2,040 with a leading zero, and of the tests' own.
    let short = |bytes: usize, first: u8| {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bytes: Vec<u8> =
            std::iter::once(first).chain(std::iter::repeat_n(0xab, bytes - 1)).collect();
        let digits = bytes.chunks(3).flat_map(|of| {
            let whole = of.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))
                << (8 * (3 - of.len()));
            (0..=of.len()).map(move |n| DIGITS[(whole >> (18 - 6 * n)) as usize & 63] as char)
        });
        digits.collect::<String>()
    };
    warnings();
    for (name, n, bits) in
        [("1,024 bits", short(128, 0xff), 1_024), ("2,041 bits", short(256, 1), 2_041)]
    {
        let weak = jwks(|key| {
            if key["kty"] == "RSA" {
                key["n"] = json!(n);
            }
        });
        let issuer = Issuer::of(&weak).await;
        let auth = Auth::start(
            &AuthOptions { jwks: Some(issuer.url), ..AuthOptions::default() },
            CancellationToken::new(),
        )
        .await
        .unwrap();
        auth.has_keys().await;
        let refused = auth.check(&of_issuer(Algorithm::RS256, Some("rsa"), RSA)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("its key is not known"), "{name}: {refused}");
        // The operator hears which it is.
        let said = warnings().text(0);
        let weak = |line: &str| {
            line.contains("an RSA key of the issuer is not taken: it has fewer than 2048 bits")
                && line.contains(&format!("bits={bits}"))
        };
        assert!(said.lines().any(weak), "{name}: {said}");
    }
    for (name, field, value) in [
        ("for signing", "key_ops", json!(["sign"])),
        ("for nothing", "key_ops", json!([])),
        ("for encryption", "use", json!("enc")),
    ] {
        let of_another_use = jwks(|key| {
            if key["kty"] == "OKP" {
                key[field] = value.clone();
            }
        });
        let issuer = Issuer::of(&of_another_use).await;
        let options = AuthOptions { jwks: Some(issuer.url), ..AuthOptions::default() };
        let auth = Auth::start(&options, CancellationToken::new()).await.unwrap();
        auth.has_keys().await;
        assert!(auth.check(&of_issuer(Algorithm::EdDSA, Some("ed"), ED)).await.is_err(), "{name}");
        assert!(auth.check(&of_issuer(Algorithm::ES256, Some("ec"), EC)).await.is_ok(), "{name}");
    }
}
