//! How many connections there may be, in all and from one address. One that is over a limit is still taken, for a
//! moment: it may ask for the server's health and for its metrics, and for nothing else. Of those only a few are
//! kept, and the newest are, so that however many come, whoever looks after the server gets an answer. Pure: which
//! sockets are closed is for the caller to carry.

use std::collections::VecDeque;
use std::net::IpAddr;

use rowtide_plan::map::{Id, IdMap, SeededMap};

use crate::limits::{ConnectionLimits, HEALTH_CONNECTIONS};
use crate::telemetry::Limit;

/// Names one connection for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceId(u64);

impl Id for PlaceId {}

/// What a connection may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// For anything.
    Whole,
    /// For health and metrics alone, because this limit is reached.
    HealthOnly(Limit),
}

/// A connection that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// To be given back when it goes.
    pub place: PlaceId,
    /// What it may be used for.
    pub admitted: Admitted,
    /// One that has to go for it, of those that were over a limit.
    pub evicted: Option<PlaceId>,
}

/// The connections that are open.
#[derive(Debug)]
pub struct Admission {
    limits: ConnectionLimits,
    whole: IdMap<PlaceId, Origin>,
    of_origin: SeededMap<Origin, usize>,
    /// Those over a limit, the oldest first.
    over: VecDeque<PlaceId>,
    next: u64,
}

/// From where a connection comes: its address, of IPv6 the part that is given to one customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An address.
    V4([u8; 4]),
    /// The first half of one.
    V6([u8; 8]),
}

impl Origin {
    /// That of an address.
    pub fn of(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Origin::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// From where a request comes: the other end of its connection, which behind a proxy is the proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOrigin(pub(crate) Option<Origin>);

impl ClientOrigin {
    /// Names it among others; `None` if the server does not know it.
    pub(crate) fn name(self) -> Option<String> {
        self.0.map(|origin| format!("{origin:?}"))
    }
}

impl Admission {
    /// Nobody is there.
    pub fn new(limits: ConnectionLimits) -> Admission {
        Admission {
            limits,
            whole: IdMap::default(),
            of_origin: SeededMap::default(),
            over: VecDeque::new(),
            next: 0,
        }
    }

    /// A connection comes. `scarce` says that the system has no room for more.
    pub fn arrive(&mut self, address: IpAddr, scarce: bool) -> Arrival {
        let place = PlaceId(self.next);
        self.next += 1;
        let origin = Origin::of(address);
        let ConnectionLimits { connections, per_address, .. } = self.limits;
        let from_there = self.of_origin.get(&origin).copied().unwrap_or(0);
        let reached = if scarce {
            Some(Limit::OpenFiles)
        } else if self.whole.len() >= connections {
            Some(Limit::Connections)
        } else if per_address > 0 && from_there >= per_address {
            Some(Limit::ConnectionsPerAddress)
        } else {
            None
        };
        let Some(limit) = reached else {
            self.whole.insert(place, origin);
            *self.of_origin.or_insert_with(origin, || 0) += 1;
            return Arrival { place, admitted: Admitted::Whole, evicted: None };
        };
        let evicted =
            if self.over.len() >= HEALTH_CONNECTIONS { self.over.pop_front() } else { None };
        self.over.push_back(place);
        Arrival { place, admitted: Admitted::HealthOnly(limit), evicted }
    }

    /// A connection has gone.
    pub fn leave(&mut self, place: PlaceId) {
        let Some(origin) = self.whole.remove(&place) else {
            self.over.retain(|other| *other != place);
            return;
        };
        if let Some(count) = self.of_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.of_origin.remove(&origin);
            }
        }
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.whole.len() + self.over.len()
    }

    /// Takes out the oldest of those that are over a limit.
    pub fn evict(&mut self) -> Option<PlaceId> {
        self.over.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn limits(connections: usize, per_address: usize) -> ConnectionLimits {
        ConnectionLimits { connections, per_address, ..ConnectionLimits::default() }
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn there(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn what_is_over_the_limit_is_for_health_and_the_newest_of_it_stay() {
        let mut admission = Admission::new(limits(3, 0));
        let whole: Vec<Arrival> = (0..3).map(|_| admission.arrive(HERE, false)).collect();
        assert!(whole.iter().all(|arrival| arrival.admitted == Admitted::Whole));
        let over: Vec<Arrival> =
            (0..2 * HEALTH_CONNECTIONS).map(|_| admission.arrive(HERE, false)).collect();
        let only = Admitted::HealthOnly(Limit::Connections);
        assert!(over.iter().all(|arrival| arrival.admitted == only));
        let evicted: Vec<PlaceId> = over.iter().filter_map(|arrival| arrival.evicted).collect();
        let oldest: Vec<PlaceId> =
            over[..HEALTH_CONNECTIONS].iter().map(|arrival| arrival.place).collect();
        assert_eq!(evicted, oldest);
        assert_eq!(admission.open(), 3 + HEALTH_CONNECTIONS);
        // One that goes makes room for one.
        admission.leave(whole[1].place);
        assert_eq!(admission.arrive(HERE, false).admitted, Admitted::Whole);
        assert_eq!(admission.arrive(HERE, false).admitted, only);
    }

    #[test]
    fn one_address_takes_no_place_of_another() {
        let mut admission = Admission::new(limits(100, 2));
        let of = |admission: &mut Admission, address| admission.arrive(address, false);
        let first = of(&mut admission, there(1));
        of(&mut admission, there(1));
        let over = of(&mut admission, there(1));
        assert_eq!(over.admitted, Admitted::HealthOnly(Limit::ConnectionsPerAddress));
        assert_eq!(of(&mut admission, there(2)).admitted, Admitted::Whole);
        admission.leave(over.place);
        admission.leave(first.place);
        admission.leave(first.place);
        assert_eq!(of(&mut admission, there(1)).admitted, Admitted::Whole);
        assert_ne!(of(&mut admission, there(1)).admitted, Admitted::Whole);
        // The same address in another form, and a customer's many.
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        assert_ne!(of(&mut admission, mapped).admitted, Admitted::Whole);
        let admitted: Vec<Admitted> = (0..3)
            .map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 1, n, n, n, n)))
            .map(|address| of(&mut admission, address).admitted)
            .collect();
        assert_eq!(admitted[..2], [Admitted::Whole; 2]);
        assert_ne!(admitted[2], Admitted::Whole);
    }

    #[test]
    fn nothing_stays_of_those_who_have_gone() {
        let mut admission = Admission::new(limits(10, 3));
        for round in 0..50_u32 {
            let arrivals: Vec<Arrival> =
                (0..200).map(|n| admission.arrive(there((n * round) % 17), n % 5 == 0)).collect();
            arrivals.iter().for_each(|arrival| admission.leave(arrival.place));
            assert_eq!(admission.open(), 0);
            assert!(admission.of_origin.is_empty());
        }
    }
}
