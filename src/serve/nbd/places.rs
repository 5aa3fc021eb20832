//! Who is connected, and who goes when too many are.
//!
//! Clients in their handshake have places of their own, so that those who never finish it keep nobody out: the oldest of them
//! goes, first of those who have not shown a certificate. A client that has chosen its disk keeps its place unless it asks for
//! nothing while another one needs it. One address gets no more than most of the places of each kind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::settings::Limits;
use crate::channel::Socket;

/// What a client is doing.
pub struct Activity {
    began: Instant,
    in_flight: AtomicUsize,
    /// When it last asked or was answered, in milliseconds after the beginning.
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Activity { began: Instant::now(), in_flight: AtomicUsize::new(0), last_ms: AtomicU64::new(0) }
    }

    fn touch(&self) {
        self.last_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// A request has come.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.touch();
    }

    /// A request is answered.
    pub fn end(&self) {
        self.touch();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// True if a request is not answered yet.
    pub fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    fn idle_for(&self) -> Duration {
        match self.is_busy() {
            true => Duration::ZERO,
            false => self.began.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed))),
        }
    }
}

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In its handshake.
    New,
    /// In its handshake, and known by its certificate.
    Known,
    /// It has chosen its disk.
    Served,
    /// Sent away; its thread has yet to notice.
    Dropped,
}

struct Client {
    socket: Arc<Socket>,
    address: Option<IpAddr>,
    stage: Stage,
    activity: Arc<Activity>,
}

/// All connections.
#[derive(Default)]
pub struct Places {
    clients: HashMap<u64, Client>,
    next_id: u64,
}

/// Whether there is a place, and who has to go for it.
enum Room {
    Free,
    InPlaceOf(u64),
    None,
}

impl Places {
    /// Sockets of all connections whose threads have not ended.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.clients.values().map(|client| client.socket.as_ref())
    }

    /// True if no thread of a connection is left.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// How many clients are connected.
    pub fn count(&self) -> usize {
        self.clients.values().filter(|client| client.stage != Stage::Dropped).count()
    }

    /// Takes in a client that begins its handshake; `None` if it could not be served after it.
    pub fn admit(&mut self, socket: &Arc<Socket>, address: Option<IpAddr>, limits: &Limits) -> Option<u64> {
        if matches!(self.room_to_serve(address, limits), Room::None) {
            return None;
        }
        match self.room_for_handshake(address, limits.handshakes) {
            Room::Free => {}
            Room::InPlaceOf(id) => self.send_away(id),
            Room::None => return None,
        }
        let id = self.next_id;
        self.next_id += 1;
        let activity = Arc::new(Activity::new());
        self.clients.insert(id, Client { socket: Arc::clone(socket), address, stage: Stage::New, activity });
        Some(id)
    }

    /// The client has shown a certificate that counts.
    pub fn set_known(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id).filter(|client| client.stage == Stage::New) {
            client.stage = Stage::Known;
        }
    }

    /// The client has chosen its disk; `None` if there is no place any more.
    pub fn begin_to_serve(&mut self, id: u64, limits: &Limits) -> Option<Arc<Activity>> {
        let address = self.clients.get(&id).filter(|client| client.stage != Stage::Dropped)?.address;
        match self.room_to_serve(address, limits) {
            Room::Free => {}
            Room::InPlaceOf(victim) => self.send_away(victim),
            Room::None => return None,
        }
        let client = self.clients.get_mut(&id)?;
        client.stage = Stage::Served;
        client.activity.touch();
        Some(Arc::clone(&client.activity))
    }

    /// The thread of the connection has ended.
    pub fn remove(&mut self, id: u64) {
        self.clients.remove(&id);
    }

    /// True if the client was sent away to make room.
    pub fn was_sent_away(&self, id: u64) -> bool {
        self.clients.get(&id).is_some_and(|client| client.stage == Stage::Dropped)
    }

    fn send_away(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.stage = Stage::Dropped;
            client.socket.close();
        }
    }

    fn room_for_handshake(&self, address: Option<IpAddr>, most: usize) -> Room {
        let new = |client: &Client| matches!(client.stage, Stage::New | Stage::Known);
        // The least id is the oldest.
        let oldest = |clients: &mut dyn Iterator<Item = (&u64, &Client)>| {
            let found = clients.min_by_key(|(id, client)| (client.stage == Stage::Known, **id));
            found.map_or(Room::None, |(id, _)| Room::InPlaceOf(*id))
        };
        let mut all = self.clients.iter().filter(|(_, client)| new(client));
        let mut same = self.clients.iter().filter(|(_, client)| new(client) && client.address == address);
        if address.is_some() && same.clone().count() >= share_of(most) {
            return oldest(&mut same);
        }
        if all.clone().count() >= most { oldest(&mut all) } else { Room::Free }
    }

    fn room_to_serve(&self, address: Option<IpAddr>, limits: &Limits) -> Room {
        let all = self.clients.iter().filter(|(_, client)| client.stage == Stage::Served);
        let same = all.clone().filter(|(_, client)| client.address == address);
        let is_share_used = address.is_some() && same.clone().count() >= share_of(limits.connections);
        if !is_share_used && all.clone().count() < limits.connections {
            return Room::Free;
        }
        let is_candidate = |client: &Client| !is_share_used || client.address == address;
        let idle = all.filter(|(_, client)| is_candidate(client)).map(|(id, client)| (client.activity.idle_for(), *id));
        match idle.max().filter(|(idle, _)| *idle >= limits.yields_after) {
            Some((_, id)) => Room::InPlaceOf(id),
            None => Room::None,
        }
    }
}

/// How many of so many places one address may have: seven of eight. Of a few places it may have all.
fn share_of(places: usize) -> usize {
    (places - places / 8).max(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn socket() -> Arc<Socket> {
        Arc::new(UnixStream::pair().unwrap().0.into())
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn limits(connections: usize, handshakes: usize, yields_after: Duration) -> Limits {
        Limits { connections, handshakes, yields_after, ..Limits::default() }
    }

    #[test]
    fn the_oldest_stranger_in_a_handshake_goes_first() {
        let (mut places, limits) = (Places::default(), limits(4, 16, Duration::MAX));
        let admit = |places: &mut Places, last| places.admit(&socket(), address(last), &limits).unwrap();
        let known = admit(&mut places, 1);
        places.set_known(known);
        let first = admit(&mut places, 2);
        for last in 3..100 {
            admit(&mut places, last);
        }
        assert_eq!(places.count(), 16);
        assert!(places.was_sent_away(first) && !places.was_sent_away(known));
        assert!(places.begin_to_serve(known, &limits).is_some() && places.begin_to_serve(first, &limits).is_none());
    }

    #[test]
    fn an_address_that_floods_drops_its_own() {
        let (mut places, limits) = (Places::default(), limits(4, 16, Duration::MAX));
        let other = places.admit(&socket(), address(1), &limits).unwrap();
        (0..100).for_each(|_| _ = places.admit(&socket(), address(2), &limits).unwrap());
        assert_eq!(places.count(), 15);
        assert!(places.begin_to_serve(other, &limits).is_some());
    }

    #[test]
    fn who_asks_for_nothing_makes_room_and_who_is_busy_does_not() {
        let (mut places, limits) = (Places::default(), limits(2, 16, Duration::from_nanos(1)));
        let serve = |places: &mut Places| {
            let id = places.admit(&socket(), None, &limits)?;
            Some((id, places.begin_to_serve(id, &limits)?))
        };
        let (busy, activity) = serve(&mut places).unwrap();
        activity.begin();
        let (idle, _) = serve(&mut places).unwrap();
        let (third, activity) = serve(&mut places).unwrap();
        assert!(places.was_sent_away(idle) && !places.was_sent_away(busy));
        activity.begin();
        assert!(serve(&mut places).is_none(), "both are busy");
        activity.end();
        assert!(serve(&mut places).is_some() && places.was_sent_away(third));
    }

    #[test]
    fn one_address_does_not_get_all_places() {
        let (mut places, limits) = (Places::default(), limits(64, 256, Duration::MAX));
        let serve = |places: &mut Places, last| {
            let id = places.admit(&socket(), address(last), &limits)?;
            places.begin_to_serve(id, &limits)
        };
        assert_eq!((0..100).filter(|_| serve(&mut places, 1).is_some()).count(), 56);
        assert_eq!((0..100).filter(|_| serve(&mut places, 2).is_some()).count(), 8);
        assert!(serve(&mut places, 3).is_none());
    }
}
