//! Connections between clients and servers. Each delivers in order, after delays of any length; it may
//! stall, and be cut in either direction, at different moments for the two sides, with what was on its
//! way lost from some point on.

use std::collections::{BTreeMap, VecDeque};

/// To which side something travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Client,
    Server,
}

/// What arrives.
#[derive(Debug)]
pub enum Parcel {
    Text(String),
    /// A WebSocket ping, and its answer.
    Ping,
    Pong,
    /// The other side has ended the connection.
    End,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    under_way: VecDeque<(u64, Parcel)>,
    /// When the last of them arrives: nothing overtakes.
    last_ms: u64,
    cut: bool,
}

#[derive(Debug)]
pub struct Connection {
    pub client: usize,
    pub server: usize,
    /// The life of the server that it leads to.
    pub server_life: u64,
    pipes: [Pipe; 2],
    /// Which sides have heard that it ended.
    closed: [bool; 2],
}

#[derive(Default)]
pub struct Network {
    pub connections: BTreeMap<u64, Connection>,
    next: u64,
}

impl Network {
    pub fn open(&mut self, client: usize, server: usize, server_life: u64) -> u64 {
        self.next += 1;
        let (pipes, closed) = (Default::default(), [false; 2]);
        let connection = Connection { client, server, server_life, pipes, closed };
        self.connections.insert(self.next, connection);
        self.next
    }

    /// Sends something that needs `delay_ms`; when it arrives, unless it is lost.
    pub fn send(
        &mut self,
        id: u64,
        to: Side,
        parcel: Parcel,
        now_ms: u64,
        delay_ms: u64,
    ) -> Option<u64> {
        let connection = self.connections.get_mut(&id)?;
        let pipe = &mut connection.pipes[to as usize];
        if pipe.cut || connection.closed[to as usize] {
            return None;
        }
        pipe.last_ms = pipe.last_ms.max(now_ms + delay_ms);
        pipe.under_way.push_back((pipe.last_ms, parcel));
        Some(pipe.last_ms)
    }

    /// What has arrived.
    pub fn receive(&mut self, id: u64, at: Side, now_ms: u64) -> Option<Parcel> {
        let pipe = &mut self.connections.get_mut(&id)?.pipes[at as usize];
        pipe.under_way.pop_front_if(|(arrives, _)| *arrives <= now_ms).map(|(_, parcel)| parcel)
    }

    /// Nothing arrives before `until_ms`.
    pub fn stall(&mut self, id: u64, to: Side, until_ms: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let pipe = &mut connection.pipes[to as usize];
            pipe.last_ms = pipe.last_ms.max(until_ms);
        }
    }

    /// Loses what is under way behind the first `kept` parcels, and all that is sent from now on.
    pub fn cut(&mut self, id: u64, to: Side, kept: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let pipe = &mut connection.pipes[to as usize];
            pipe.cut = true;
            pipe.under_way.truncate(kept);
        }
    }

    pub fn under_way(&self, id: u64, to: Side) -> usize {
        self.connections.get(&id).map_or(0, |c| c.pipes[to as usize].under_way.len())
    }

    /// One side knows that it ended, or has ended it; when both do, it is gone.
    pub fn close(&mut self, id: u64, at: Side) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closed[at as usize] = true;
            connection.pipes[at as usize].under_way.clear();
            if connection.closed == [true; 2] {
                self.connections.remove(&id);
            }
        }
    }
}
