//! Work without the GIL that Ctrl-C ends.

use std::panic;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

use crate::interrupt::{Interrupt, NEVER};

/// How long a signal waits at most until Python is asked for it.
const POLL: Duration = Duration::from_millis(50);

/// Work on so few numbers ends long before anybody could wish it to.
const FEW: usize = 512;

/// Work in another thread, which takes some 50 microseconds, while this one looks for signals: Python
/// hands them to its main thread alone. The GIL is released meanwhile.
///
/// A signal's handler runs at once. If it raises, as that of Ctrl-C does, the work is asked to end, and
/// what was raised goes up once it has.
///
/// Work on few of `numbers`, codes of items and codes to choose from, is done here at once.
///
/// # Errors
/// If the work fails, or a handler raises.
pub(super) fn interruptible<T: Send>(
    py: Python<'_>,
    numbers: usize,
    work: impl FnOnce(&Interrupt) -> crate::Result<T> + Send,
) -> PyResult<T> {
    if numbers <= FEW {
        return Ok(py.detach(|| work(&NEVER))?);
    }
    let (interrupt, work) = (Interrupt::default(), Mutex::new(Some(work)));
    let take = || work.lock().ok().and_then(|mut work| work.take());
    let run = || take().map(|work| work(&interrupt));
    let done = py.detach(|| {
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            let worker = move || sender.send(run());
            let Ok(worker) = thread::Builder::new().spawn_scoped(scope, worker) else {
                return Ok(run()); // no thread to be had: then without signals
            };
            let mut raised = None;
            loop {
                match receiver.recv_timeout(POLL) {
                    Ok(done) => return raised.map_or(Ok(done), Err),
                    Err(RecvTimeoutError::Timeout) if raised.is_some() => {}
                    Err(RecvTimeoutError::Timeout) => {
                        raised = Python::attach(|py| py.check_signals()).err();
                        if raised.is_some() {
                            interrupt.ask();
                        }
                    }
                    // It panicked, which is a bug of ours: go on with that here.
                    Err(RecvTimeoutError::Disconnected) => {
                        return worker
                            .join()
                            .map_or_else(|bug| panic::resume_unwind(bug), |_| Ok(None))
                    }
                }
            }
        })
    })?;
    Ok(done.unwrap_or_else(|| interrupt.check().and(Err(crate::Error::Interrupted)))?)
}
