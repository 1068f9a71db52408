//! The way into a document: `/app/{kind}/{id}` for kinds of tlsync, `/doc/{kind}/{id}` for those of Yjs. The upgrade is
//! accepted first, so that the reason can be said; then the token is checked, the row says what its bearer may do, and
//! frames go between the socket and the room, for as long as the row says so.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use rowtide_documents::host::{DocumentId, Host, Joined, Outgoing, OutgoingFrames, Seat};
use rowtide_documents::place::{Access, Closing, FINAL, Frame, Reason, Socket};
use rowtide_gateway::auth::{Identity, TokenError};
use rowtide_gateway::limits::{FLUSH_BYTES, LONGEST_WAIT, PING_AFTER, SILENCE};
use rowtide_gateway::{ClientOrigin, Gateway, HeldEnd, HeldFrame, HeldSocket, Upgrade, bearer};
use rowtide_plan::documents::DocumentProtocol;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until};

use crate::beginning::Opening;
use crate::documents::Documents;
use crate::doorkeeper::{AtDoor, access};
use crate::limits::{GATHER_FRAMES, MAX_SESSION_ID_BYTES, TLSYNC_FRAME_BYTES, YJS_FRAME_BYTES};
use crate::telemetry::{self, SocketCounted};

/// The code of a close frame after which clients come back (RFC 6455's registry: service restart).
const COME_BACK: (u16, &str) = (1012, "COME_BACK");

/// What stands in the query.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asks {
    session_id: Option<String>,
    /// What earlier clients call it.
    session_key: Option<String>,
    instance_id: Option<String>,
    access_token: Option<String>,
}

/// One kind of documents, as a route has it.
#[derive(Clone)]
struct Entrance {
    documents: Documents,
    gateway: Gateway,
    kind: Arc<str>,
    protocol: DocumentProtocol,
}

/// Who asks for which document.
struct Guest {
    kind: Arc<str>,
    protocol: DocumentProtocol,
    id: String,
    session: Option<String>,
    token: Option<String>,
    from: ClientOrigin,
}

/// Somebody who was let in.
struct LetIn {
    document: DocumentId,
    host: Arc<Host>,
    door: AtDoor,
    joined: Joined,
    /// What they may do by now, if it is not what they joined with.
    other_access: Option<Access>,
    identity: Option<Identity>,
}

impl Documents {
    /// The routes of all kinds.
    pub fn router(&self, gateway: &Gateway) -> Router {
        let mut router = Router::new();
        for (kind, protocol) in &self.shared.kinds {
            let limit = match protocol {
                DocumentProtocol::Tlsync => TLSYNC_FRAME_BYTES,
                DocumentProtocol::Yjs => YJS_FRAME_BYTES,
            };
            let entrance = Entrance {
                documents: self.clone(),
                gateway: gateway.clone(),
                kind: Arc::clone(kind),
                protocol: *protocol,
            };
            let connect = move |entrance, id, asks, asked, upgrade| {
                ready(connect(entrance, id, asks, asked, upgrade, limit))
            };
            let path = format!("{}/{{id}}", protocol.path(kind));
            router = router.merge(Router::new().route(&path, get(connect)).with_state(entrance));
        }
        router.merge(self.pages(gateway))
    }

    async fn serve(&self, gateway: &Gateway, guest: Guest, mut socket: HeldSocket) {
        let _counted = SocketCounted::new();
        let protocol = guest.protocol;
        let stop = gateway.stopping();
        let let_in = stop.run_until_cancelled(self.let_in(gateway, guest)).await;
        let closing = match let_in.unwrap_or(Err(Closing::ComeBack)) {
            Err(closing) => {
                telemetry::connect(code(protocol, closing).1);
                Some(closing)
            }
            Ok(let_in) => {
                telemetry::connect("OK");
                socket.let_in();
                let gather = gather(protocol);
                let talk = stop.run_until_cancelled(talk(let_in, &mut socket, gather));
                talk.await.unwrap_or(Some(Closing::ComeBack))
            }
        };
        if let Some(closing) = closing {
            let (code, reason) = code(protocol, closing);
            socket.close(code, reason).await;
        }
    }

    async fn let_in(&self, gateway: &Gateway, guest: Guest) -> Result<LetIn, Closing> {
        let identity = match guest.token.as_deref() {
            None => {
                gateway.take_of_origin(guest.from).map_err(|_| Closing::ComeBack)?;
                None
            }
            Some(token) => match gateway.auth().check(token).await {
                Ok(identity) => Some(identity),
                Err(TokenError::Unauthorized(_)) => {
                    return Err(Closing::Final(Reason::NotAuthenticated));
                }
                Err(TokenError::NoKeysYet) => return Err(Closing::ComeBack),
            },
        };
        let who = identity.as_ref().map(|identity| Arc::clone(&identity.author));
        let user = who.as_ref().map_or("", |who| who.user_id.as_str());
        if who.is_some() && !gateway.may_go_on(user, 1) {
            return Err(Closing::ComeBack);
        }
        let session = session(guest.session, user)?;
        let plan = gateway.plan().ok_or(Closing::ComeBack)?;
        let kind = plan.document_kind(&guest.kind).ok_or(Closing::ComeBack)?;
        let missing = Closing::Final(Reason::NotFound);
        let id = kind.document_id(&guest.id).ok_or(missing)?;
        let document = DocumentId::new(&guest.kind, &id).map_err(|_| missing)?;
        let mut door = self.shared.doorkeeper.come(document.clone(), who.clone());
        let access = access(door.told().await)?;
        self.when_caught_up().await.map_err(|_| Closing::ComeBack)?;
        let host = self.host().ok_or(Closing::ComeBack)?;
        let (joined, other_access) = {
            let opening = Opening { plan: &plan, host: &host, who: who.as_ref() };
            let mut joins = pin!(async {
                self.begin(&opening, &document).await?;
                let joined = self.join(&host, &document, &session, access).await;
                joined.map_err(|error| error.closing())
            });
            let mut other_access = None;
            loop {
                tokio::select! {
                    biased;
                    told = door.told() => other_access = Some(self::access(told)?),
                    joined = &mut joins => break (joined, other_access),
                }
            }
        };
        let joined = joined?;
        Ok(LetIn { document, host, door, joined, other_access, identity })
    }
}

fn connect(
    State(entrance): State<Entrance>,
    Path(id): Path<String>,
    Query(asks): Query<Asks>,
    (headers, from): (HeaderMap, ClientOrigin),
    upgrade: Upgrade,
    limit: usize,
) -> Response {
    let Entrance { documents, gateway, kind, protocol } = entrance;
    let session = asks.session_id.or(asks.session_key).or(asks.instance_id);
    let token = bearer(&headers).or(asks.access_token).filter(|token| !token.is_empty());
    let guest = Guest { kind, protocol, id, session, token, from };
    let of_socket = gateway.clone();
    gateway.hold(upgrade, limit, async move |socket| {
        documents.serve(&of_socket, guest, socket).await;
    })
}

/// What a session is called in its room. Clients choose the name, so it counts for one user alone: nobody takes another's
/// place by it.
fn session(given: Option<String>, user: &str) -> Result<String, Closing> {
    let given = given.filter(|given| !given.is_empty());
    let given = given.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    if given.len() > MAX_SESSION_ID_BYTES {
        return Err(Closing::Final(Reason::UnknownError));
    }
    let mut digest = Sha256::new();
    digest.update((user.len() as u64).to_be_bytes());
    digest.update(user);
    digest.update(given);
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn code(protocol: DocumentProtocol, closing: Closing) -> (u16, &'static str) {
    match (closing, protocol) {
        (Closing::Final(reason), DocumentProtocol::Tlsync) => (FINAL, reason.code()),
        (Closing::Final(reason), DocumentProtocol::Yjs) => (reason.yjs_code(), reason.code()),
        (Closing::ComeBack, _) => COME_BACK,
    }
}

/// Lets somebody be there until one side has enough, or they may not any more, and says how the socket is to be closed;
/// `None` if it is gone. What they may do is heard first, whatever is waited for meanwhile.
async fn talk(let_in: LetIn, socket: &mut HeldSocket, gather: Duration) -> Option<Closing> {
    let LetIn { document, host, mut door, joined, mut other_access, identity } = let_in;
    let Joined { seat, outgoing } = joined;
    let mut carries = pin!(carry(&seat, outgoing, socket, gather, identity.as_ref()));
    loop {
        tokio::select! {
            biased;
            told = door.told() => match access(told) {
                Ok(access) => other_access = Some(access),
                Err(closing) => return Some(closing),
            },
            () = set_access(&host, &document, seat.socket(), other_access), if other_access.is_some() => {
                other_access = None;
            }
            closing = &mut carries => return closing,
        }
    }
}

async fn set_access(host: &Host, document: &DocumentId, socket: Socket, access: Option<Access>) {
    if let Some(access) = access {
        host.set_access(document, socket, access).await;
    }
}

/// For how long after frames were sent those that come next are gathered. A room of tlsync gathers by itself what may wait.
fn gather(protocol: DocumentProtocol) -> Duration {
    match protocol {
        DocumentProtocol::Tlsync => Duration::ZERO,
        DocumentProtocol::Yjs => GATHER_FRAMES,
    }
}

/// Carries frames until one side has enough. The first frame goes at once, and those that come within `gather` of it
/// together: in a room full of people who type each of them would otherwise be woken and written to for each letter.
async fn carry(
    seat: &Seat,
    mut outgoing: OutgoingFrames,
    socket: &mut HeldSocket,
    gather: Duration,
    identity: Option<&Identity>,
) -> Option<Closing> {
    let (mut heard, mut pinged) = (Instant::now(), false);
    // Until when frames are gathered.
    let mut gathers = None;
    // Both are made once: with each frame they would cost more than the frame.
    let mut quiet = pin!(sleep_until(heard + PING_AFTER));
    let mut expired = pin!(expired(identity));
    loop {
        tokio::select! {
            next = outgoing.next(), if gathers.is_none() => {
                let mut frames = Vec::new();
                let mut bytes = 0;
                let mut next = Some(next);
                let mut closing = None;
                while let Some(outgoing_now) = next {
                    match outgoing_now {
                        Outgoing::Frame(frame) => {
                            let frame = held(frame);
                            bytes += size(&frame);
                            frames.push(frame);
                        }
                        Outgoing::Closed(how) => {
                            closing = Some(how);
                            break;
                        }
                    }
                    next = (bytes < FLUSH_BYTES).then(|| outgoing.try_next()).flatten();
                }
                if bytes < FLUSH_BYTES && !gather.is_zero() {
                    gathers = Some(Instant::now() + gather);
                }
                if socket.say(frames).await.is_err() {
                    return None;
                }
                if closing.is_some() {
                    return closing;
                }
            }
            frame = socket.hear() => {
                heard = Instant::now();
                if std::mem::take(&mut pinged) {
                    quiet.as_mut().reset(heard + PING_AFTER);
                }
                match frame {
                    Ok(HeldFrame::Text(text)) => seat.heard(Frame::Text(text)).await,
                    Ok(HeldFrame::Binary(bytes)) => seat.heard(Frame::Binary(bytes)).await,
                    Ok(HeldFrame::Alive) => {}
                    Err(HeldEnd::Gone) => return None,
                    Err(HeldEnd::Unreadable) => return Some(Closing::ComeBack),
                }
            }
            () = until(gathers), if gathers.is_some() => gathers = None,
            () = &mut expired => return Some(Closing::ComeBack),
            () = &mut quiet => {
                if heard + PING_AFTER > Instant::now() {
                    quiet.as_mut().reset(heard + PING_AFTER);
                    continue;
                }
                if pinged || socket.say([HeldFrame::Alive]).await.is_err() {
                    return None;
                }
                pinged = true;
                quiet.as_mut().reset(heard + SILENCE);
            }
        }
    }
}

async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        sleep_until(time).await;
    }
}

/// Waits until a token has ended: its bearer comes back with another. Who has none may stay.
async fn expired(identity: Option<&Identity>) {
    let Some(identity) = identity else { return std::future::pending().await };
    loop {
        // The clock that tokens go by may be set.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let remaining = identity.remaining(unix);
        if remaining == Duration::ZERO {
            return;
        }
        tokio::time::sleep(remaining.min(LONGEST_WAIT)).await;
    }
}

fn held(frame: Frame) -> HeldFrame {
    match frame {
        Frame::Text(text) => HeldFrame::Text(text),
        Frame::Binary(bytes) => HeldFrame::Binary(bytes),
    }
}

fn size(frame: &HeldFrame) -> usize {
    match frame {
        HeldFrame::Text(bytes) | HeldFrame::Binary(bytes) => bytes.len(),
        HeldFrame::Alive => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_session_counts_for_one_user_alone() {
        let named = |user| session(Some("tab".to_owned()), user);
        assert_eq!(named("ann"), named("ann"));
        assert_ne!(named("ann"), named("bob"));
        assert_ne!(session(Some("tab".to_owned()), "ann"), session(Some("b".to_owned()), "annta"));
        assert_ne!(session(None, "ann"), session(None, "ann"));
        let long = "x".repeat(MAX_SESSION_ID_BYTES + 1);
        assert_eq!(session(Some(long), "ann"), Err(Closing::Final(Reason::UnknownError)));
    }
}
