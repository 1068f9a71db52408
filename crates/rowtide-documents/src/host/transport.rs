//! How requests reach S3: over the client of HTTP that the rest of the server has, too, so that there is one TLS and one
//! provider of cryptography in it. Redirects are not followed, since a signature is for one host. Nothing that this says
//! of a failure has an address or a query in it.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::redirect::Policy;

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection is kept that nothing goes over.
const IDLE: Duration = Duration::from_secs(60);

/// Makes clients of HTTP.
#[derive(Debug)]
pub(super) struct Transport;

impl HttpConnector for Transport {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // Installed already is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let client = reqwest::Client::builder()
            .https_only(allows_http.as_deref() != Some("true"))
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .redirect(Policy::none())
            .build()
            .map_err(|error| object_store::Error::Generic { store: "S3", source: error.into() })?;
        Ok(HttpClient::new(Client(client)))
    }
}

#[derive(Debug)]
struct Client(reqwest::Client);

impl HttpService for Client {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
    {
        Box::pin(async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap));
            let response = self.0.execute(request.map_err(told)?).await.map_err(told)?;
            let (head, body) = http::Response::from(response).into_parts();
            Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body.map_err(told))))
        })
    }
}

/// What went wrong, in the words of the innermost cause.
#[derive(Debug)]
struct Broken {
    why: String,
    source: reqwest::Error,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Error for Broken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// What a failure is: by its kind it is decided whether a request is tried again, as one that was never sent can be.
fn told(error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let (mut kind, mut why) = (HttpErrorKind::Unknown, error.to_string());
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        why = inner.to_string();
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            kind = match inner.kind() {
                io::ErrorKind::TimedOut => HttpErrorKind::Timeout,
                io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => HttpErrorKind::Interrupted,
                _ => kind,
            };
        }
        cause = inner.source();
    }
    if error.is_connect() {
        kind = HttpErrorKind::Connect;
    } else if error.is_timeout() {
        kind = HttpErrorKind::Timeout;
    } else if error.is_body() || error.is_decode() || error.is_request() {
        // An answer that ended too soon, or never began: who may try again does.
        kind = if kind == HttpErrorKind::Unknown { HttpErrorKind::Interrupted } else { kind };
    }
    HttpError::new(kind, Broken { why, source: error })
}
