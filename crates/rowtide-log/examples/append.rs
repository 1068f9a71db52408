//! How much appending and looking up cost: `cargo run --release -p rowtide-log --example append DIR`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rowtide_feed::{Change, Changes, Event, HistoryQuery, RowChange, Transaction};
use rowtide_log::{Log, LogIdentity, LogOptions, Opened};
use rowtide_plan::plan::{BranchId, TableId};
use rowtide_plan::row::{Image, Row, Topic};
use rowtide_plan::value::Value;
use rowtide_protocol::Lsn;

/// Owners of rows.
const OWNERS: u32 = 20_000;
const TRANSACTIONS: usize = 200_000;

fn topic(branch: u16, owner: u32) -> Topic {
    Topic { branch: BranchId(branch), anchor: Some(Value::Text(format!("user-{owner:08}").into())) }
}

/// An update of one row of 350 bytes, in a topic of its owner and in one of its own.
fn transaction(random: &mut SmallRng, number: u64) -> Event {
    let owner = random.random_range(0..OWNERS);
    let id = owner * 20 + random.random_range(0..20);
    let topics = [topic(0, owner), topic(1, id)].into();
    let kept = [Value::Text(format!("user-{owner:08}").into())].into();
    let image = Image { key: Bytes::from(format!("{{\"id\":{id}}}")), kept, topics };
    let json = format!("{{\"id\":{id},\"n\":{number},\"text\":\"{}\"}}", "x".repeat(310));
    let after = Arc::new(Row { image: image.clone(), json: Bytes::from(json) });
    let transaction = Arc::new(Transaction {
        lsn: Lsn(number * 400),
        xid: number as u32,
        commit_time_us: number as i64 * 100,
        truncated: Vec::new(),
        changes: Changes::Rows(vec![Change {
            table: TableId(0),
            row: RowChange::Update { before: image, after },
        }]),
        acknowledgements: Vec::new(),
    });
    Event::Transaction { previous: Lsn((number - 1) * 400), transaction }
}

/// User and system time of this process, in microseconds.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: f64 =
        stat.split(' ').skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks * 10_000.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("a directory for the log is missing")?);
    println!("{:>6} {:>10} {:>12} {:>10} {:>10}", "group", "tx/s", "CPU us/tx", "worst ms", "MB");
    for group in [1, 16, 64, 256, 1_000] {
        let dir = dir.join(format!("{group}"));
        let options = LogOptions {
            dir: dir.clone(),
            retention: Duration::from_secs(24 * 3_600),
            max_bytes: 8 << 30,
        };
        let identity = LogIdentity {
            plan: [0; 32],
            columns: vec![3],
            system: 0,
            database: 0,
            timeline: 1,
            slot: String::new(),
        };
        let Opened { mut log, reader, .. } = Log::open(options, identity.clone())?;
        log.begin_epoch(identity, Lsn(0))?;
        let mut random = SmallRng::seed_from_u64(1);
        let count = TRANSACTIONS.min(group * 5_000);
        let groups: Vec<Vec<Event>> = (0..count / group)
            .map(|index| {
                let numbers = (index * group + 1)..=(index + 1) * group;
                numbers.map(|number| transaction(&mut random, number as u64)).collect()
            })
            .collect();
        let (begin, cpu) = (Instant::now(), cpu_us());
        let mut worst = Duration::ZERO;
        for group in &groups {
            let one = Instant::now();
            log.append(group)?;
            worst = worst.max(one.elapsed());
        }
        let (took, cpu) = (begin.elapsed(), cpu_us() - cpu);
        println!(
            "{group:>6} {:>10.0} {:>12.1} {:>10.1} {:>10.1}",
            count as f64 / took.as_secs_f64(),
            cpu / count as f64,
            worst.as_secs_f64() * 1e3,
            reader.statistics()?.bytes as f64 / 1e6,
        );
        if group < 1_000 {
            continue;
        }
        let end = log.extent().ok_or("it has begun")?.durable;
        let history = |topics: &[Topic], after| {
            let topics = topics.to_vec();
            let query = HistoryQuery { topics, tables: [].into(), after, up_to: end };
            reader.history_within(&query, 1_000, 1 << 20)
        };
        // Far behind, and just behind.
        for (name, after) in [("all of it", Lsn(0)), ("the last tenth", Lsn(end.0 / 10 * 9))] {
            let unchanged: Vec<Topic> = (0..10_000).map(|owner| topic(7, owner)).collect();
            let begin = Instant::now();
            history(&unchanged, after)?;
            let topic_us = begin.elapsed().as_secs_f64() * 1e6 / unchanged.len() as f64;
            let begin = Instant::now();
            for unchanged in &unchanged {
                history(std::slice::from_ref(unchanged), after)?;
            }
            let call_us = begin.elapsed().as_secs_f64() * 1e6 / unchanged.len() as f64;
            let mut changes = 0;
            let begin = Instant::now();
            for owner in 0..1_000 {
                let topics = [topic(0, owner)];
                changes += history(&topics, after)?.changes.len();
            }
            let read_us = begin.elapsed().as_secs_f64() * 1e6 / 1_000.0;
            println!(
                "behind {name}: an unchanged topic {topic_us:.2} us, in a call of its own {call_us:.1} us; \
                 {:.1} changes {read_us:.1} us",
                changes as f64 / 1_000.0
            );
        }
    }
    Ok(())
}
