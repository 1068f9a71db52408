//! The benchmarks run, and every client that they bring is served. What they measure is for
//! `make bench`: here the machine has other things to do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rowtide_tests::{Dir, rowtide, rowtide_bench, said};

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_comes_to_its_result() {
    let dir = Dir::new();
    for (args, result) in [
        (&["fanout", "--sessions", "20", "--seconds", "1"][..], "20 see each change"),
        (&["drain", "--sessions", "20", "--transactions", "800"][..], "800 transactions"),
        (
            &["pipeline", "--sessions", "20", "--transactions", "800"][..],
            "pipeline: 800 transactions",
        ),
        (&["connect", "--sessions", "50"][..], "1000 rows"),
        (&["column", "--sessions", "50"][..], "1000 changes"),
        (&["idle", "--sessions", "50", "--seconds", "1"][..], "50 sessions"),
        (&["mutate", "--clients", "4", "--seconds", "1"][..], "4 clients"),
        (&["resume", "--sessions", "50", "--percent", "20"][..], "50 clients come back"),
        (
            &["burst", "--thousand-rows", "2", "--sessions", "2", "--transactions", "80"][..],
            "2000 rows",
        ),
        (&["restart", "--sessions", "30"][..], "30 clients"),
        (
            &["snapshots", "--thousand-rows", "1", "--connects", "3", "--seconds", "1"][..],
            "3 connects at once",
        ),
        (
            &[
                "rooms",
                "--people",
                "3",
                "--rooms",
                "4",
                "--in-each",
                "2",
                "--seconds",
                "1",
                "--rate",
                "20",
                "--shapes",
                "50",
            ][..],
            "documents of 50 shapes, Tlsync",
        ),
    ] {
        let mut command = rowtide_bench(["--dir", &dir.join("bench")]);
        command.args(args);
        if args[0] == "fanout" {
            command.args(["--viewers", "20"]);
        }
        if args[0] == "burst" {
            command.args(["--wide", "20"]);
        }
        let said = said(command).await;
        assert_eq!(said.code(), Some(0), "{args:?}: {said:?}");
        assert!(said.out.contains(result), "{args:?}:\n{}", said.out);
    }
}

/// What `--server` names may be an earlier build: it ends when it is given a setting by a name that it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_server_is_measured_as_well() {
    let dir = Dir::new();
    let server = rowtide::<&str>([]);
    let server = server.get_program().to_string_lossy();
    let earlier = dir.write(
        "earlier",
        &format!(
            "#!/bin/sh\n\
             if env | grep -E '^ROWTIDE_(LOG_DIR|LOG_SECONDS|LOG_BYTES|LOG_LEVEL|SEND_QUEUE_BYTES)='\n\
             then exit 1; fi\n\
             exec '{server}' \"$@\"\n"
        ),
    );
    std::fs::set_permissions(&earlier, Permissions::from_mode(0o700)).unwrap();
    let args = ["connect", "--sessions", "5"];
    let mut command = rowtide_bench(["--dir", &dir.join("bench"), "--server", &earlier]);
    command.args(args);
    let told = said(command).await;
    assert_eq!(told.code(), Some(0), "{told:?}");
    assert!(!told.err.contains("former name"), "{told:?}");
}
