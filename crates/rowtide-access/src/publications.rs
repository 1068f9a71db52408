//! What is published, answered to everybody. Whose the address is, and whether its row still says so, is asked each time; the
//! copy itself is read and rendered once, and then held for whoever asks next. Who has it already, by its tag, is told so
//! without reading anything of it. One address of the network asks no more than it may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use rowtide_documents::host::{DocumentId, Host};
use rowtide_gateway::{ClientOrigin, Gateway};
use rowtide_plan::documents::{DocumentProtocol, Standing};
use rowtide_postgres::standings::StandingAsked;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::documents::Documents;
use crate::limits::{RENDERED_AT_ONCE, RENDERED_BYTES};
use crate::pages::{BYTES, JSON, Refusal, answer, from_anywhere, in_time};
use crate::rendered::{RenderedBodies, RenderedKey};

/// The form in which a copy is answered: another one makes other tags.
const FORM: &str = "1";

/// Which document is published at an address.
pub(crate) struct Published {
    pub(crate) document: DocumentId,
    pub(crate) protocol: DocumentProtocol,
}

/// It cannot be known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotKnown;

/// What the page of publications needs.
#[derive(Clone)]
struct Publications {
    documents: Documents,
    gateway: Gateway,
    places: Arc<Semaphore>,
    rendered: Arc<Mutex<RenderedBodies>>,
    renders: Arc<Semaphore>,
}

impl Documents {
    /// The route of what is published, with the places of those who are answered at once.
    pub(crate) fn publications(&self, gateway: &Gateway, places: Arc<Semaphore>) -> Router {
        let publications = Publications {
            documents: self.clone(),
            gateway: gateway.clone(),
            places,
            rendered: Arc::new(Mutex::new(RenderedBodies::new(RENDERED_BYTES))),
            renders: Arc::new(Semaphore::new(RENDERED_AT_ONCE)),
        };
        Router::new()
            .route("/app/publish/{slug}", from_anywhere(get(published)))
            .with_state(publications)
    }

    /// What is published at an address, if its row says by now that it is there, and published there.
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
        Ok((is_there && says).then_some(Published { document, protocol: *protocol }))
    }
}

impl Publications {
    fn rendered(&self) -> MutexGuard<'_, RenderedBodies> {
        // Whole between any two statements that hold it.
        self.rendered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, slug: String, headers: &HeaderMap) -> Result<Response, Refusal> {
        let host = self.documents.host().ok_or(Refusal::Unavailable)?;
        let published = self.documents.published(&host, &slug).await;
        let published = published.map_err(|NotKnown| Refusal::Unavailable)?;
        let Published { document, protocol } = published.ok_or(Refusal::NotFound)?;
        let version = host.published_version(&document, &slug).await;
        let version = version.map_err(|_| Refusal::Unavailable)?.ok_or(Refusal::NotFound)?;
        let key = RenderedKey { document, slug, version };
        let kind = match protocol {
            DocumentProtocol::Yjs => BYTES,
            DocumentProtocol::Tlsync => JSON,
        };
        let (tag, mut response) = if is_known(headers, &tag(&key)) {
            (tag(&key), answer(StatusCode::NOT_MODIFIED, kind, Body::empty()))
        } else {
            let (key, body) = self.body(&host, key, protocol).await?;
            (tag(&key), answer(StatusCode::OK, kind, body))
        };
        let headers = response.headers_mut();
        // It may be another one, or none, at any time: whoever has it asks whether it is the same.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
        if let Ok(tag) = HeaderValue::try_from(tag) {
            headers.insert(header::ETAG, tag);
        }
        Ok(response)
    }

    /// A copy as it is answered, and which it is: the one that was asked for, or one that is newer.
    async fn body(
        &self,
        host: &Host,
        key: RenderedKey,
        protocol: DocumentProtocol,
    ) -> Result<(RenderedKey, Bytes), Refusal> {
        if let Some(body) = self.rendered().get(&key) {
            return Ok((key, body));
        }
        let _turn = self.renders.acquire().await.map_err(|_| Refusal::Unavailable)?;
        // Whoever was before may have asked for the same.
        if let Some(body) = self.rendered().get(&key) {
            return Ok((key, body));
        }
        let copy = host.published(&key.document, &key.slug).await;
        let copy = copy.map_err(|_| Refusal::Unavailable)?.ok_or(Refusal::NotFound)?;
        let key = RenderedKey { version: copy.version, ..key };
        let snapshot = copy.snapshot;
        let body = match protocol {
            DocumentProtocol::Yjs => Some(snapshot),
            DocumentProtocol::Tlsync => {
                let rendered = spawn_blocking(move || records(&snapshot)).await;
                rendered.map_err(|_| Refusal::Unavailable)?
            }
        };
        let body = body.ok_or(Refusal::Unavailable)?;
        self.rendered().keep(key.clone(), body.clone());
        Ok((key, body))
    }
}

async fn published(
    State(page): State<Publications>,
    slug: Result<Path<String>, PathRejection>,
    from: ClientOrigin,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    page.gateway.take_of_origin(from).map_err(Refusal::RateLimited)?;
    let _place = page.places.try_acquire().map_err(|_| Refusal::Unavailable)?;
    // What is no text is no address.
    let Path(slug) = slug.map_err(|_| Refusal::NotFound)?;
    in_time(page.answer(slug, &headers)).await
}

/// What clients tell a copy from others by.
fn tag(key: &RenderedKey) -> String {
    let mut digest = Sha256::new();
    for part in [FORM, key.document.kind(), key.document.id(), &key.version] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let tag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{tag}\"")
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_this = |one: &str| one.trim() == "*" || one.trim().trim_start_matches("W/") == tag;
    known.is_some_and(|known| known.split(',').any(is_this))
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
    // What is held takes no more than it is.
    Some(text.into_bytes().into_boxed_slice().into())
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

    #[test]
    fn a_tag_is_of_one_copy_of_one_document() {
        let key = |id, version: &str| RenderedKey {
            document: DocumentId::new("note", id).expect("a name"),
            slug: "s".to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(tag(&key("a", "1")), tag(&key("a", "1")));
        assert_ne!(tag(&key("a", "1")), tag(&key("a", "2")));
        assert_ne!(tag(&key("a", "1")), tag(&key("b", "1")));
        let headers = |text: &str| {
            let value = HeaderValue::try_from(text).expect("a value");
            HeaderMap::from_iter([(header::IF_NONE_MATCH, value)])
        };
        let tag = tag(&key("a", "1"));
        assert!(is_known(&headers(&format!("\"x\", W/{tag}")), &tag));
        assert!(is_known(&headers("*"), &tag), "it has some copy, whichever (RFC 9110, 13.1.2)");
        assert!(!is_known(&headers("\"x\""), &tag) && !is_known(&HeaderMap::new(), &tag));
    }
}
