//! The network between the hosts of a lab: an Ethernet switch in this process. Every host's interface is
//! a file here; whether, when and how often a frame arrives is decided for each pair and direction.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Largest frame: the MTU of an interface and its Ethernet head.
const FRAME_BYTES_MAX: usize = 2048;
/// Frames that wait for their time at most; more are lost, as in a full router.
const DELAYED_MAX: usize = 65_536;

/// What happens to frames in one direction between two hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    pub(crate) cut: bool,
    pub(crate) delay_ms: u64,
    /// Up to this much more, at random: frames overtake each other.
    pub(crate) jitter_ms: u64,
    /// Lost frames of 1000.
    pub(crate) loss_permille: u32,
}

/// The switch.
#[derive(Debug)]
pub(crate) struct Switch {
    ports: Vec<File>,
    links: Mutex<Vec<Vec<Link>>>,
    delayed: Mutex<BinaryHeap<Delayed>>,
    more: Condvar,
    stopped: AtomicBool,
    /// Frames that arrived, and frames that did not.
    pub(crate) passed: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

#[derive(Debug)]
struct Delayed {
    at: Instant,
    number: u64,
    to: usize,
    frame: Vec<u8>,
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Delayed {}
impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Delayed {
    /// The earliest is the greatest: a `BinaryHeap` gives that first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The hardware address of a host.
pub(crate) fn hardware_address(host: usize) -> String {
    format!("02:00:00:00:00:{:02x}", host + 1)
}

impl Switch {
    /// Starts switching between these hosts. The threads end with the process, or when the interfaces
    /// are gone after [`Switch::stop`].
    pub(crate) fn start(ports: Vec<File>, seed: u64) -> anyhow::Result<Arc<Self>> {
        let hosts = ports.len();
        let switch = Arc::new(Self {
            links: Mutex::new(vec![vec![Link::default(); hosts]; hosts]),
            ports,
            delayed: Mutex::new(BinaryHeap::new()),
            more: Condvar::new(),
            stopped: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        for port in 0..hosts {
            let reader = switch.ports[port].try_clone()?;
            let switch = Arc::clone(&switch);
            let rng = SmallRng::seed_from_u64(seed ^ (port as u64) << 32);
            std::thread::Builder::new()
                .name(format!("port {port}"))
                .spawn(move || switch.read_port(port, reader, rng))?;
        }
        let clocked = Arc::clone(&switch);
        std::thread::Builder::new()
            .name("delayed".into())
            .spawn(move || clocked.send_delayed())?;
        Ok(switch)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.more.notify_all();
    }

    pub(crate) fn set(&self, from: usize, to: usize, link: Link) {
        self.links.lock()[from][to] = link;
    }

    pub(crate) fn get(&self, from: usize, to: usize) -> Link {
        self.links.lock()[from][to]
    }

    fn read_port(&self, from: usize, mut reader: File, mut rng: SmallRng) {
        let mut frame = [0; FRAME_BYTES_MAX];
        let mut number = 0;
        while let Ok(length) = reader.read(&mut frame) {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            // Hosts know each other's addresses: what is meant for everybody is meant for nobody.
            let to = match frame[..length].first_chunk::<6>() {
                Some([2, 0, 0, 0, 0, last]) => usize::from(*last).wrapping_sub(1),
                _ => continue,
            };
            if to >= self.ports.len() {
                continue;
            }
            let link = self.get(from, to);
            let lost = link.cut
                || (link.loss_permille > 0 && rng.random_range(0..1000) < link.loss_permille);
            if lost {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if link.delay_ms + link.jitter_ms == 0 {
                self.write(to, &frame[..length]);
                continue;
            }
            let jitter = rng.random_range(0..=link.jitter_ms * 1000);
            let wait = Duration::from_micros(link.delay_ms * 1000 + jitter);
            number += 1;
            self.delay(Delayed {
                at: Instant::now() + wait,
                number,
                to,
                frame: frame[..length].to_vec(),
            });
        }
    }

    fn delay(&self, frame: Delayed) {
        let mut delayed = self.delayed.lock();
        if delayed.len() < DELAYED_MAX {
            delayed.push(frame);
            self.more.notify_one();
        }
    }

    fn send_delayed(&self) {
        let mut delayed = self.delayed.lock();
        while !self.stopped.load(Ordering::Acquire) {
            let now = Instant::now();
            match delayed.peek().map(|frame| frame.at) {
                Some(at) if at <= now => {
                    if let Some(frame) = delayed.pop() {
                        self.write(frame.to, &frame.frame);
                    }
                }
                Some(at) => drop(self.more.wait_for(&mut delayed, at - now)),
                None => self.more.wait(&mut delayed),
            }
        }
    }

    fn write(&self, to: usize, frame: &[u8]) {
        // A host whose interface is full or gone loses frames, as any host does.
        let counter = match (&self.ports[to]).write(frame) {
            Ok(_) => &self.passed,
            Err(_) => &self.dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
