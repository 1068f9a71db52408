//! The way to a running stream: a socket, TLS where `sslmode` wants it, the password, and
//! `START_REPLICATION`. It means for the stream what the driver of the queries makes of the same URL. What goes
//! wrong is told in Postgres' own words, or in words that say which step it was.

use std::pin::Pin;

use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{self, Host, SslMode, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connect::ConnectOptions;
use crate::walsender::{Frame, HEADER, StreamRejection};

/// A connection, encrypted or not.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

/// A connection of any kind.
pub(crate) type Socket = Pin<Box<dyn Wire>>;

/// The most bytes of one message before the stream runs.
const MAX_MESSAGE: usize = 1 << 20;

/// Why there is no stream.
pub(crate) enum Failure {
    /// Postgres does not start it.
    Rejected(StreamRejection),
    /// It did not come to that.
    Other(String),
}

impl From<String> for Failure {
    fn from(what: String) -> Failure {
        Failure::Other(what)
    }
}

impl From<&str> for Failure {
    fn from(what: &str) -> Failure {
        Failure::Other(what.to_owned())
    }
}

/// What a stream is asked for with.
pub(crate) struct Request<'a> {
    pub(crate) application_name: &'a str,
    /// Settings of the session, as the `options` of a connection.
    pub(crate) settings: &'a str,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    /// Whether transactions are brought that have nothing but a message.
    pub(crate) messages: bool,
}

/// Connects and starts to stream from what the slot has confirmed. What came behind the answer is returned, too.
pub(crate) async fn start(
    options: &ConnectOptions,
    request: &Request<'_>,
) -> Result<(Socket, BytesMut), Failure> {
    let socket = open(options).await?;
    let mut conversation = Conversation { socket, buffer: BytesMut::new() };
    conversation.enter(options.config(), request).await?;
    // The plugin splits its list of publications as one of quoted identifiers.
    let publication = request.publication.replace('"', "\"\"").replace('\'', "''");
    let slot = request.slot.replace('"', "\"\"");
    let messages = if request.messages { ", \"messages\" 'true'" } else { "" };
    let start = format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 \
         (\"proto_version\" '1', \"publication_names\" '\"{publication}\"'{messages})"
    );
    conversation.say(|into| frontend::query(&start, into)).await?;
    loop {
        let (kind, _) = conversation.hear("starting the stream").await?;
        match kind {
            // CopyBothResponse
            b'W' => return Ok((conversation.socket, conversation.buffer)),
            b'S' | b'N' => {}
            kind => return Err(unexpected(kind, "starting the stream")),
        }
    }
}

/// Connects as for a stream, and goes again.
pub(crate) async fn try_out(options: &ConnectOptions) -> Result<(), Failure> {
    const STEP: &str = "identifying the system";
    let socket = open(options).await?;
    let mut conversation = Conversation { socket, buffer: BytesMut::new() };
    let settings = options.stream_settings(false);
    let request = Request {
        application_name: "rowtide check",
        settings: &settings,
        slot: "",
        publication: "",
        messages: false,
    };
    conversation.enter(options.config(), &request).await?;
    // What takes an ordinary connection for one of the stream does not know this.
    conversation.say(|into| frontend::query("IDENTIFY_SYSTEM", into)).await?;
    while conversation.hear(STEP).await?.0 != b'Z' {}
    conversation
        .say(|into| {
            frontend::terminate(into);
            Ok(())
        })
        .await
}

async fn open(options: &ConnectOptions) -> Result<Socket, Failure> {
    let config = options.config();
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host,
        Some(Host::Unix(dir)) => {
            let path = dir.join(format!(".s.PGSQL.{}", options.port()));
            return Ok(Box::pin(UnixStream::connect(path).await.map_err(not_reached)?));
        }
        None => return Err("the database URL names no host".into()),
    };
    let connected = match config.get_hostaddrs().first() {
        Some(address) => TcpStream::connect((*address, options.port())).await,
        None => TcpStream::connect((host.as_str(), options.port())).await,
    };
    let mut socket = connected.map_err(not_reached)?;
    socket.set_nodelay(true).map_err(not_reached)?;
    let mode = config.get_ssl_mode();
    if mode == SslMode::Disable {
        return Ok(Box::pin(socket));
    }
    if config.get_ssl_negotiation() == SslNegotiation::Postgres {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        socket.write_all(&request).await.map_err(not_reached)?;
        let answer = socket.read_u8().await.map_err(not_reached)?;
        match (answer, mode) {
            (b'S', _) => {}
            (_, SslMode::Prefer) => return Ok(Box::pin(socket)),
            _ => return Err("the server does not support TLS, and sslmode wants it".into()),
        }
    }
    let tls = options.client_config().map_err(|error| error.to_string())?;
    let mut tls = MakeRustlsConnect::new(tls);
    let made = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::make_tls_connect(&mut tls, host);
    let Ok(connect) = made;
    let encrypted = connect.connect(socket).await;
    Ok(Box::pin(encrypted.map_err(|error| format!("TLS cannot be established: {error}"))?))
}

fn not_reached(error: std::io::Error) -> Failure {
    Failure::Other(error.to_string())
}

fn unexpected(kind: u8, step: &str) -> Failure {
    Failure::Other(format!("Postgres said `{}` while {step}", char::from(kind)))
}

/// A connection on which question and answer take turns.
struct Conversation {
    socket: Socket,
    buffer: BytesMut,
}

impl Conversation {
    async fn say(
        &mut self,
        put: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let mut into = BytesMut::new();
        put(&mut into).map_err(not_reached)?;
        self.socket.write_all(&into).await.map_err(not_reached)?;
        self.socket.flush().await.map_err(not_reached)
    }

    /// The next message: its kind and its body.
    async fn hear(&mut self, step: &str) -> Result<(u8, BytesMut), Failure> {
        loop {
            let first = Frame::first(&self.buffer).map_err(|error| error.to_string())?;
            if let Some((frame, length)) = first {
                if frame.kind == b'E' {
                    return Err(Failure::Rejected(frame.rejection()));
                }
                let kind = frame.kind;
                let mut message = self.buffer.split_to(length);
                message.advance(HEADER);
                return Ok((kind, message));
            }
            if Frame::length(&self.buffer).is_some_and(|length| length > MAX_MESSAGE) {
                return Err(
                    format!("Postgres sends what is not of the protocol while {step}").into()
                );
            }
            if self.socket.read_buf(&mut self.buffer).await.map_err(not_reached)? == 0 {
                return Err(format!("Postgres closed the connection while {step}").into());
            }
        }
    }

    /// From the first message to a session that takes commands.
    async fn enter(
        &mut self,
        config: &config::Config,
        request: &Request<'_>,
    ) -> Result<(), Failure> {
        const STEP: &str = "beginning the session";
        let user = config.get_user().unwrap_or_default();
        let parameters = [
            ("user", user),
            ("database", config.get_dbname().unwrap_or_default()),
            ("replication", "database"),
            ("application_name", request.application_name),
            ("options", request.settings),
        ];
        self.say(|into| frontend::startup_message(parameters, into)).await?;
        self.authenticate(config, user).await?;
        loop {
            match self.hear(STEP).await? {
                (b'Z', _) => return Ok(()),
                // Settings, the key for cancelling, notices.
                (b'S' | b'K' | b'N' | b'v', _) => {}
                (kind, _) => return Err(unexpected(kind, STEP)),
            }
        }
    }

    async fn authenticate(&mut self, config: &config::Config, user: &str) -> Result<(), Failure> {
        const STEP: &str = "authenticating";
        if config.get_channel_binding() == config::ChannelBinding::Require {
            return Err("channel_binding=require is not supported for the stream".into());
        }
        let password =
            || config.get_password().ok_or("Postgres wants a password, and the URL has none");
        let mut scram = None;
        loop {
            let (kind, mut body) = self.hear(STEP).await?;
            match kind {
                b'R' if body.len() >= 4 => {}
                b'v' | b'N' => continue,
                kind => return Err(unexpected(kind, STEP)),
            }
            match body.get_u32() {
                0 if scram.is_none() => return Ok(()),
                0 => return Err("Postgres does not prove that it knows the password".into()),
                3 => {
                    let password = password()?;
                    self.say(|into| frontend::password_message(password, into)).await?;
                }
                5 => {
                    let salt = body.first_chunk().ok_or("Postgres sent no salt")?;
                    let hash = md5_hash(user.as_bytes(), password()?, *salt);
                    self.say(|into| frontend::password_message(hash.as_bytes(), into)).await?;
                }
                10 => {
                    let mut offered = body.chunk().split(|byte| *byte == 0);
                    if !offered.any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes()) {
                        return Err("Postgres offers no SCRAM-SHA-256".into());
                    }
                    let first = ScramSha256::new(password()?, ChannelBinding::unsupported());
                    let message = first.message();
                    self.say(|into| frontend::sasl_initial_response(SCRAM_SHA_256, message, into))
                        .await?;
                    scram = Some(first);
                }
                11 => {
                    let scram = scram.as_mut().ok_or("Postgres goes on with what was not begun")?;
                    scram.update(&body).map_err(|error| format!("SCRAM fails: {error}"))?;
                    self.say(|into| frontend::sasl_response(scram.message(), into)).await?;
                }
                12 => {
                    let mut last = scram.take().ok_or("Postgres ends what was not begun")?;
                    last.finish(&body).map_err(|error| format!("SCRAM fails: {error}"))?;
                }
                _ => {
                    return Err(
                        "Postgres wants a way of authentication that is not supported".into()
                    );
                }
            }
        }
    }
}
