use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const NOW: Duration = Duration::from_secs(1);

fn scheduler(connections: usize) -> Scheduler<u64> {
    Scheduler::new(SchedulerOptions { connections, queue: 256, bytes: 1 << 30 })
}

fn push(scheduler: &mut Scheduler<u64>, queue: QueueId, number: u64, operations: usize) {
    scheduler.push(queue, number, operations, 1).unwrap();
}

fn started(scheduler: &mut Scheduler<u64>) -> Vec<(QueueId, u64)> {
    std::iter::from_fn(|| scheduler.start(NOW)).map(|job| (job.queue, *job.mutation)).collect()
}

fn away() -> Ended {
    Ended::Away("why".to_owned())
}

fn done(scheduler: &mut Scheduler<u64>, queue: QueueId) {
    scheduler.ended(queue, Ended::Acknowledged, NOW, 0.0);
}

#[test]
fn a_queue_is_applied_in_order_and_one_at_a_time_also_when_its_session_has_gone() {
    let mut scheduler = scheduler(4);
    let queue = scheduler.attach("c", "ann", false);
    (1..=3).for_each(|number| push(&mut scheduler, queue, number, 1));
    assert_eq!(started(&mut scheduler), [(queue, 1)]);
    scheduler.detach(queue);
    for number in [2, 3] {
        done(&mut scheduler, queue);
        assert_eq!(started(&mut scheduler), [(queue, number)]);
    }
    done(&mut scheduler, queue);
    assert!(scheduler.is_idle() && scheduler.queues.is_empty() && scheduler.users.is_empty());
}

#[test]
fn a_flood_of_one_user_leaves_a_connection_and_half_of_them_where_others_wait() {
    let mut scheduler = scheduler(4);
    let flood: Vec<QueueId> =
        (0..49).map(|n| scheduler.attach(&format!("f{n}"), "eve", false)).collect();
    for queue in &flood {
        (1..=10).for_each(|number| push(&mut scheduler, *queue, number, 500));
    }
    let running = started(&mut scheduler);
    assert_eq!(running.len(), 3);
    let ann = scheduler.attach("a", "ann", false);
    push(&mut scheduler, ann, 1, 1);
    push(&mut scheduler, ann, 2, 1);
    assert_eq!(started(&mut scheduler), [(ann, 1)], "at once");
    let bob = scheduler.attach("b", "bob", false);
    push(&mut scheduler, bob, 1, 1);
    done(&mut scheduler, running[0].0);
    assert_eq!(started(&mut scheduler), [(bob, 1)], "before what floods");
    done(&mut scheduler, running[1].0);
    assert_eq!(scheduler.users["eve"].running, 1);
    assert_eq!(started(&mut scheduler).len(), 1);
}

#[test]
fn those_who_have_left_yield_to_those_who_are_there() {
    let mut scheduler = scheduler(1);
    let gone = scheduler.attach("g", "gone", false);
    (1..=5).for_each(|number| push(&mut scheduler, gone, number, 1));
    scheduler.detach(gone);
    assert_eq!(started(&mut scheduler), [(gone, 1)]);
    let ann = scheduler.attach("a", "ann", false);
    (1..=5).for_each(|number| push(&mut scheduler, ann, number, 100));
    let mut last = gone;
    for number in 1..=5 {
        done(&mut scheduler, last);
        assert_eq!(started(&mut scheduler), [(ann, number)]);
        last = ann;
    }
    done(&mut scheduler, ann);
    assert_eq!(started(&mut scheduler), [(gone, 2)]);
    // Who comes back is there again.
    let again = scheduler.attach("g2", "gone", false);
    push(&mut scheduler, again, 1, 1);
    done(&mut scheduler, gone);
    assert_eq!(started(&mut scheduler).len(), 1);
}

#[test]
fn users_share_by_operations() {
    let mut scheduler = scheduler(1);
    let (small, large) =
        (scheduler.attach("s", "small", false), scheduler.attach("l", "large", false));
    (1..=200).for_each(|number| push(&mut scheduler, small, number, 1));
    (1..=200).for_each(|number| push(&mut scheduler, large, number, 10));
    let mut counts = [0, 0];
    for _ in 0..110 {
        let [(queue, _)] = started(&mut scheduler)[..] else { panic!("one at a time") };
        counts[usize::from(queue == large)] += 1;
        done(&mut scheduler, queue);
    }
    assert_eq!(counts, [100, 10]);
}

#[test]
fn what_fails_is_tried_again_and_given_up_after_many_conflicts() {
    let mut scheduler = scheduler(2);
    let queue = scheduler.attach("c", "ann", false);
    push(&mut scheduler, queue, 1, 1);
    let mut now = NOW;
    for _ in 0..CONFLICT_RETRIES {
        assert_eq!(scheduler.start(now).unwrap().gives_up, None);
        scheduler.ended(queue, Ended::Conflict, now, 1.0);
        assert_eq!(scheduler.start(now), None);
        now = scheduler.deadline().unwrap();
    }
    let job = scheduler.start(now).unwrap();
    assert_eq!((job.gives_up, job.waited), (Some(GivesUp::InTheWay), false));
    scheduler.ended(queue, Ended::Acknowledged, now, 1.0);
    push(&mut scheduler, queue, 2, 1);
    assert_eq!(scheduler.start(now).unwrap().gives_up, None);
    scheduler.ended(queue, away(), now, 1.0);
    assert_eq!(scheduler.deadline(), Some(now + 2 * MIN_PAUSE));
    scheduler.stop();
    let job = scheduler.start(now).expect("once more, at once");
    assert!(job.waited && job.gives_up.is_none());
    scheduler.ended(queue, away(), now, 1.0);
    assert_eq!(scheduler.broken(queue), Some(&Broken::Stopped));
    assert!(scheduler.is_idle() && scheduler.deadline().is_none());
}

#[test]
fn what_loses_its_connection_while_the_server_stops_is_tried_once_more() {
    let mut scheduler = scheduler(2);
    let queue = scheduler.attach("c", "ann", true);
    (1..=3).for_each(|number| push(&mut scheduler, queue, number, 1));
    assert_eq!(started(&mut scheduler), [(queue, 1)]);
    scheduler.stop();
    let mut now = NOW;
    for number in [1, 2] {
        scheduler.ended(queue, away(), now, 1.0);
        now = scheduler.deadline().unwrap();
        assert_eq!(scheduler.start(now).map(|job| *job.mutation), Some(number));
        scheduler.ended(queue, Ended::Acknowledged, now, 1.0);
        assert_eq!(scheduler.start(now).map(|job| *job.mutation), Some(number + 1));
    }
    scheduler.ended(queue, away(), now, 1.0);
    now = scheduler.deadline().unwrap();
    scheduler.start(now).unwrap();
    scheduler.ended(queue, away(), now, 1.0);
    assert_eq!(scheduler.broken(queue), Some(&Broken::Stopped), "it is away");
    assert!(scheduler.is_idle());
}

#[test]
fn a_newer_connection_lets_go_what_waits_of_older_ones() {
    let mut scheduler = scheduler(2);
    let old = scheduler.attach("c", "ann", false);
    let idle = scheduler.attach("c", "ann", false);
    (1..=3).for_each(|number| push(&mut scheduler, old, number, 1));
    assert_eq!(started(&mut scheduler), [(old, 1)]);
    push(&mut scheduler, idle, 4, 1);
    assert_eq!(scheduler.supersede("c", "ann"), [old, idle]);
    let new = scheduler.attach("c", "ann", false);
    push(&mut scheduler, new, 2, 1);
    assert_eq!(scheduler.supersede("c", "eve"), []);
    done(&mut scheduler, old);
    assert_eq!(started(&mut scheduler), [(new, 2)], "nothing else of the older ones");
    assert_eq!(scheduler.broken(old), Some(&Broken::Superseded));
    // What only runs has nothing to lose.
    assert_eq!(scheduler.supersede("c", "ann"), []);
}

#[test]
fn what_runs_when_a_newer_connection_comes_is_not_tried_again() {
    for ended in [Ended::Conflict, away()] {
        let mut scheduler = scheduler(2);
        let old = scheduler.attach("c", "ann", false);
        push(&mut scheduler, old, 1, 1);
        assert_eq!(started(&mut scheduler), [(old, 1)]);
        assert_eq!(scheduler.supersede("c", "ann"), [], "it goes on");
        scheduler.ended(old, ended, NOW, 1.0);
        assert_eq!(scheduler.broken(old), Some(&Broken::Superseded));
        assert!(scheduler.is_idle() && scheduler.deadline().is_none());
    }
}

#[test]
fn a_client_that_shares_has_one_queue() {
    let mut scheduler = scheduler(2);
    let first = scheduler.attach("app/ann", "ann", true);
    let second = scheduler.attach("app/ann", "ann", true);
    assert_eq!(first, second);
    push(&mut scheduler, first, 1, 1);
    scheduler.detach(first);
    scheduler.detach(second);
    assert_eq!(scheduler.attach("app/ann", "ann", true), first, "something waits in it");
}

#[test]
fn room_is_bounded() {
    let mut scheduler: Scheduler<u64> =
        Scheduler::new(SchedulerOptions { connections: 1, queue: 2, bytes: 100 });
    let queue = scheduler.attach("c", "ann", false);
    push(&mut scheduler, queue, 1, 1);
    started(&mut scheduler);
    push(&mut scheduler, queue, 2, 1);
    push(&mut scheduler, queue, 3, 1);
    assert_eq!(scheduler.push(queue, 4, 1, 1).unwrap_err().0, 4);
    let other = scheduler.attach("d", "ann", false);
    assert_eq!(scheduler.push(other, 5, 1, 98).unwrap_err().0, 5);
    scheduler.push(other, 5, 1, 97).unwrap();
}

/// A mutation that is watched from its arrival until it starts.
struct Watched {
    queue: QueueId,
    /// How many others may start before it.
    bound: usize,
    /// How many have.
    before: usize,
}

/// What others have started while a user waited for them, with nothing running.
struct Wait {
    /// How many operations the user's own last mutation had.
    own: u64,
    /// Of each other, the operations of all that were started but the last, and of that.
    others: HashMap<Arc<str>, (u64, u64)>,
}

/// The waits of all who are there: the bound of every mutation.
#[derive(Default)]
struct Waits {
    waits: HashMap<Arc<str>, Wait>,
    last: HashMap<Arc<str>, u64>,
    /// How many waits for others have ended.
    ended: usize,
}

impl Waits {
    /// Whoever waits for others now.
    fn look(&mut self, scheduler: &Scheduler<u64>) {
        let waits = |name: &Arc<str>| {
            let user = scheduler.users.get(name);
            user.is_some_and(|user| {
                user.attached > 0 && user.running == 0 && !user.ready.is_empty()
            })
        };
        self.waits.retain(|name, _| waits(name));
        for name in scheduler.users.keys().filter(|name| waits(name)) {
            let own = self.last.get(name).copied().unwrap_or(0);
            let wait = || Wait { own, others: HashMap::new() };
            self.waits.entry(Arc::clone(name)).or_insert_with(wait);
        }
    }

    fn start(&mut self, user: &Arc<str>, operations: u64) {
        self.last.insert(Arc::clone(user), operations);
        if let Some(wait) = self.waits.remove(user) {
            self.ended += usize::from(!wait.others.is_empty());
        }
        for (waiting, Wait { own, others }) in &mut self.waits {
            let (before, last) = others.entry(Arc::clone(user)).or_default();
            *before += std::mem::replace(last, operations);
            assert!(before <= own, "{waiting} waits for {before} operations of {user}, not {own}");
        }
    }
}

/// Random schedules: users who flood, users who come with one mutation, sessions that go, conflicts. The bound of the
/// module's description holds for each mutation that it is about, and the mutations of each queue start in order. So
/// does the bound of every mutation.
#[test]
fn who_has_nothing_running_waits_for_at_most_one_mutation_of_each_other() {
    let (mut watched_in_all, mut waited_in_all) = (0, 0);
    for seed in 0..2_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let connections = rng.random_range(1..6);
        let mut scheduler = scheduler(connections);
        let mut now = NOW;
        let mut running: Vec<QueueId> = Vec::new();
        let mut sessions: Vec<(QueueId, u64)> = Vec::new();
        let mut watched: Vec<Watched> = Vec::new();
        let mut last: HashMap<QueueId, u64> = HashMap::new();
        let mut waits = Waits::default();
        for _ in 0..150 {
            now += Duration::from_millis(rng.random_range(0..5));
            match rng.random_range(0..10) {
                0 | 1 => {
                    // User 0 floods from many sessions.
                    let user = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..5) };
                    let client = format!("c{}", rng.random::<u32>());
                    sessions.push((scheduler.attach(&client, &format!("u{user}"), false), 0));
                }
                2..=5 if !sessions.is_empty() => {
                    let at = rng.random_range(0..sessions.len());
                    let (queue, number) = &mut sessions[at];
                    let user = Arc::clone(&scheduler.queues[queue].user);
                    let known = &scheduler.users[&user];
                    let mut theirs = scheduler.queues.values().filter(|queue| queue.user == user);
                    let counts = known.running == 0
                        && known.tag <= scheduler.served
                        && theirs.all(|queue| queue.waiting.is_empty());
                    let ahead = |(name, other): &(&Arc<str>, &User)| {
                        **name != user
                            && other.attached > 0
                            && !other.ready.is_empty()
                            && other.running == 0
                    };
                    let bound = scheduler.users.iter().filter(ahead).count();
                    let flood = &*user == "u0" && rng.random_bool(0.8);
                    let (count, operations) =
                        if flood { (rng.random_range(1..20), 500) } else { (1, 1) };
                    for _ in 0..count {
                        *number += 1;
                        push(&mut scheduler, *queue, *number, operations);
                    }
                    if counts {
                        watched.push(Watched { queue: *queue, bound, before: 0 });
                        watched_in_all += 1;
                    }
                }
                6 if sessions.len() > 3 => {
                    let (queue, _) = sessions.swap_remove(rng.random_range(0..sessions.len()));
                    // Those who are not there are promised nothing.
                    watched.retain(|watched| watched.queue != queue);
                    scheduler.detach(queue);
                }
                _ if !running.is_empty() => {
                    let queue = running.swap_remove(rng.random_range(0..running.len()));
                    let how = match rng.random_range(0..8) {
                        0 => Ended::Conflict,
                        1 => away(),
                        _ => Ended::Acknowledged,
                    };
                    if how != Ended::Acknowledged {
                        *last.get_mut(&queue).unwrap() -= 1;
                    }
                    scheduler.ended(queue, how, now, rng.random());
                }
                _ => {}
            }
            waits.look(&scheduler);
            while let Some(job) = scheduler.start(now) {
                let first = scheduler.queues[&job.queue].waiting.front();
                waits.start(&job.user, first.map_or(0, |first| first.operations));
                waits.look(&scheduler);
                let number = last.entry(job.queue).or_default();
                *number += 1;
                assert_eq!(*job.mutation, *number, "seed {seed}: out of order");
                running.push(job.queue);
                watched.retain(|watched| watched.queue != job.queue);
                for watched in &mut watched {
                    watched.before += 1;
                    let Watched { bound, before, .. } = watched;
                    assert!(before <= bound, "seed {seed}: {before} came before it, not {bound}");
                }
            }
            assert!(running.len() <= connections && running.len() == scheduler.running);
        }
        waited_in_all += waits.ended;
        // All of it is applied in the end, and nothing stays.
        sessions.drain(..).for_each(|(queue, _)| scheduler.detach(queue));
        while !scheduler.is_idle() {
            match running.pop() {
                Some(queue) => scheduler.ended(queue, Ended::Acknowledged, now, 0.0),
                None => now = scheduler.deadline().unwrap_or(now),
            }
            running.extend(std::iter::from_fn(|| scheduler.start(now)).map(|job| job.queue));
        }
        assert!(scheduler.queues.is_empty() && scheduler.clients.is_empty(), "seed {seed}");
        assert!(scheduler.users.is_empty() && scheduler.order.is_empty(), "seed {seed}");
        assert_eq!((scheduler.bytes, scheduler.waiting), (0, 0));
    }
    assert!(watched_in_all > 10_000, "{watched_in_all} are not many");
    assert!(waited_in_all > 10_000, "{waited_in_all} are not many");
}

#[test]
fn why_mutations_wait_is_known_as_long_as_they_do() {
    let mut scheduler = scheduler(4);
    let away = |why: &str| Ended::Away(why.to_owned());
    let [ann, bob, eve] = ["ann", "bob", "eve"].map(|user| scheduler.attach(user, user, false));
    for queue in [ann, bob, eve] {
        push(&mut scheduler, queue, 1, 1);
    }
    let mut now = NOW;
    assert_eq!(started(&mut scheduler).len(), 3);
    assert_eq!(scheduler.away(), None);
    scheduler.ended(bob, away("no right"), now, 1.0);
    scheduler.ended(ann, away("no connection"), now, 1.0);
    scheduler.ended(eve, Ended::Acknowledged, now, 1.0);
    // While it is tried again nothing else is known.
    now += MAX_PAUSE;
    assert_eq!(std::iter::from_fn(|| scheduler.start(now)).count(), 2);
    assert_eq!(scheduler.away(), Some("no connection"), "others pass, and theirs do not");
    scheduler.ended(ann, Ended::Conflict, now, 1.0);
    assert_eq!(scheduler.away(), Some("no right"));
    scheduler.ended(bob, Ended::Acknowledged, now, 1.0);
    assert_eq!(scheduler.away(), None);
    // What is let go waits no more, whether it is tried just now or not.
    push(&mut scheduler, bob, 2, 1);
    assert_eq!(scheduler.start(now).map(|job| job.queue), Some(bob));
    scheduler.ended(bob, away("no right"), now, 1.0);
    scheduler.supersede("bob", "bob");
    assert_eq!(scheduler.away(), None);
    push(&mut scheduler, eve, 2, 1);
    for _ in 0..2 {
        now += MAX_PAUSE;
        while let Some(job) = scheduler.start(now) {
            if job.queue == ann {
                scheduler.ended(ann, Ended::Acknowledged, now, 1.0);
            } else {
                scheduler.ended(eve, away("no connection"), now, 1.0);
            }
        }
    }
    assert_eq!(scheduler.away(), Some("no connection"));
    now += MAX_PAUSE;
    assert_eq!(scheduler.start(now).map(|job| job.queue), Some(eve));
    scheduler.supersede("eve", "eve");
    scheduler.ended(eve, away("no connection"), now, 1.0);
    assert_eq!(scheduler.away(), None);
}
