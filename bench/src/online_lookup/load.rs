//! The load: connections, each with one request in flight.
//!
//! In the open loop every connection has a thread, which sleeps until a request's appointed time. In the closed loop few threads have many connections each
//! and go round: they take a connection's answer and ask again. So what is measured is the server more than the switching between threads of the load.

use std::sync::Barrier;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::Asker;
use crate::report::now;

/// Requests of each connection before time is taken, at most, and for how long: a server may hang up on connections that wait for others.
const WARM_UP: usize = 500;
const WARM_UP_FOR: Duration = Duration::from_millis(200);

/// Threads of the closed loop.
const THREADS: usize = 2;

/// Room for so many answers' times before it grows.
const ANSWERS: usize = 1 << 16;

/// Memory for times that was written to before. Where the system first clears it, and a virtual machine's host finds it, the load would stand still for
/// milliseconds while requests are due.
fn touched() -> Vec<u64> {
    let mut room = vec![u64::MAX; ANSWERS];
    room.clear();
    room
}

/// Connects.
pub(super) type Make<'a> = dyn Fn() -> anyhow::Result<Box<dyn Asker>> + Sync + 'a;

/// Who asks, for whom and how long.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) entities: i64,
    pub(super) seconds: u64,
    pub(super) connections: usize,
    pub(super) seed: u64,
    pub(super) make: &'a Make<'a>,
}

/// What was answered.
pub(super) struct Answered {
    /// Sorted.
    pub(super) took_us: Vec<u64>,
    wall: Duration,
}

impl Answered {
    pub(super) fn per_s(&self) -> f64 {
        self.took_us.len() as f64 / self.wall.as_secs_f64()
    }
}

impl Load<'_> {
    /// So many requests a second, each measured from its appointed time. What falls back without end is cut off at thrice the time.
    pub(super) fn open(&self, batch: usize, rate: u64) -> anyhow::Result<Answered> {
        let (next, limit) = (AtomicU64::new(0), Duration::from_secs(3 * self.seconds));
        let appoint = |begin: Instant| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let appointed = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
            (number < rate * self.seconds && begin.elapsed() < limit).then_some(appointed)
        };
        self.run(
            self.connections,
            |number| Ok((self.warm(number, batch)?, touched())),
            |((mut asker, mut rng), mut took_us), begin| {
                while let Some(appointed) = appoint(begin) {
                    let keys = self.keys(&mut rng, batch);
                    std::thread::sleep(appointed.saturating_duration_since(now()));
                    asker.ask(&keys)?;
                    took_us.push(u64::try_from(appointed.elapsed().as_micros())?);
                }
                Ok(took_us)
            },
        )
    }

    /// As many requests as come back.
    pub(super) fn closed(&self, batch: usize) -> anyhow::Result<Answered> {
        let (limit, threads) = (Duration::from_secs(self.seconds), THREADS.min(self.connections));
        self.run(
            threads,
            |number| {
                let warmed = (number..self.connections).step_by(threads).map(|number| self.warm(number, batch));
                Ok((warmed.collect::<anyhow::Result<Vec<_>>>()?, touched()))
            },
            |(mut connections, mut took_us), begin| {
                let mut asked = Vec::with_capacity(connections.len());
                for (asker, rng) in &mut connections {
                    asked.push(now());
                    asker.send(&self.keys(rng, batch))?;
                }
                while begin.elapsed() < limit {
                    for ((asker, rng), asked) in connections.iter_mut().zip(&mut asked) {
                        asker.receive()?;
                        took_us.push(u64::try_from(asked.elapsed().as_micros())?);
                        *asked = now();
                        asker.send(&self.keys(rng, batch))?;
                    }
                }
                connections.iter_mut().try_for_each(|(asker, _)| asker.receive())?;
                Ok(took_us)
            },
        )
    }

    /// Connects in so many threads, and begins in all of them at once.
    fn run<C>(
        &self,
        threads: usize,
        connect: impl Fn(usize) -> anyhow::Result<C> + Sync,
        load: impl Fn(C, Instant) -> anyhow::Result<Vec<u64>> + Sync,
    ) -> anyhow::Result<Answered> {
        let (ready, begin) = (Barrier::new(threads), OnceLock::new());
        let work = |number: usize| {
            let connected = connect(number);
            // All come here, also who failed: the others wait for it.
            ready.wait();
            let connected = connected?;
            let begin = *begin.get_or_init(|| now() + Duration::from_millis(20));
            std::thread::sleep(begin.saturating_duration_since(now()));
            let took_us = load(connected, begin)?;
            anyhow::Ok((took_us, begin.elapsed()))
        };
        let (mut took_us, mut wall) = (Vec::new(), Duration::ZERO);
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
            for thread in threads {
                let (took, until) = thread.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??;
                took_us.extend(took);
                wall = wall.max(until);
            }
            anyhow::Ok(())
        })?;
        took_us.sort_unstable();
        Ok(Answered { took_us, wall })
    }

    fn warm(&self, number: usize, batch: usize) -> anyhow::Result<(Box<dyn Asker>, StdRng)> {
        let rng = StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(number as u64));
        let (mut asker, mut rng) = ((self.make)()?, rng);
        wake_on_time()?;
        let begin = now();
        for _ in 0..WARM_UP {
            asker.ask(&self.keys(&mut rng, batch))?;
            if begin.elapsed() > WARM_UP_FOR {
                break;
            }
        }
        Ok((asker, rng))
    }

    fn keys(&self, rng: &mut StdRng, batch: usize) -> Vec<i64> {
        (0..batch).map(|_| rng.random_range(0..self.entities)).collect()
    }
}

/// Lets the thread sleep to the microsecond, where the kernel's habit is 50 more.
fn wake_on_time() -> anyhow::Result<()> {
    let thread = std::fs::read_link("/proc/thread-self")?;
    if let Some(thread) = thread.file_name() {
        // A kernel that does not let us makes the times a little longer.
        drop(std::fs::write(std::path::Path::new("/proc").join(thread).join("timerslack_ns"), "1000"));
    }
    Ok(())
}
