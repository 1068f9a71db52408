//! How Postgres is entered: what each `sslmode` accepts, and every kind of password, for queries and for the
//! stream. The certificate in `tls/` is for `localhost`, and of an authority that nobody else trusts.

use std::sync::Arc;

use rowtide_plan::compile::compile;
use rowtide_plan::definition::Definition;
use rowtide_plan::plan::Plan;
use rowtide_postgres::catalog::read_catalog;
use rowtide_postgres::cluster::Cluster;
use rowtide_postgres::connect::{ConnectOptions, Names, connect};
use rowtide_postgres::setup::setup;
use rowtide_postgres::stream::{Instance, Stream};
use rowtide_tests::{Dir, Running, eventually, free_address, rowtide, said};
use tokio_postgres::Client;

const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/authority.pem");

/// A cluster that takes only TLS from those who come over TCP, and its port.
async fn cluster() -> (Cluster, u16) {
    cluster_with(include_str!("tls/server.pem"), include_str!("tls/server.key")).await
}

/// As [`cluster`], with another certificate.
async fn cluster_with(certificate: &str, key: &str) -> (Cluster, u16) {
    let free = free_address().port();
    let settings = [("listen_addresses", "127.0.0.1"), ("port", &free.to_string()[..])];
    let cluster = Cluster::start_temporary(&settings).await.unwrap();
    let client = cluster.connect("postgres").await.unwrap();
    let put = |text: &str, to: &str| {
        // Written by the server, so that its user owns it and nobody else may read it.
        format!("COPY (SELECT '{text}') TO PROGRAM 'umask 077; sed ''s/\\\\n/\\n/g'' > {to}'")
    };
    for sql in [
        put(certificate, "server.crt"),
        put(key, "server.key"),
        "COPY (SELECT 'local all all trust') TO PROGRAM 'cat > pg_hba.conf'".to_owned(),
        "COPY (SELECT 'hostssl all all all trust') TO PROGRAM 'cat >> pg_hba.conf'".to_owned(),
        "COPY (SELECT 'hostssl replication all all trust') TO PROGRAM 'cat >> pg_hba.conf'"
            .to_owned(),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        client.batch_execute(&sql).await.unwrap();
    }
    eventually("TLS is on", || async {
        let url = format!("postgres://postgres@localhost:{free}/postgres?sslmode=require");
        connect(&ConnectOptions::parse(&url).unwrap(), "test").await.ok()
    })
    .await;
    (cluster, free)
}

/// What a stream needs in the database `postgres`.
async fn prepared(cluster: &Cluster) -> (Names, Arc<Plan>) {
    let admin = cluster.connect("postgres").await.unwrap();
    admin.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let definition = Definition::parse("rowtide.toml", "[tables.t]\nvisible = 'true'").unwrap();
    let names = Names::of("default").unwrap();
    setup(&admin, &names, &definition.tables()).await.unwrap();
    let catalog = read_catalog(&admin, &definition.tables()).await.unwrap();
    (names, Arc::new(compile(&definition, &catalog).unwrap()))
}

async fn slot_is_free(client: &Client) {
    let sql = "SELECT 1 FROM pg_replication_slots WHERE active";
    eventually("the slot is free", || async {
        client.query(sql, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_password_is_given_and_a_wrong_one_is_said_to_be_wrong() {
    let (cluster, port) = cluster().await;
    let (names, plan) = prepared(&cluster).await;
    let admin = cluster.connect("postgres").await.unwrap();
    for sql in [
        "SET password_encryption = 'scram-sha-256'",
        "CREATE ROLE scram SUPERUSER LOGIN PASSWORD 'räksmörgås'",
        "CREATE ROLE plain SUPERUSER LOGIN PASSWORD 'plain'",
        "SET password_encryption = 'md5'",
        "CREATE ROLE md5 SUPERUSER LOGIN PASSWORD 'hashed'",
        "COPY (SELECT 'local all all trust') TO PROGRAM 'cat > pg_hba.conf'",
        "COPY (SELECT 'hostssl all scram all scram-sha-256') TO PROGRAM 'cat >> pg_hba.conf'",
        "COPY (SELECT 'hostssl all plain all password') TO PROGRAM 'cat >> pg_hba.conf'",
        "COPY (SELECT 'hostssl all md5 all md5') TO PROGRAM 'cat >> pg_hba.conf'",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    let options = |user: &str, password: &str| {
        let url = format!("postgres://{user}{password}@localhost:{port}/postgres?sslmode=require");
        ConnectOptions::parse(&url).unwrap()
    };
    let wrong = eventually("passwords are asked for", || async {
        connect(&options("scram", ":wrong"), "test").await.err()
    })
    .await;
    let advice = wrong.advice().expect("a wrong password has advice");
    assert!(advice.contains("password in the URL is wrong"), "{wrong}: {advice}");
    let none = connect(&options("scram", ""), "test").await.unwrap_err();
    assert!(none.advice().is_some_and(|advice| advice.contains("the URL has none")), "{none}");
    for (user, password) in
        [("scram", ":r%C3%A4ksm%C3%B6rg%C3%A5s"), ("plain", ":plain"), ("md5", ":hashed")]
    {
        let started =
            Stream::start(&options(user, password), &names, plan.clone(), Instance(1)).await;
        let (stream, _) = started.unwrap_or_else(|error| panic!("{user}: {error}"));
        stream.stop().await;
        slot_is_free(&admin).await;
        let wrong = options(user, ":wrong");
        let refused = Stream::start(&wrong, &names, plan.clone(), Instance(1));
        let error = refused.await.map(drop).unwrap_err().to_string();
        let said = format!("password authentication failed for user \"{user}\"");
        assert!(error.contains(&said) && !error.contains("wrong"), "{error}");
    }
    let refused = Stream::start(&options("scram", ""), &names, plan, Instance(1)).await;
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(error.contains("password"), "{error}");
}

/// The way of the stream alone: the queries' is the driver's.
#[tokio::test]
async fn what_goes_wrong_with_a_stream_is_said_with_the_step() {
    let (cluster, port) = cluster().await;
    let (names, plan) = prepared(&cluster).await;
    let admin = cluster.connect("postgres").await.unwrap();
    for sql in [
        "CREATE ROLE reader SUPERUSER LOGIN",
        "ALTER ROLE reader NOSUPERUSER",
        "GRANT pg_monitor TO reader",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    let url = format!("postgres://reader@localhost:{port}/postgres?sslmode=require");
    let options = ConnectOptions::parse(&url).unwrap();
    let refused = Stream::start(&options, &names, plan, Instance(1)).await;
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to database `postgres` at localhost:"), "{error}");
    assert!(error.contains("for the stream: ") && error.contains("replication"), "{error}");
}

#[tokio::test]
async fn each_sslmode_accepts_what_it_says_for_queries_and_for_the_stream() {
    let (cluster, port) = cluster().await;
    let (names, plan) = prepared(&cluster).await;

    let verified = format!("sslmode=verify-full&sslrootcert={}", AUTHORITY.replace('/', "%2F"));
    for (host, query, accepted) in [
        ("localhost", "sslmode=disable", false),
        ("localhost", "sslmode=prefer", true),
        ("localhost", "sslmode=require", true),
        ("localhost", "sslmode=verify-full", false),
        ("localhost", &verified[..], true),
        ("127.0.0.1", "sslmode=require", true),
        // The certificate is for another name.
        ("127.0.0.1", &verified[..], false),
        ("localhost", "sslmode=verify-full&sslrootcert=%2Fnowhere.pem", false),
    ] {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{query}");
        let options = ConnectOptions::parse(&url).unwrap();
        let client = connect(&options, "test").await;
        assert_eq!(client.is_ok(), accepted, "{url}: {:?}", client.err());
        if let Ok(client) = client {
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), "{url}");
            let (stream, _) = Stream::start(&options, &names, plan.clone(), Instance(1))
                .await
                .unwrap_or_else(|error| panic!("{url}: {error}"));
            let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
            let encrypted = eventually("a stream", || async {
                let row = client.query_opt(sql, &[]).await.unwrap()?;
                Some(row.get::<_, bool>(0))
            });
            assert!(encrypted.await, "{url}");
            stream.stop().await;
            slot_is_free(&client).await;
        }
    }
}

/// An address is as good as a name, where the certificate is for it: for queries and for the stream alike.
#[tokio::test]
async fn a_certificate_for_an_address_is_verified_against_it() {
    let (cluster, port) =
        cluster_with(include_str!("tls/address.pem"), include_str!("tls/address.key")).await;
    let (names, plan) = prepared(&cluster).await;
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/address_authority.pem");
    let verified = format!("sslmode=verify-full&sslrootcert={}", authority.replace('/', "%2F"));
    let dir = Dir::new();
    dir.write("rowtide.toml", "[tables.t]\nvisible = 'true'\n");
    let command = |url: &str, name: &str| {
        let mut command = rowtide([name, "--database-url", url]);
        command.current_dir(dir.path()).env("ROWTIDE_LISTEN", "127.0.0.1:0");
        command.env("ROWTIDE_TOKEN_SECRET", "a secret of this test, long enough for HS256");
        command
    };
    for (host, accepted) in [("127.0.0.1", true), ("localhost", false)] {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{verified}");
        let options = ConnectOptions::parse(&url).unwrap();
        let client = connect(&options, "test").await;
        let stream = Stream::start(&options, &names, plan.clone(), Instance(1)).await;
        assert_eq!(
            (client.is_ok(), stream.is_ok()),
            (accepted, accepted),
            "{url}: {:?}",
            client.err()
        );
        if let Ok((stream, _)) = stream {
            stream.stop().await;
        }
        if let Err(error) = client {
            assert!(
                error.advice().is_some_and(|advice| advice.contains("another name")),
                "{error}"
            );
        }
        // So do the commands: what `check` says is what becomes of `serve`.
        let checked = said(command(&url, "check")).await;
        assert_eq!(checked.code() == Some(0), accepted, "{checked:?}");
        if accepted {
            let mut serving = Running::start(command(&url, "serve"));
            serving.line("ready http://").await;
            assert_eq!(serving.stop().await.code(), Some(0));
        } else {
            assert!(checked.err.contains("another name"), "{checked:?}");
        }
    }
}
