//! People who edit documents together: one room with very many of them, and very many rooms with a few. What counts is
//! the server's time on the cores for a push, since people and server share the machine; beside it, in the same run and
//! with the same people, a server that Node runs. Nobody can push faster than the server's rate allows, so the number of
//! pushes a second has a limit of its own.

mod peer;
mod people;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use miette::{Context, IntoDiagnostic, Result, miette};
use rowtide_gateway::auth::sign;

use crate::process::{cpu_time, resident_bytes};
use crate::rooms::peer::Peer;
use crate::rooms::people::{People, Rooms};
use crate::rooms::wire::Protocol;
use crate::site::{Annex, Ground, Population, Site};
use crate::{check_open_files, line, progress};

/// The least pause between two pushes of one person: what servers take from one without an end.
const LEAST_PAUSE: Duration = Duration::from_micros(6_700);
/// How long until rooms that nobody is in are asleep.
const SLEEPS_WITHIN: Duration = Duration::from_secs(60);
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const DEFINITION: &str = r#"
[documents.drawing]
table = "paper"
protocol = "tlsync"
read = 'true'
edit = 'owner = auth.user_id'

[documents.text]
table = "paper"
protocol = "yjs"
read = 'true'
edit = 'owner = auth.user_id'
"#;
/// Documents of each protocol that are opened.
const OPENED: u32 = 5;

#[derive(Args, Debug)]
pub(crate) struct RoomsArgs {
    /// People in the one room
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=50))]
    people: u32,
    /// The many rooms
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rooms: u32,
    /// People in each of them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=50))]
    in_each: u32,
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Pushes of one person that are under way, at full speed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    under_way: u32,
    /// Pushes a second of all people while the latency is measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Shapes of a document that is opened
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    shapes: u32,
    /// Protocols, both if it is left out
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// A Node program that serves rooms of Yjs where HOST and PORT say, measured beside
    #[arg(long, value_name = "FILE")]
    yjs_peer: Option<PathBuf>,
    /// The same of tlsync
    #[arg(long, value_name = "FILE")]
    tlsync_peer: Option<PathBuf>,
    /// The schema, in JSON, that clients of tlsync say they have [default: one of nothing]
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
}

pub(crate) async fn run(ground: &Ground, args: &RoomsArgs) -> Result<()> {
    check_open_files(args.people.max(args.rooms * args.in_each))?;
    let schema: Arc<str> = match &args.schema {
        Some(file) => std::fs::read_to_string(file)
            .into_diagnostic()
            .wrap_err("the schema cannot be read")?
            .trim()
            .into(),
        None => r#"{"schemaVersion":2,"sequences":{}}"#.into(),
    };
    let mut site = prepare(ground, args).await?;
    for protocol in [Protocol::Yjs, Protocol::Tlsync] {
        if args.protocol.is_some_and(|only| only != protocol) {
            continue;
        }
        let (path, peer) = match protocol {
            Protocol::Yjs => ("/doc/text/", &args.yjs_peer),
            Protocol::Tlsync => ("/app/drawing/", &args.tlsync_peer),
        };
        site.serve().await?;
        let token = sign(site.secret(), "p1", TOKEN_LIFETIME).into_diagnostic()?;
        let query = format!("&accessToken={token}").into();
        let schema = Arc::clone(&schema);
        let address = site.address()?;
        let rooms = Rooms { address, protocol, schema, path: path.into(), query };
        // A server that has begun to serve rows may not serve documents yet.
        let begun = Instant::now();
        while let Err(error) = rooms.enter("large-0", 0).await {
            if begun.elapsed() > SLEEPS_WITHIN {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ours = measure("Rowtide", site.pid()?, &rooms, args).await?;
        open(&site, &rooms, args).await?;
        site.end_server().await?;
        if let Some(program) = peer {
            let peer = Peer::start(program).await?;
            let (path, query) = ("/".into(), "".into());
            let rooms = Rooms { address: peer.address, path, query, ..rooms };
            let theirs = measure("the peer", peer.pid()?, &rooms, args).await?;
            compare(&ours, &theirs);
        }
    }
    site.stop().await
}

async fn prepare(ground: &Ground, args: &RoomsArgs) -> Result<Site> {
    let count = args.rooms.max(OPENED);
    let tables = format!(
        "CREATE TABLE paper (id text PRIMARY KEY, owner text NOT NULL);
         INSERT INTO paper SELECT kind || '-' || n, 'p1' FROM generate_series(0, {count}) n,
           unnest(ARRAY['one', 'many', 'large']) kind;"
    );
    let annex = Annex { tables: &tables, definition: DEFINITION };
    Site::prepare_with(ground, Population { people: 1, viewers: 1, rows: 1 }, annex).await
}

/// What a push costs a server.
struct Costs {
    what: String,
    push: Option<Duration>,
}

/// One room of many people, and many rooms of a few.
async fn measure(whose: &str, pid: u32, rooms: &Rooms, args: &RoomsArgs) -> Result<Vec<Costs>> {
    let one = people(whose, pid, rooms, args, ("one", 1, args.people)).await?;
    let many = people(whose, pid, rooms, args, ("many", args.rooms, args.in_each)).await?;
    Ok(vec![one, many])
}

async fn people(
    whose: &str,
    pid: u32,
    rooms: &Rooms,
    args: &RoomsArgs,
    (prefix, count, in_each): (&str, u32, u32),
) -> Result<Costs> {
    let what = format!("{count} rooms of {in_each}, {:?}", rooms.protocol);
    progress(&format!("{whose}, {what}"));
    let empty = resident_bytes(pid);
    let mut all = People::of(rooms.clone(), prefix, count, in_each);
    all.come(0..1).await?;
    let first = resident_bytes(pid);
    all.come(1..in_each).await?;
    let full = resident_bytes(pid);
    let time = Duration::from_secs(args.seconds);
    let before = cpu_time(pid);
    let fast = all.push(args.under_way as usize, LEAST_PAUSE, time, false).await?;
    let cpu = cpu_time(pid).zip(before).map(|(after, before)| after - before);
    let people = count * in_each;
    let pause = Duration::from_secs(1) * people / args.rate;
    let paced = all.push(1, pause.max(LEAST_PAUSE), time, true).await?;
    let latency = paced.latency.ok_or_else(|| miette!("nothing was pushed"))?;
    let pushed = resident_bytes(pid);
    all.leave().await;

    println!("rooms: {what}, {whose}");
    let a_second = fast.pushes as f64 / fast.took.as_secs_f64();
    let allowed = 1.0 / LEAST_PAUSE.as_secs_f64() * f64::from(people);
    line(
        "pushes",
        format!("{a_second:.0}/s"),
        &format!("{} to each other person; at most {allowed:.0}/s are tried", fast.pushes),
    );
    let push = cpu.map(|cpu| cpu / u32::try_from(fast.pushes.max(1)).unwrap_or(u32::MAX));
    if let (Some(cpu), Some(push)) = (cpu, push) {
        let beside = format!("of a core for each push, {:.2} s in all", cpu.as_secs_f64());
        line("the server's time", format!("{:.1} µs", push.as_secs_f64() * 1e6), &beside);
    }
    let beside = format!("{} receipts at {:.0} pushes/s", latency.samples, {
        paced.pushes as f64 / paced.took.as_secs_f64()
    });
    line("push to the others, p50", format!("{:.2} ms", latency.p50_ms), "");
    line("push to the others, p99", format!("{:.2} ms", latency.p99_ms), &beside);
    let kilobytes = |from: Option<u64>, to: Option<u64>, share: u32| {
        let more = to?.saturating_sub(from?) as f64 / 1024.0 / f64::from(share);
        Some(format!("{more:.1} KiB"))
    };
    if count > 1 {
        let others = count * (in_each - 1);
        for (what, from, to, share) in [
            ("an open room, one person in it", empty, first, count),
            ("each further person", first, full, others),
            ("a room after the pushes", empty, pushed, count),
        ] {
            let memory = kilobytes(from, to, share).unwrap_or_else(|| "not known".to_owned());
            line(what, memory, "resident memory of the server");
        }
    }
    Ok(Costs { what, push })
}

/// Documents of many shapes: of a room that is asleep, and of one that is not.
async fn open(site: &Site, rooms: &Rooms, args: &RoomsArgs) -> Result<()> {
    let name = |number: u32| format!("large-{number}");
    progress(&format!("making documents of {} shapes", args.shapes));
    for number in 0..OPENED {
        let mut maker = rooms.enter(&name(number), 0).await?;
        for push in maker.speech.large_document(args.shapes) {
            maker.say(push).await?;
        }
        // Whoever comes now has it only once it has arrived.
        let mut came = rooms.enter(&name(number), 1).await?;
        let mut seen = came.shapes();
        while seen < args.shapes {
            seen += came.hear_shapes().await?;
        }
    }
    let begun = Instant::now();
    while site.metric("rowtide_rooms_awake").await? > 0.0 {
        if begun.elapsed() > SLEEPS_WITHIN {
            return Err(miette!("rooms that nobody is in do not go to sleep"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pid = site.pid()?;
    let (mut asleep, mut awake) = (Vec::new(), Vec::new());
    let cpu = cpu_time(pid);
    for number in 0..OPENED {
        let begun = Instant::now();
        let first = rooms.enter(&name(number), 0).await?;
        asleep.push(begun.elapsed());
        let begun = Instant::now();
        let second = rooms.enter(&name(number), 1).await?;
        awake.push(begun.elapsed());
        for person in [first, second] {
            if person.shapes() < args.shapes {
                return Err(miette!("a document has {} shapes", person.shapes()));
            }
        }
    }
    let cpu = cpu_time(pid).zip(cpu).map(|(after, before)| (after - before) / OPENED);
    println!("rooms: documents of {} shapes, {:?}, Rowtide", args.shapes, rooms.protocol);
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        let time = times[times.len() / 2];
        format!("{:.0} ms", time.as_secs_f64() * 1e3)
    };
    let beside = "from the connect until all of it has come, median";
    line("a room that is asleep", median(&mut asleep), beside);
    line("one that is awake", median(&mut awake), beside);
    if let Some(cpu) = cpu {
        let cpu = format!("{:.0} ms", cpu.as_secs_f64() * 1e3);
        line("the server's time", cpu, "of a core for both");
    }
    Ok(())
}

fn compare(ours: &[Costs], theirs: &[Costs]) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        if let (Some(our_push), Some(their_push)) = (ours.push, theirs.push) {
            let times = their_push.as_secs_f64() / our_push.as_secs_f64();
            println!("rooms: {}, beside the peer", ours.what);
            line("pushes for a second of a core", format!("{times:.1} times"), "those of the peer");
        }
    }
}
