//! A small S3 of the tests' own: buckets in memory, with signatures that must be there, conditional puts, metadata, copies
//! and lists in pages. It can be told to misbehave as the real one does: to be slow or away, to deny, to throttle, to end
//! in the middle of an answer, and to do what it was asked without ever saying so.

#![allow(dead_code, reason = "each test that has it uses a part of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// The bucket that there is.
pub(crate) const BUCKET: &str = "a-bucket";

/// Who may come.
pub(crate) const ACCESS_KEY: &str = "AKIDOFATEST";

/// By which it shows.
pub(crate) const SECRET_KEY: &str = "a-secret-of-a-test";

/// So many keys are in one page of a list, so that few objects make several.
const PAGE: usize = 3;

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is done, and no answer comes.
    Silent,
    /// Nothing is done, and the connection ends.
    Away,
    /// 403.
    Denied,
    /// 503, which asks to come less often.
    Throttled,
    /// Answers with a body end in the middle.
    Half,
    /// It is done, and then the connection ends without an answer.
    Unsaid,
    /// It is done, and the answer takes so long.
    Late(Duration),
    /// Objects are put without what is said of them.
    Forgetful,
    /// 403 for copies, and all else is done.
    NoCopies,
}

/// An object with all that is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    content: Bytes,
    etag: String,
    metadata: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    puts: u64,
    fault: Option<Fault>,
    /// What was asked, as method and path.
    asked: Vec<String>,
    /// Puts on a condition are taken whatever the condition.
    careless: bool,
}

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct S3 {
    address: SocketAddr,
    bucket: Arc<Mutex<Bucket>>,
    serving: AbortHandle,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl S3 {
    /// Starts one.
    pub(crate) async fn start() -> S3 {
        S3::of(Bucket::default()).await
    }

    async fn of(bucket: Bucket) -> S3 {
        let bucket = Arc::new(Mutex::new(bucket));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(answer).with_state(Arc::clone(&bucket));
        let serving = tokio::spawn(async move {
            drop(axum::serve(listener, router).await);
        });
        S3 { address, bucket, serving: serving.abort_handle() }
    }

    /// Another one with the same objects, and no fault.
    pub(crate) async fn copy(&self) -> S3 {
        let objects = self.bucket().objects.clone();
        S3::of(Bucket { objects, ..Bucket::default() }).await
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variables by which clients find it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ]
    }

    /// From now on, for every request.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.bucket().fault = fault;
    }

    /// Takes puts on a condition whatever the condition, as a server does that knows none.
    pub(crate) fn be_careless(&self) {
        self.bucket().careless = true;
    }

    /// The keys that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.bucket().objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// An object.
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        self.bucket().objects.get(key).map(|object| object.content.clone())
    }

    /// Puts an object, as somebody does who says nothing of themselves.
    pub(crate) fn put(&self, key: &str, content: impl Into<Bytes>) {
        self.bucket().put(key, content.into(), Vec::new());
    }

    /// An object as a backup has it.
    pub(crate) fn back_up(&self, key: &str) -> Option<Object> {
        self.bucket().objects.get(key).cloned()
    }

    /// Puts an object again as a backup has it, as a tool does that keeps metadata.
    pub(crate) fn bring_back(&self, key: &str, object: &Object) {
        self.bucket().put(key, object.content.clone(), object.metadata.clone());
    }

    /// Takes an object away.
    pub(crate) fn remove(&self, key: &str) {
        self.bucket().objects.remove(key);
    }

    /// What was asked until now, as method and path with query; it is forgotten then.
    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.bucket().asked)
    }
}

impl Bucket {
    fn put(&mut self, key: &str, content: Bytes, metadata: Vec<(String, String)>) -> String {
        self.puts += 1;
        let etag = format!("\"{:032x}\"", self.puts);
        let object = Object { content, etag: etag.clone(), metadata };
        self.objects.insert(key.to_owned(), object);
        etag
    }
}

type Buckets = State<Arc<Mutex<Bucket>>>;

async fn answer(State(bucket): Buckets, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let lock = || bucket.lock().unwrap_or_else(PoisonError::into_inner);
    lock().asked.push(format!("{} {}", head.method, head.uri));
    let fault = lock().fault;
    match fault {
        Some(Fault::Silent) => std::future::pending::<()>().await,
        Some(Fault::Away) => return cut(),
        Some(Fault::Denied) => return error(StatusCode::FORBIDDEN, "AccessDenied"),
        Some(Fault::Throttled) => return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
        Some(Fault::NoCopies) if head.headers.contains_key("x-amz-copy-source") => {
            return error(StatusCode::FORBIDDEN, "AccessDenied");
        }
        Some(Fault::Half | Fault::Unsaid | Fault::NoCopies | Fault::Forgetful) | None => {}
        Some(Fault::Late(by)) => tokio::time::sleep(by).await,
    }
    let signed = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential = format!("AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/");
    if !signed
        .is_some_and(|signed| signed.starts_with(&credential) && signed.contains("Signature="))
    {
        return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
    }
    let Ok(content) = to_bytes(body, usize::MAX).await else { return cut() };
    let path = decoded(head.uri.path());
    let query = head.uri.query().unwrap_or_default();
    let done = lock().ask(&head.method, &path, query, &head.headers, content);
    match fault {
        Some(Fault::Unsaid) => cut(),
        Some(Fault::Half) => half(done).await,
        _ => done,
    }
}

impl Bucket {
    fn ask(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        content: Bytes,
    ) -> Response {
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(BUCKET));
        let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return error(StatusCode::NOT_FOUND, "NoSuchBucket");
        };
        let key = rest.trim_start_matches('/');
        match (method.as_str(), key) {
            ("GET", "") => self.list(query),
            ("GET" | "HEAD", key) => match self.objects.get(key) {
                Some(object) => object.answer(method, said("range")),
                None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
            ("PUT", key) => {
                let there = self.objects.get(key).map(|object| object.etag.as_str());
                if !self.careless {
                    let is_first = said("if-none-match") != Some("*") || there.is_none();
                    let follows = said("if-match").is_none_or(|etag| there == Some(etag));
                    if said("if-match").is_some() && there.is_none() {
                        return error(StatusCode::NOT_FOUND, "NoSuchKey");
                    }
                    if !is_first || !follows {
                        return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
                    }
                }
                if let Some(source) = said("x-amz-copy-source") {
                    let source = decoded(source);
                    let source = source.trim_start_matches('/').strip_prefix(BUCKET);
                    let source = source.map(|source| source.trim_start_matches('/'));
                    let Some(from) = source.and_then(|source| self.objects.get(source)) else {
                        return error(StatusCode::NOT_FOUND, "NoSuchKey");
                    };
                    let Object { content, metadata, .. } = from.clone();
                    let etag = self.put(key, content, metadata);
                    return format!("<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>")
                        .into_response();
                }
                let metadata = headers.iter().filter_map(|(name, value)| {
                    let name = name.as_str().strip_prefix("x-amz-meta-")?;
                    Some((name.to_owned(), value.to_str().ok()?.to_owned()))
                });
                let metadata = match self.fault {
                    Some(Fault::Forgetful) => Vec::new(),
                    _ => metadata.collect(),
                };
                let etag = self.put(key, content, metadata);
                ([(header::ETAG, etag)], "").into_response()
            }
            ("DELETE", key) => {
                self.objects.remove(key);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn list(&self, query: &str) -> Response {
        let query = query.replace('+', " ");
        let of = |name: &str| {
            query
                .split('&')
                .find_map(|pair| Some(decoded(pair.strip_prefix(name)?.strip_prefix('=')?)))
        };
        let prefix = of("prefix").unwrap_or_default();
        let after = of("continuation-token").or(of("start-after")).unwrap_or_default();
        let delimiter = of("delimiter");
        let mut entries = BTreeMap::new();
        for (key, object) in self.objects.range(after..) {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            let folder = delimiter.as_ref().and_then(|by| rest.split_once(&**by));
            match folder {
                None => drop(entries.insert(key.clone(), Some(object))),
                // All that is in a folder is one entry.
                Some((name, _)) => drop(entries.insert(format!("{prefix}{name}/"), None)),
            }
        }
        let mut said = String::new();
        for (key, object) in entries.iter().take(PAGE) {
            let key = escaped(key);
            said += &match object {
                None => format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"),
                Some(object) => format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified><ETag>{}</ETag>\
                     <Size>{}</Size></Contents>",
                    object.etag,
                    object.content.len()
                ),
            };
        }
        if entries.len() > PAGE {
            // What comes next, as the place at which the next page begins.
            let next = entries.keys().nth(PAGE).map(|key| escaped(key)).unwrap_or_default();
            said += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
        }
        format!("<ListBucketResult>{said}</ListBucketResult>").into_response()
    }
}

impl Object {
    fn answer(&self, method: &Method, range: Option<&str>) -> Response {
        let from = range.and_then(|range| {
            range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok()
        });
        let mut answer = Response::new(Body::empty());
        let mut add = |name: &str, value: &str| {
            let name = name.parse::<header::HeaderName>().expect("a name");
            answer.headers_mut().insert(name, value.parse().expect("a value"));
        };
        let all = self.content.len();
        add("etag", &self.etag);
        add("last-modified", "Sun, 01 Nov 2026 00:00:00 GMT");
        for (name, value) in &self.metadata {
            add(&format!("x-amz-meta-{name}"), value);
        }
        let content = self.content.slice(from.unwrap_or(0).min(all)..);
        add("content-length", &content.len().to_string());
        if let Some(from) = from {
            add("content-range", &format!("bytes {from}-{}/{all}", all.saturating_sub(1)));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if method == Method::GET {
            *answer.body_mut() = content.into();
        }
        answer
    }
}

fn error(status: StatusCode, code: &str) -> Response {
    let said = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId></Error>"
    );
    (status, said).into_response()
}

/// Ends the connection instead of an answer.
fn cut() -> Response {
    let broken = stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
    let mut answer = Response::new(Body::from_stream(broken));
    answer.headers_mut().insert(header::CONTENT_LENGTH, 1.into());
    answer.headers_mut().insert(header::ETAG, "\"cut\"".parse().expect("a value"));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

/// Half of an answer's body, and the end of the connection.
async fn half(done: Response) -> Response {
    let (mut head, body) = done.into_parts();
    let content = to_bytes(body, usize::MAX).await.unwrap_or_default();
    if content.is_empty() {
        return Response::from_parts(head, Body::empty());
    }
    head.headers.insert(header::CONTENT_LENGTH, content.len().into());
    let parts = [Ok(content.slice(..content.len() / 2)), Err(std::io::Error::other("cut"))];
    Response::from_parts(head, Body::from_stream(stream::iter(parts)))
}

fn decoded(text: &str) -> String {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
