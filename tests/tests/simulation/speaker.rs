//! What is spoken over a connection: a session of today's clients, or of older ones. Both are the real ones.

use rowtide_gateway::conversation::{Conversation, Effect, Input};
use rowtide_gateway::send_queue::{Delivery, SessionStep};
use rowtide_gateway::session::Session;
use rowtide_gateway::{Now, Outlet};
use rowtide_legacy::OlderSession;
use std::time::Duration;

/// A session.
pub enum Speaker {
    Session(Box<Session>),
    Older(Box<OlderSession>),
}

/// What it is given to say.
#[derive(Debug)]
pub enum Said {
    Delivery(Delivery),
    Step(SessionStep),
}

impl Speaker {
    pub fn is_older(&self) -> bool {
        matches!(self, Speaker::Older(_))
    }

    pub fn step(&mut self, input: Input<'_, Said>, now: &Now, effects: &mut Vec<Effect>) {
        match self {
            Speaker::Session(session) => {
                let input = said_as(input, |said| match said {
                    Said::Delivery(delivery) => delivery,
                    Said::Step(_) => panic!("older clients are said steps"),
                });
                session.step(input, now, effects);
            }
            Speaker::Older(session) => {
                let input = said_as(input, |said| match said {
                    Said::Step(step) => step,
                    Said::Delivery(_) => panic!("deliveries are for today's clients"),
                });
                session.step(input, now, effects);
            }
        }
    }

    /// What there is to say next.
    pub fn take(&self, outlet: &Outlet) -> Option<Said> {
        match self {
            Speaker::Session(_) => outlet.try_next().map(Said::Delivery),
            Speaker::Older(_) => outlet.try_next_step().map(Said::Step),
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        match self {
            Speaker::Session(session) => session.deadline(),
            Speaker::Older(session) => session.deadline(),
        }
    }

    pub fn takes_deflated(&self) -> bool {
        match self {
            Speaker::Session(session) => session.takes_deflated(),
            Speaker::Older(session) => session.takes_deflated(),
        }
    }

    pub fn reads(&self) -> bool {
        match self {
            Speaker::Session(session) => session.reads(),
            Speaker::Older(session) => session.reads(),
        }
    }
}

/// The same input, with what is said in the session's own form.
fn said_as<S>(input: Input<'_, Said>, form: impl FnOnce(Said) -> S) -> Input<'_, S> {
    match input {
        Input::Begin => Input::Begin,
        Input::Text(text) => Input::Text(text),
        Input::Binary => Input::Binary,
        Input::Unreadable(why) => Input::Unreadable(why),
        Input::Heard => Input::Heard,
        Input::Token(checked) => Input::Token(checked),
        Input::Claimed(claimed) => Input::Claimed(claimed),
        Input::Opened(opened) => Input::Opened(opened),
        Input::Rated(verdict) => Input::Rated(verdict),
        Input::Outcomes(outcomes) => Input::Outcomes(outcomes),
        Input::Full(mutation) => Input::Full(mutation),
        Input::Said(said) => Input::Said(form(said)),
        Input::Broken(broken) => Input::Broken(broken),
        Input::Superseded => Input::Superseded,
        Input::Stop => Input::Stop,
        Input::Clock => Input::Clock,
    }
}
