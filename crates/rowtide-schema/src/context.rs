//! A context of QuickJS with a bundle in it. It belongs to the thread that made it. A call ends when its thread has
//! computed for as long as it may; what then happened inside of the context nobody knows, so it is of no use any more.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rquickjs::context::intrinsic::{
    Date, Eval, Json, MapSet, Promise, Proxy, RegExp, RegExpCompiler, TypedArrays, WeakRef,
};
use rquickjs::{CatchResultExt, CaughtError, Context, Ctx, Error, Function, Module, Object};
use rquickjs::{Persistent, Runtime};
use rustix::time::{ClockId, clock_gettime};

use crate::limits::SchemaLimits;
use crate::question::Unanswered;

/// Nothing of the system is among them.
type Language =
    (Date, Eval, RegExpCompiler, RegExp, Json, Proxy, MapSet, TypedArrays, Promise, WeakRef);

const STAND_INS: &str = include_str!("stand_ins.js");
const GLUE: &str = include_str!("glue.js");

/// What a bundle is called in what is said of it.
const NAME: &str = "bundle";

pub(crate) struct BundleContext {
    // Functions of a context go before it does.
    describe: Persistent<Function<'static>>,
    answer: Persistent<Function<'static>>,
    context: Context,
    deadline: Deadline,
}

/// Until when the thread may compute.
#[derive(Clone, Default)]
struct Deadline {
    at: Rc<Cell<Duration>>,
    missed: Rc<Cell<bool>>,
}

impl Deadline {
    fn begin(&self, within: Duration) {
        self.at.set(computed() + within);
        self.missed.set(false);
    }

    fn is_over(&self) -> bool {
        let over = computed() >= self.at.get();
        self.missed.set(self.missed.get() || over);
        over
    }
}

/// How long this thread has computed.
fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl BundleContext {
    /// Loads a bundle on this thread, whose stack must be larger than what a call may use.
    pub(crate) fn load(source: &str, limits: &SchemaLimits) -> Result<BundleContext, Unanswered> {
        let failed = |error: Error| Unanswered::Failed(error.to_string());
        let runtime = Runtime::new().map_err(failed)?;
        runtime.set_memory_limit(limits.memory_bytes);
        runtime.set_max_stack_size(limits.stack_bytes);
        let deadline = Deadline::default();
        let watched = deadline.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || watched.is_over())));
        let context = Context::custom::<Language>(&runtime).map_err(failed)?;
        deadline.begin(limits.load);
        let loaded = context.with(|ctx| {
            let connected = connect(&ctx, source).and_then(|connected| {
                let describe = connected.get::<_, Function>("describe")?;
                let answer = connected.get::<_, Function>("answer")?;
                Ok((Persistent::save(&ctx, describe), Persistent::save(&ctx, answer)))
            });
            connected.catch(&ctx).map_err(|caught| said(&caught))
        });
        let (describe, answer) = loaded.map_err(|said| deadline.reason(said))?;
        Ok(BundleContext { describe, answer, context, deadline })
    }

    /// What the bundle says of itself, having been tried on an empty document.
    pub(crate) fn describe(&self, within: Duration) -> Result<String, Unanswered> {
        self.call(within, |ctx| {
            let said: rquickjs::String = self.describe.clone().restore(ctx)?.call(())?;
            said.to_string()
        })
    }

    /// The answer to a question.
    pub(crate) fn answer(&self, text: &str, within: Duration) -> Result<String, Unanswered> {
        self.call(within, |ctx| {
            let said: rquickjs::String = self.answer.clone().restore(ctx)?.call((text,))?;
            said.to_string()
        })
    }

    fn call<T>(
        &self,
        within: Duration,
        question: impl FnOnce(&Ctx<'_>) -> rquickjs::Result<T>,
    ) -> Result<T, Unanswered> {
        self.deadline.begin(within);
        let answered =
            self.context.with(|ctx| question(&ctx).catch(&ctx).map_err(|caught| said(&caught)));
        answered.map_err(|said| self.deadline.reason(said))
    }
}

impl Deadline {
    fn reason(&self, said: String) -> Unanswered {
        if self.missed.get() { Unanswered::TimeIsUp } else { Unanswered::Failed(said) }
    }
}

/// Runs a bundle and connects it to what asks it.
fn connect<'js>(ctx: &Ctx<'js>, source: &str) -> rquickjs::Result<Object<'js>> {
    ctx.eval::<(), _>(STAND_INS)?;
    let glue: Function<'js> = ctx.eval(GLUE)?;
    let module = Module::declare(ctx.clone(), NAME, source)?;
    let (module, evaluated) = module.eval()?;
    evaluated.finish::<()>()?;
    glue.call((module.namespace()?,))
}

/// What was thrown, and where, for a person to read. To turn it into text may run code of the bundle, which may throw.
fn said(caught: &CaughtError<'_>) -> String {
    match caught {
        CaughtError::Error(Error::WouldBlock) => {
            "it waits for something that never comes".to_owned()
        }
        CaughtError::Error(error) => error.to_string(),
        CaughtError::Exception(exception) => {
            let message = exception.message().unwrap_or_default();
            let stack = exception.stack().unwrap_or_default();
            let place = stack.lines().map(str::trim).find(|line| line.contains(NAME));
            match place {
                Some(place) => format!("{message} ({place})"),
                None => message,
            }
        }
        CaughtError::Value(value) => match value.as_string().map(rquickjs::String::to_string) {
            Some(Ok(text)) => text,
            _ => "it threw something that is no error".to_owned(),
        },
    }
}
