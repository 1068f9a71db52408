//! What is answered over plain HTTP: the history of a document, and going back in it, to whom the rule `restore` allows it; and
//! what is published, to everybody ([`crate::publications`]). Reasons are JSON. As much is answered at once as may be, and no
//! more.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes as RequestBytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use rowtide_documents::host::{DocumentError, DocumentId, Host};
use rowtide_gateway::auth::TokenError;
use rowtide_gateway::{Gateway, bearer};
use rowtide_plan::documents::{DocumentProtocol, Standing};
use rowtide_postgres::standings::StandingAsked;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::documents::Documents;
use crate::limits::{MAX_REQUEST_BYTES, REQUEST_WITHIN, REQUESTS_AT_ONCE};

/// The longest time that a history has a name for, in bytes.
const MAX_TIME_BYTES: usize = 40;

pub(crate) const JSON: &str = "application/json";
pub(crate) const BYTES: &str = "application/octet-stream";

/// Why a request is not answered with what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadRequest,
    NotAuthenticated,
    Forbidden,
    NotFound,
    /// Until this time has passed.
    RateLimited(Duration),
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
            Refusal::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
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
        let comes_back = match self {
            Refusal::Unavailable => Some(1),
            Refusal::RateLimited(wait) => Some(wait.as_secs() + 1),
            _ => None,
        };
        if let Some(seconds) = comes_back {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
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
        router.merge(self.publications(gateway, places))
    }
}

/// What a request is answered with, or that it cannot be known now: a storage that says nothing is not waited for longer than
/// clients wait.
pub(crate) async fn in_time<T>(
    answers: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    timeout(REQUEST_WITHIN, answers).await.unwrap_or(Err(Refusal::Unavailable))
}

/// Pages of other origins may ask: who asks is told by the token alone, and never by cookies.
pub(crate) fn from_anywhere<S: Clone + Send + Sync + 'static>(
    methods: MethodRouter<S>,
) -> MethodRouter<S> {
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

pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
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
            return Err(Refusal::RateLimited(Duration::ZERO));
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
    in_time(async {
        let Allowed { host, document } = page.allow(&id, asks, &headers).await?;
        let times = host.history(&document).await?;
        Ok(private(JSON, serde_json::to_string(&times).unwrap_or_default()))
    })
    .await
}

async fn earlier(
    State(page): State<Page>,
    Path((id, time)): Path<(String, String)>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let _place = page.places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    let kind = match page.protocol {
        DocumentProtocol::Tlsync => JSON,
        DocumentProtocol::Yjs => BYTES,
    };
    in_time(async {
        let Allowed { host, document } = page.allow(&id, asks, &headers).await?;
        let time = is_time(&time).then_some(time).ok_or(Refusal::NotFound)?;
        let snapshot = host.earlier(&document, &time).await?.ok_or(Refusal::NotFound)?;
        Ok(private(kind, snapshot))
    })
    .await
}

async fn restore(
    State(page): State<Page>,
    Path(id): Path<String>,
    Query(asks): Query<Asks>,
    headers: HeaderMap,
    body: Result<RequestBytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let _place = page.places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    in_time(async {
        let Allowed { host, document } = page.allow(&id, asks, &headers).await?;
        let request: RestoreRequest =
            serde_json::from_slice(&body.map_err(|_| Refusal::BadRequest)?)
                .map_err(|_| Refusal::BadRequest)?;
        let time = request.timestamp;
        if !is_time(&time) {
            return Err(Refusal::NotFound);
        }
        host.restore(&document, &time).await?;
        Ok(private(JSON, "{\"error\":false}\n"))
    })
    .await
}

/// Whether a history may have something by this name.
fn is_time(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-:.+".contains(&byte);
    !text.is_empty() && text.len() <= MAX_TIME_BYTES && text.bytes().all(plain)
}
