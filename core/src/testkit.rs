//! What the tests of several crates start servers with.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Where the ports begin that a test server may be given.
const LOWEST: u16 = 10_000;
/// Where Linux' own range begins unless it is told otherwise.
const USUAL_RANGE: u16 = 32_768;

/// A port of 127.0.0.1 that nobody listens on, that no connection is given by the system, and that this process was not told before.
///
/// A server that is killed and started again finds it free: a port of the system's own range may by then be the near end of anybody's connection, even
/// of one that a client makes to that very server.
///
/// # Panics
/// Where there is none.
#[expect(clippy::disallowed_methods, reason = "processes that look at one time should not look at the same ports, and which it is changes nothing")]
pub fn free_port() -> u16 {
    static TOLD: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let begins = range.and_then(|range| range.split_whitespace().next()?.parse().ok()).unwrap_or(USUAL_RANGE);
    // A range that leaves no room below it is taken from, as everybody does.
    let candidates = if begins > LOWEST + 1_000 { LOWEST..begins } else { LOWEST..u16::MAX };
    let mut random = StdRng::from_os_rng();
    let free = (0..10_000).map(|_| random.random_range(candidates.clone())).find(|&port| !told.contains(&port) && listens(port));
    let free = free.unwrap_or_else(|| panic!("no free port in {candidates:?}"));
    told.insert(free);
    free
}

fn listens(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::free_port;

    #[test]
    fn a_port_is_told_once_and_can_be_listened_on() {
        let ports: Vec<u16> = (0..100).map(|_| free_port()).collect();
        let mut different = ports.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), ports.len());
        let listening: Vec<_> = ports.iter().map(|&port| TcpListener::bind(("127.0.0.1", port)).unwrap()).collect();
        assert!(!ports.contains(&free_port()));
        drop(listening);
    }
}
