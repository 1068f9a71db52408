//! The playground: the page that `rowtide dev` serves, where two people are signed in side by side. Its
//! files are part of the binary and are plain modules that a browser loads as they are; the client in
//! them is the one that applications use. It knows no application: tables, columns and people come from
//! the plan and the database. Whoever may open it can be anyone, so it is there in development alone,
//! and answers only to names of this machine: a page of elsewhere that has its own name lead here gets
//! nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use include_dir::{Dir, include_dir};
use rowtide_plan::catalog::CatalogColumn;
use rowtide_plan::plan::{Branch, Plan, QueryId, Selection, Table, TableId};
use rowtide_plan::queries::{PlannedQuery, QueryParam};
use rowtide_plan::value::{ColumnType, Int8Form};
use rowtide_postgres::connect::{ConnectOptions, connect, reason};
use rowtide_postgres::sample::sample_column;
use serde::{Deserialize, Serialize};

use rowtide_gateway::Gateway;
use rowtide_gateway::auth::sign_claims;

use crate::limits::{PROPOSED_PEOPLE, TOKEN_LIFETIME};

/// Nothing from elsewhere, nothing inline, and nobody may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// What the page tells of, and what it signs with.
#[derive(Clone, Debug)]
pub struct PlaygroundOptions {
    /// The application's name.
    pub application: String,
    /// The database's URL, for the line to paste.
    pub database_url: String,
    /// The secret of the server's tokens.
    pub secret: String,
}

struct Playground {
    options: PlaygroundOptions,
    database: ConnectOptions,
    gateway: Gateway,
}

/// The page at `/`, and what it needs below `/playground/`.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(
    options: PlaygroundOptions,
    database: ConnectOptions,
    gateway: Gateway,
) -> Router<S> {
    Router::new()
        .route("/", get(|| file(Path("index.html".to_owned()))))
        .route("/playground/info", get(info))
        .route("/playground/token", post(token))
        .route("/playground/{*path}", get(file))
        .layer(middleware::from_fn(guard))
        .with_state(Arc::new(Playground { options, database, gateway }))
}

async fn guard(request: Request, next: Next) -> Response {
    let mut response = if names_this_machine(request.headers()) {
        next.run(request).await
    } else {
        let said = "The playground is for the machine that it runs on: open it as 127.0.0.1 or localhost.\n";
        (StatusCode::FORBIDDEN, said).into_response()
    };
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    let loopback = |address: IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(loopback)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info<'a> {
    application: &'a str,
    /// The line to paste into a terminal.
    psql: String,
    tables: Vec<TableInfo<'a>>,
    /// What may be subscribed to now.
    queries: Vec<QueryInfo<'a>>,
    /// Some ids of people.
    users: Vec<String>,
    /// The claims that the rules ask for, beside the user's id.
    claims: Vec<&'a str>,
    /// Whether those are let in who have no token.
    anonymous: bool,
    /// The `appVersion` that the application asks for.
    min_client: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TableInfo<'a> {
    name: &'a str,
    /// Whether its rows come with subscriptions alone.
    is_on_demand: bool,
    key: &'a [String],
    columns: Vec<ColumnInfo<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ColumnInfo<'a> {
    name: &'a str,
    /// As Postgres prints it.
    r#type: &'a str,
    /// How its values are written in JSON.
    kind: &'static str,
    not_null: bool,
    /// Whether an insert may leave it out, although it is not null.
    has_default: bool,
    labels: &'a [String],
    /// Whether a rule compares it with the user's id.
    is_user: bool,
    /// Written by an insert and never by an update.
    immutable: bool,
    /// Never written by a client.
    readonly: bool,
}

#[derive(Serialize)]
struct QueryInfo<'a> {
    name: &'a str,
    /// Those whose rows it selects.
    tables: BTreeSet<&'a str>,
    params: Vec<ParamInfo<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ParamInfo<'a> {
    name: &'a str,
    /// As Postgres calls it.
    r#type: String,
    /// How its values are written in JSON.
    kind: &'static str,
    /// Whether a subscription may leave it out.
    is_optional: bool,
}

async fn info(State(playground): State<Arc<Playground>>) -> Response {
    let Some(plan) = playground.gateway.plan() else {
        let said = "The server is not ready yet.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, said).into_response();
    };
    let users = match people(&playground.database, &plan).await {
        Ok(users) => users,
        // The page works without; any id can be typed.
        Err(error) => {
            tracing::debug!(%error, "the playground proposes nobody");
            Vec::new()
        }
    };
    let published = plan.tables.iter().enumerate().filter(|(_, table)| table.published);
    let fits = |(_, query): &(usize, &PlannedQuery)| !plan.unfit_queries.contains(&query.name);
    let queries = plan.queries.iter().enumerate().filter(fits);
    let info = Info {
        application: &playground.options.application,
        psql: format!("psql '{}'", playground.options.database_url),
        tables: published.map(|(index, table)| table_info(&plan, index, table)).collect(),
        queries: queries.map(|(index, query)| query_info(&plan, index, query)).collect(),
        users,
        claims: plan.named_claims().into_iter().collect(),
        anonymous: plan.anonymous,
        min_client: plan.min_client,
    };
    json(&info)
}

fn table_info<'a>(plan: &'a Plan, index: usize, table: &'a Table) -> TableInfo<'a> {
    let id = TableId(index as u16);
    let of_user: Vec<usize> = plan.user_columns(id).collect();
    let column = |(place, column): (usize, &'a CatalogColumn)| ColumnInfo {
        name: &column.name,
        r#type: &column.type_name,
        kind: kind(&column.kind, plan.form_of(column)),
        not_null: column.not_null,
        has_default: column.input.default.is_some() || column.input.is_of_postgres_alone(),
        labels: &column.labels,
        is_user: of_user.contains(&place),
        immutable: table.write.immutable.contains(&place),
        readonly: table.write.readonly.contains(&place) || column.input.is_of_postgres_alone(),
    };
    let is_always = |branch: &Branch| {
        branch.table == id && branch.published && branch.selection == Selection::Always
    };
    TableInfo {
        name: &table.name,
        is_on_demand: !plan.branches.iter().any(is_always),
        key: &table.catalog.primary_key,
        columns: table.sent_columns().map(column).collect(),
    }
}

fn query_info<'a>(plan: &'a Plan, index: usize, query: &'a PlannedQuery) -> QueryInfo<'a> {
    let selection = Selection::Query(QueryId(index as u16));
    let selected =
        plan.branches.iter().filter(|branch| branch.published && branch.selection == selection);
    let param = |param: &'a QueryParam| ParamInfo {
        name: &param.name,
        r#type: param.kind.sql(),
        kind: kind(&param.kind.column_type(), plan.int8),
        is_optional: param.is_optional(),
    };
    let tables = selected.map(|branch| plan.table(branch.table).name.as_str()).collect();
    QueryInfo { name: &query.name, tables, params: query.params.iter().map(param).collect() }
}

fn kind(kind: &ColumnType, form: Int8Form) -> &'static str {
    match kind {
        ColumnType::Bool => "boolean",
        ColumnType::Int if form == Int8Form::String => "text",
        ColumnType::Int => "integer",
        ColumnType::Float4 | ColumnType::Float8 => "float",
        ColumnType::Json => "json",
        ColumnType::Array(_) => "array",
        ColumnType::Enum => "enum",
        ColumnType::Uuid => "uuid",
        ColumnType::TimestampTz => "instant",
        _ => "text",
    }
}

/// Ids of people: of the table whose key the rules compare with the user's id, else of any column that
/// they compare with it.
async fn people(database: &ConnectOptions, plan: &Plan) -> Result<Vec<String>, String> {
    let all = (0..plan.tables.len()).map(|index| TableId(index as u16));
    let mut columns: Vec<(&Table, usize)> = all
        .flat_map(|id| plan.user_columns(id).map(move |column| (plan.table(id), column)))
        .collect();
    columns.sort_by_key(|(table, column)| table.key != [*column]);
    let Some((table, column)) = columns.first() else { return Ok(Vec::new()) };
    let client = connect(database, "playground").await.map_err(|error| error.to_string())?;
    let sampled = sample_column(&client, &table.catalog, *column, PROPOSED_PEOPLE).await;
    sampled.map_err(|error| reason(&error))
}

#[derive(Deserialize)]
struct Wanted {
    user: String,
    #[serde(default)]
    claims: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Signed {
    token: String,
}

async fn token(State(playground): State<Arc<Playground>>, body: Bytes) -> Response {
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match sign_claims(&playground.options.secret, &wanted.user, wanted.claims, TOKEN_LIFETIME) {
        Ok(token) => json(&Signed { token }),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn file(Path(path): Path<String>) -> Response {
    let file = match path.strip_prefix("client/") {
        Some(name) => CLIENT.get_file(name),
        None => PAGE.get_file(&path),
    };
    let Some(file) = file else {
        return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response();
    };
    let kind = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    ([(header::CONTENT_TYPE, kind)], file.contents()).into_response()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The page's own files.
static PAGE: Dir = include_dir!("$CARGO_MANIFEST_DIR/playground");
/// The client as it is published, served below `client/`.
static CLIENT: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../clients/js/client/src");
