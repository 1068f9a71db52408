//! What is answered over plain HTTP: what is published, to everybody; the history of a document, and going back in it, to
//! whom the rule `restore` allows it. Reasons are JSON. As much is answered at once as may be, and no more.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes as RequestBytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use rowtide_documents::host::{DocumentError, DocumentId, Host};
use rowtide_gateway::auth::TokenError;
use rowtide_gateway::{Gateway, bearer};
use rowtide_plan::documents::{DocumentProtocol, Standing};
use rowtide_postgres::standings::StandingAsked;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::documents::Documents;
use crate::limits::{MAX_REQUEST_BYTES, REQUESTS_AT_ONCE};

/// The longest time that a history has a name for, in bytes.
const MAX_TIME_BYTES: usize = 40;

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// What is published at an address.
pub(crate) struct Published {
    pub(crate) protocol: DocumentProtocol,
    pub(crate) snapshot: Bytes,
}

/// Why a request is not answered with what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    BadRequest,
    NotAuthenticated,
    Forbidden,
    NotFound,
    RateLimited,
    /// It cannot be known or done now.
    Unavailable,
}

impl Refusal {
    fn status_and_reason(self) -> (StatusCode, &'static str) {
        match self {
            Refusal::BadRequest => (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
            Refusal::NotAuthenticated => (StatusCode::UNAUTHORIZED, "NOT_AUTHENTICATED"),
            Refusal::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Refusal::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Refusal::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason) = self.status_and_reason();
        let body = format!("{{\"error\":true,\"reason\":\"{reason}\"}}\n");
        let mut response = answer(status, JSON, body);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self == Refusal::Unavailable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Refusal {
        match error {
            DocumentError::NotFound => Refusal::NotFound,
            // Of a state that no document can be, asking again makes no other.
            DocumentError::Unrestorable(_) => Refusal::BadRequest,
            _ => Refusal::Unavailable,
        }
    }
}

/// What the pages of one kind of documents need.
#[derive(Clone)]
struct Page {
    documents: Documents,
    gateway: Gateway,
    kind: Arc<str>,
    protocol: DocumentProtocol,
    places: Arc<Semaphore>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asks {
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct RestoreRequest {
    timestamp: String,
}

/// A document whose history somebody may see.
struct Allowed {
    host: Arc<Host>,
    document: DocumentId,
}

impl Documents {
    /// The routes of history and publication.
    pub(crate) fn pages(&self, gateway: &Gateway) -> Router {
        let places = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        let mut router = Router::new();
        for (kind, protocol) in &self.shared.kinds {
            let page = Page {
                documents: self.clone(),
                gateway: gateway.clone(),
                kind: Arc::clone(kind),
                protocol: *protocol,
                places: Arc::clone(&places),
            };
            let path = format!("{}/{{id}}", protocol.path(kind));
            let of_kind = Router::new()
                .route(&format!("{path}/history"), from_anywhere(get(history)))
                .route(&format!("{path}/history/{{time}}"), from_anywhere(get(earlier)))
                .route(&format!("{path}/restore"), from_anywhere(post(restore)))
                .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
                .with_state(page);
            router = router.merge(of_kind);
        }
        let publications = Router::new()
            .route("/app/publish/{slug}", from_anywhere(get(published)))
            .with_state((self.clone(), places));
        router.merge(publications)
    }

    /// What is published at an address: as the copy was made, if its row says by now that it is there, and published there.
    pub(crate) async fn published(
        &self,
        host: &Host,
        slug: &str,
    ) -> Result<Option<Published>, NotKnown> {
        self.when_caught_up().await.map_err(|_| NotKnown)?;
        let document = host.published_at(slug).await.map_err(|_| NotKnown)?;
        let Some(document) = document else { return Ok(None) };
        let protocol = self.shared.kinds.iter().find(|(kind, _)| **kind == *document.kind());
        let Some((_, protocol)) = protocol else { return Ok(None) };
        if self.shared.effects.is_closed(&document, || ()) {
            return Ok(None);
        }
        let (kind, id) = (document.kind().into(), document.id().into());
        let asked = vec![StandingAsked { kind, id, who: None }];
        let standings = self.shared.desk.ask(asked).await.map_err(|_| NotKnown)?;
        let answer = standings.answers.into_iter().next().and_then(Result::ok).ok_or(NotKnown)?;
        let is_there = !matches!(answer.standing, Standing::Missing | Standing::Gone);
        let says = answer.row.is_some_and(|row| row.published && row.slug.as_deref() == Some(slug));
        if !is_there || !says {
            return Ok(None);
        }
        let snapshot = host.published(&document, slug).await.map_err(|_| NotKnown)?;
        Ok(snapshot.map(|snapshot| Published { protocol: *protocol, snapshot }))
    }
}

/// It cannot be known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotKnown;

/// Pages of other origins may ask: who asks is told by the token alone, and never by cookies.
fn from_anywhere<S: Clone + Send + Sync + 'static>(methods: MethodRouter<S>) -> MethodRouter<S> {
    methods.options(|| async {
        let mut response = answer(StatusCode::NO_CONTENT, JSON, Body::empty());
        let headers = response.headers_mut();
        let allow = |methods| HeaderValue::from_static(methods);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allow("GET, POST"));
        let named = "authorization, content-type, if-none-match";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allow(named));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, allow("600"));
        response
    })
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let all: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, kind),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "etag"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in all {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Answers what somebody alone may see.
fn private(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = answer(StatusCode::OK, kind, body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn published(
    State((documents, places)): State<(Documents, Arc<Semaphore>)>,
    Path(slug): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let _place = places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    let host = documents.host().ok_or(Refusal::Unavailable)?;
    let published = documents.published(&host, &slug).await;
    let published = published.map_err(|NotKnown| Refusal::Unavailable)?;
    let Published { protocol, snapshot } = published.ok_or(Refusal::NotFound)?;
    let (kind, body) = match protocol {
        DocumentProtocol::Yjs => (BYTES, snapshot),
        DocumentProtocol::Tlsync => (JSON, records(&snapshot).ok_or(Refusal::Unavailable)?),
    };
    let digest = Sha256::digest(&body);
    let tag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|known| {
        known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
    });
    let mut response = match is_known {
        true => answer(StatusCode::NOT_MODIFIED, kind, Body::empty()),
        false => answer(StatusCode::OK, kind, body),
    };
    let headers = response.headers_mut();
    // It may be another one, or none, at any time: whoever has it asks whether it is the same.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

#[derive(Deserialize)]
struct StoredSnapshot<'a> {
    #[serde(borrow)]
    documents: Vec<StoredRecord<'a>>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StoredRecord<'a> {
    #[serde(borrow)]
    state: &'a RawValue,
}

/// A snapshot as it is published: records and schema alone.
fn records(snapshot: &[u8]) -> Option<Bytes> {
    let stored: StoredSnapshot<'_> = serde_json::from_slice(snapshot).ok()?;
    let mut text = String::with_capacity(snapshot.len());
    text.push_str("{\"records\":[");
    for (nth, record) in stored.documents.iter().enumerate() {
        if nth > 0 {
            text.push(',');
        }
        text.push_str(record.state.get());
    }
    text.push_str("],\"schema\":");
    text.push_str(stored.schema.map_or("null", RawValue::get));
    text.push_str(",\"error\":false}");
    Some(text.into())
}

impl Page {
    /// Who asks, and whether they may.
    async fn allow(&self, id: &str, asks: Asks, headers: &HeaderMap) -> Result<Allowed, Refusal> {
        let token = bearer(headers).or(asks.access_token).filter(|token| !token.is_empty());
        let identity = match token.as_deref() {
            None => None,
            Some(token) => match self.gateway.auth().check(token).await {
                Ok(identity) => Some(identity),
                Err(TokenError::Unauthorized(_)) => return Err(Refusal::NotAuthenticated),
                Err(TokenError::NoKeysYet) => return Err(Refusal::Unavailable),
            },
        };
        let who = identity.map(|identity| identity.author);
        // A history is for people who have signed in, whatever the rule says of others.
        let who = who.ok_or(Refusal::NotAuthenticated)?;
        if !self.gateway.may_go_on(&who.user_id, 1) {
            return Err(Refusal::RateLimited);
        }
        self.documents.when_caught_up().await.map_err(|_| Refusal::Unavailable)?;
        let plan = self.gateway.plan().ok_or(Refusal::Unavailable)?;
        let kind = plan.document_kind(&self.kind).ok_or(Refusal::Unavailable)?;
        let id = kind.document_id(id).ok_or(Refusal::NotFound)?;
        let document = DocumentId::new(&self.kind, &id).map_err(|_| Refusal::NotFound)?;
        let (kind, id) = (document.kind().into(), document.id().into());
        let asked = vec![StandingAsked { kind, id, who: Some(who) }];
        let standings = self.documents.shared.desk.ask(asked).await;
        let standings = standings.map_err(|_| Refusal::Unavailable)?;
        let answer = standings.answers.into_iter().next().and_then(Result::ok);
        let answer = answer.ok_or(Refusal::Unavailable)?;
        match answer.standing {
            Standing::Missing | Standing::Gone => return Err(Refusal::NotFound),
            _ if !answer.may_restore => return Err(Refusal::Forbidden),
            _ => {}
        }
        let host = self.documents.host().ok_or(Refusal::Unavailable)?;
        self.documents.revive(&host, &document)?;
        Ok(Allowed { host, document })
    }
}

async fn history(
    State(page): State<Page>,
    Path(id): Path<String>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let _place = page.places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    let Allowed { host, document } = page.allow(&id, asks, &headers).await?;
    let times = host.history(&document).await?;
    Ok(private(JSON, serde_json::to_string(&times).unwrap_or_default()))
}

async fn earlier(
    State(page): State<Page>,
    Path((id, time)): Path<(String, String)>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let _place = page.places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    let Allowed { host, document } = page.allow(&id, asks, &headers).await?;
    let time = is_time(&time).then_some(time).ok_or(Refusal::NotFound)?;
    let snapshot = host.earlier(&document, &time).await?.ok_or(Refusal::NotFound)?;
    let kind = match page.protocol {
        DocumentProtocol::Tlsync => JSON,
        DocumentProtocol::Yjs => BYTES,
    };
    Ok(private(kind, snapshot))
}

async fn restore(
    State(page): State<Page>,
    Path(id): Path<String>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
    body: Result<RequestBytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let _place = page.places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    let Allowed { host, document } = page.allow(&id, asks, &headers).await?;
    let request: RestoreRequest = serde_json::from_slice(&body.map_err(|_| Refusal::BadRequest)?)
        .map_err(|_| Refusal::BadRequest)?;
    let time = request.timestamp;
    if !is_time(&time) {
        return Err(Refusal::NotFound);
    }
    host.restore(&document, &time).await?;
    Ok(private(JSON, "{\"error\":false}\n"))
}

/// Whether a history may have something by this name.
fn is_time(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-:.+".contains(&byte);
    !text.is_empty() && text.len() <= MAX_TIME_BYTES && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_has_records_and_schema_as_they_are_stored() {
        let stored =
            br#"{"clock":1e2,"documents":[{"state":{"id":"a","x":-0},"lastChangedClock":1},
            {"state":{"id":"b"},"lastChangedClock":2}],"schema":{"schemaVersion":2}}"#;
        let expected = r#"{"records":[{"id":"a","x":-0},{"id":"b"}],"schema":{"schemaVersion":2},"error":false}"#;
        assert_eq!(records(stored).as_deref(), Some(expected.as_bytes()));
        assert_eq!(records(b"rubbish"), None);
    }
}
