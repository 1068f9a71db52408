//! What a document begins as that nobody has opened yet: a copy of another one, of what is published, or nothing, as its
//! row's source says. Whoever opens it must be allowed to read what it is copied from, by the same rules as if they came
//! there. Whoever wrote the row has not copied anything yet, and what is copied is there for all who may read the new document:
//! so nobody begins it with what is not published for somebody else, by coming to look at it. The copy is one edit, so it is there whole or not at all, and whoever opens the document at the same time finds
//! the same one.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use rowtide_documents::host::{DocumentError, DocumentId, Host};
use rowtide_documents::place::{Closing, Reason};
use rowtide_plan::documents::{PlannedKind, Standing};
use rowtide_plan::plan::Plan;
use rowtide_postgres::mutate::Author;
use rowtide_postgres::standings::StandingAsked;

use crate::documents::Documents;
use crate::doorkeeper::access;
use crate::limits::MAX_SOURCES;

const NOT_FOUND: Closing = Closing::Final(Reason::NotFound);

/// What a row's source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source<'a> {
    /// Another document of the same kind.
    Document(&'a str),
    /// What is published at an address.
    Published(&'a str),
    Nothing,
}

impl Source<'_> {
    fn read(text: &str) -> Source<'_> {
        match text.split_once('/') {
            Some(("f", id)) if !id.is_empty() => Source::Document(id),
            Some(("p", slug)) if !slug.is_empty() => Source::Published(slug),
            _ => Source::Nothing,
        }
    }
}

/// Somebody who opens documents.
pub(crate) struct Opening<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) host: &'a Host,
    pub(crate) who: Option<&'a Arc<Author>>,
}

impl Documents {
    /// Sees to it that a document has begun that somebody may open. Done again after whatever interrupted it, it is done
    /// once.
    ///
    /// # Errors
    /// How the socket is closed, if they may not copy the source, or it is not there or cannot be read now.
    pub(crate) async fn begin(
        &self,
        opening: &Opening<'_>,
        document: &DocumentId,
    ) -> Result<(), Closing> {
        self.begin_within(opening, document, MAX_SOURCES).await
    }

    fn begin_within<'a>(
        &'a self,
        opening: &'a Opening<'_>,
        document: &'a DocumentId,
        sources: usize,
    ) -> Pin<Box<dyn Future<Output = Result<(), Closing>> + Send + 'a>> {
        Box::pin(async move {
            let Some(kind) = opening.plan.document_kind(document.kind()) else {
                return Err(Closing::ComeBack);
            };
            if kind.source.is_none() || self.shared.effects.has_begun(document) {
                return Ok(());
            }
            let asked = StandingAsked {
                kind: document.kind().into(),
                id: document.id().into(),
                who: opening.who.cloned(),
            };
            let standings =
                self.shared.desk.ask(vec![asked]).await.map_err(|_| Closing::ComeBack)?;
            let answer = standings.answers.into_iter().next().and_then(Result::ok);
            let answer = answer.ok_or(Closing::ComeBack)?;
            let may_copy = match kind.restore {
                Some(_) => answer.may_restore,
                None => answer.standing == Standing::Edit,
            };
            let row = answer.row.ok_or(Closing::ComeBack)?;
            let source = Source::read(row.source.as_deref().unwrap_or_default());
            if source != Source::Nothing && !self.has_begun(opening.host, document).await? {
                if matches!(source, Source::Document(_)) && !may_copy {
                    return Err(Closing::Final(match opening.who {
                        Some(_) => Reason::Forbidden,
                        None => Reason::NotAuthenticated,
                    }));
                }
                let sources = sources.checked_sub(1).ok_or(NOT_FOUND)?;
                let snapshot = self.source(opening, kind, source, sources).await?;
                let begun = match snapshot {
                    Some(snapshot) => opening.host.begin_from(document, snapshot).await,
                    // So it stays, whatever becomes of the source.
                    None => opening.host.begin_empty(document).await,
                };
                match begun {
                    Ok(()) | Err(DocumentError::Begun) => {}
                    Err(error) => return Err(error.closing()),
                }
            }
            self.has_begun_by_now(document);
            Ok(())
        })
    }

    async fn has_begun(&self, host: &Host, document: &DocumentId) -> Result<bool, Closing> {
        self.revive(host, document).map_err(|error| error.closing())?;
        host.has_begun(document).await.map_err(|error| error.closing())
    }

    /// What a document begins as; none if that has nothing in it.
    async fn source(
        &self,
        opening: &Opening<'_>,
        kind: &PlannedKind,
        source: Source<'_>,
        sources: usize,
    ) -> Result<Option<Bytes>, Closing> {
        match source {
            Source::Nothing => Ok(None),
            Source::Document(id) => {
                let id = kind.document_id(id).ok_or(NOT_FOUND)?;
                let source = DocumentId::new(&kind.name, &id).map_err(|_| NOT_FOUND)?;
                let mut door = self.shared.doorkeeper.come(source.clone(), opening.who.cloned());
                access(door.told().await)?;
                self.begin_within(opening, &source, sources).await?;
                self.revive(opening.host, &source).map_err(|error| error.closing())?;
                opening.host.snapshot(&source).await.map_err(|error| error.closing())
            }
            Source::Published(slug) => {
                let published = self.published(opening.host, slug).await;
                let published = published.map_err(|_| Closing::ComeBack)?.ok_or(NOT_FOUND)?;
                if published.protocol != kind.protocol {
                    return Err(NOT_FOUND);
                }
                let copy = opening.host.published(&published.document, slug).await;
                let copy = copy.map_err(|_| Closing::ComeBack)?.ok_or(NOT_FOUND)?;
                Ok(Some(copy.snapshot))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_source_is_nothing() {
        assert_eq!(Source::read("f/a/b"), Source::Document("a/b"));
        assert_eq!(Source::read("p/s"), Source::Published("s"));
        for text in ["", "f", "f/", "p/", "x/a", "/a", "F/a"] {
            assert_eq!(Source::read(text), Source::Nothing, "{text}");
        }
    }
}
