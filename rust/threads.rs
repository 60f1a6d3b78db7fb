//! Work shared by several threads.

use std::sync::Mutex;
use std::thread;

/// Rows below this number are not worth a second thread.
const ROWS_PER_THREAD: usize = 1 << 14;

/// How many threads are worth it for so many rows, at least one.
pub(crate) fn useful_threads(n_threads: usize, n_rows: usize) -> usize {
    n_threads.min(n_rows / ROWS_PER_THREAD).max(1)
}

/// Work off a list by several threads, results in the list's order.
pub(crate) fn in_threads<T: Send, R: Send>(
    list: Vec<T>,
    n_threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    if n_threads <= 1 || list.len() <= 1 {
        return list.into_iter().map(work).collect();
    }
    let queue = Mutex::new(list.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let run = || {
        while let Some((place, item)) = next() {
            let result = work(item);
            if let Ok(mut done) = done.lock() {
                done.push((place, result));
            }
        }
    };
    run_in_threads(n_threads, run);
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_unstable_by_key(|&(place, _)| place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Run the same in several threads, this one among them; in fewer where the system has no more.
pub(crate) fn run_in_threads(n_threads: usize, run: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..n_threads {
            if thread::Builder::new().spawn_scoped(scope, &run).is_err() {
                break;
            }
        }
        run();
    });
}
