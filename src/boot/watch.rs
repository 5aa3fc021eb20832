//! Watches a machine until a condition is met, or it is clear that it will not be.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::condition::Condition;
use super::event::Event;
use super::machine::Machine;
use super::screen::{LONGEST_FAILURE_BYTES, Screen, failure_in};
use crate::error::{Error, Kind, Result};

/// What came of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the condition was met.
    pub met: bool,
    /// What was seen in the end. It may have words of the machine in it.
    pub seen: String,
}

/// How often is looked whether the watch is to stop, or a port answers.
const STEP: Duration = Duration::from_millis(100);

/// After how long without a word the beginning of a line counts as one.
const PROMPT: Duration = Duration::from_secs(1);

/// How often the screen is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// For how long a screen has to show the same.
const STABLE: Duration = Duration::from_secs(5);

/// How often a machine may start anew: some do once when they find themselves restored.
const MOST_RESETS: usize = 5;

/// The longest line that is kept; what is longer is looked at in pieces.
const MAX_LINE_BYTES: usize = 64 << 10;

/// How much is shown of what a guest says, in letters.
const MAX_SHOWN_LETTERS: usize = 200;

/// What says, in what the firmware writes, that it hands over to the disk.
const HANDOVERS: [&str; 2] = ["Booting from 0000:7c00", "BdsDxe: starting Boot"];

/// Watches a machine whose serial port is [`Watched`](super::Serial::Watched). `port` is this computer's, forwarded to the machine's.
pub fn watch_until(
    machine: &mut Machine,
    (condition, port): (&Condition, u16),
    limit: Duration,
    folder: &Path,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Verdict> {
    let deadline = Instant::now() + limit;
    let mut watch = Watch::new(condition);
    let answer = matches!(condition, Condition::Port(_)).then(|| ask_port(port, deadline));
    while Instant::now() < deadline {
        if is_stopped() {
            return Err(Error::cancelled());
        }
        let event = machine.next_event(STEP);
        if event.as_ref().is_some_and(Event::is_out_of_space) {
            let message = "keep what the machine writes: there is no space for it in the temporary folder (TMPDIR)";
            return Err(Error::new(Kind::NoSpace, message));
        }
        let verdict = match event {
            Some(event) => watch.hear(&event),
            None => watch.hear_silence(),
        };
        if let Some(verdict) = verdict {
            return Ok(verdict);
        }
        if let Some(seen) = answer.as_ref().and_then(|answer| answer.try_recv().ok()) {
            return Ok(Verdict { met: true, seen });
        }
        if watch.is_time_to_look() {
            // A machine that goes just now says so itself.
            if let Ok(screen) = machine.screen(folder)
                && let Some(verdict) = watch.see(screen)
            {
                return Ok(verdict);
            }
        }
    }
    Ok(watch.timed_out(limit))
}

/// What says that a firmware, a loader or a system cannot go on, in what a machine says.
pub fn warn_of(text: &mut Vec<u8>, event: &Event) -> Option<&'static str> {
    let (Event::FirmwareLog(bytes) | Event::Serial(bytes)) = event else { return None };
    text.extend_from_slice(bytes);
    let found = failure_in(&String::from_utf8_lossy(text));
    // What is kept may be the beginning of such words.
    text.drain(..text.len().saturating_sub(LONGEST_FAILURE_BYTES));
    found
}

struct Watch<'a> {
    condition: &'a Condition,
    serial: Lines,
    heard_at: Instant,
    log: Lines,
    last_line: String,
    resets: usize,
    /// How it ended, if it did.
    end: Option<&'static str>,
    looked_at: Instant,
    is_handed_over: bool,
    /// The last that was seen while the firmware worked.
    before: Option<Screen>,
    /// What the screen shows, and since when.
    shown: Option<(Screen, Instant)>,
}

impl<'a> Watch<'a> {
    fn new(condition: &'a Condition) -> Self {
        Watch {
            condition,
            serial: Lines::default(),
            heard_at: Instant::now(),
            log: Lines::default(),
            last_line: String::new(),
            resets: 0,
            end: None,
            looked_at: Instant::now(),
            is_handed_over: false,
            before: None,
            shown: None,
        }
    }

    fn hear(&mut self, event: &Event) -> Option<Verdict> {
        match event {
            Event::Serial(bytes) => self.hear_serial(bytes),
            Event::FirmwareLog(bytes) => {
                let lines = self.log.take(bytes);
                lines.iter().find_map(|line| self.hear_firmware(line))
            }
            Event::Qmp(name, data) if name == "RESET" && data["guest"] == true => {
                self.resets += 1;
                (self.resets > MOST_RESETS).then(|| failed(format!("it started anew {} times", self.resets)))
            }
            Event::Qmp(name, _) if name == "SHUTDOWN" => {
                self.end = Some("it powered itself off");
                None
            }
            Event::Qmp(..) => None,
            // Said again when there is nothing more to come.
            Event::Gone => self.end.replace("QEMU ended").map(|how| self.at_the_end(how)),
        }
    }

    fn hear_serial(&mut self, bytes: &[u8]) -> Option<Verdict> {
        self.heard_at = Instant::now();
        let lines = self.serial.take(bytes);
        lines.iter().find_map(|line| self.hear_line(line))
    }

    /// What waits without an end is a line when nothing more comes: prompts have no end. Looked at any earlier, the beginning of
    /// a line could match what the whole does not.
    fn hear_silence(&mut self) -> Option<Verdict> {
        // Only now: its last words come another way than the word about its end.
        if let Some(how) = self.end {
            return Some(self.at_the_end(how));
        }
        if self.serial.rest.is_empty() || self.heard_at.elapsed() < PROMPT {
            return None;
        }
        let line = self.serial.rest.clone();
        // Once is enough, until more of it comes.
        self.heard_at = Instant::now();
        self.hear_line(&line)
    }

    /// No more is coming: what waits without an end is a line.
    fn at_the_end(&mut self, how: &str) -> Verdict {
        let line = std::mem::take(&mut self.serial.rest);
        self.hear_line(&line).unwrap_or_else(|| failed(self.with_last_line(how)))
    }

    fn hear_line(&mut self, line: &[u8]) -> Option<Verdict> {
        let line = without_escapes(line);
        let text = String::from_utf8_lossy(&line).into_owned();
        if let Condition::Serial(pattern) = self.condition
            && !line.is_empty()
            && pattern.is_match(&line)
        {
            return Some(Verdict { met: true, seen: shortened(&text) });
        }
        let verdict = self.hear_firmware(&line);
        if !text.trim().is_empty() {
            self.last_line = shortened(text.trim());
        }
        verdict
    }

    fn hear_firmware(&mut self, line: &[u8]) -> Option<Verdict> {
        let text = String::from_utf8_lossy(line);
        self.is_handed_over |= HANDOVERS.iter().any(|words| text.contains(words));
        failure_in(&text).map(|failure| failed(format!("it says \"{failure}\"")))
    }

    fn is_time_to_look(&mut self) -> bool {
        let is_time = self.looked_at.elapsed() >= LOOK_EVERY;
        if is_time {
            self.looked_at = Instant::now();
        }
        is_time
    }

    fn see(&mut self, screen: Screen) -> Option<Verdict> {
        if let Some(failure) = screen.failure() {
            return Some(failed(format!("its screen says \"{failure}\"")));
        }
        if !matches!(self.condition, Condition::Screen) {
            return None;
        }
        // In text mode the firmware's words are known; it is UEFI that draws pictures.
        self.is_handed_over |= matches!(screen, Screen::Text(_));
        if !self.is_handed_over {
            self.before = Some(screen);
            return None;
        }
        let is_same = self.shown.as_ref().is_some_and(|(shown, _)| shown.resembles(&screen));
        match &self.shown {
            Some((_, since)) if is_same => {
                let is_stable = since.elapsed() >= STABLE && screen.is_the_guests(self.before.as_ref());
                is_stable.then(|| Verdict { met: true, seen: described(&screen) })
            }
            _ => {
                self.shown = Some((screen, Instant::now()));
                None
            }
        }
    }

    fn timed_out(&self, limit: Duration) -> Verdict {
        let nothing = match self.condition {
            _ if !self.is_handed_over => ", and the firmware started nothing".to_owned(),
            Condition::Port(port) => format!(", and nothing answered at port {port}"),
            _ => String::new(),
        };
        failed(self.with_last_line(&format!("{} s passed{nothing}", limit.as_secs())))
    }

    fn with_last_line(&self, what: &str) -> String {
        let line = self.last_line.trim();
        if line.is_empty() { what.to_owned() } else { format!("{what}; its last line was \"{line}\"") }
    }
}

fn failed(seen: impl Into<String>) -> Verdict {
    Verdict { met: false, seen: seen.into() }
}

fn described(screen: &Screen) -> String {
    match screen {
        Screen::Text(lines) => {
            let last = lines.iter().rev().find(|line| !line.trim().is_empty());
            format!("text; its last line is \"{}\"", shortened(last.map_or("", |line| line.trim())))
        }
        Screen::Graphics(_) => "graphics".to_owned(),
    }
}

/// The beginning of a text, if it is long.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_LETTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Bytes that come in pieces, as lines. No byte is looked at twice, however small the pieces are.
#[derive(Default)]
struct Lines {
    /// What has no end yet, at most [`MAX_LINE_BYTES`].
    rest: Vec<u8>,
    /// How much of it was searched for an end.
    searched: usize,
}

impl Lines {
    /// Adds bytes, and takes the lines that are complete. A line that is too long comes in pieces.
    fn take(&mut self, more: &[u8]) -> Vec<Vec<u8>> {
        self.rest.extend_from_slice(more);
        let (mut lines, mut begin) = (Vec::new(), 0);
        loop {
            let from = begin + self.searched;
            let limit = self.rest.len().min(begin + MAX_LINE_BYTES);
            let end = match self.rest[from..limit].iter().position(|byte| *byte == b'\n') {
                Some(at) => from + at + 1,
                None if limit < self.rest.len() => limit,
                None => {
                    self.searched = limit - begin;
                    break;
                }
            };
            let line = self.rest[begin..end].iter().copied();
            lines.push(line.filter(|byte| !b"\r\n".contains(byte)).collect());
            (begin, self.searched) = (end, 0);
        }
        self.rest.drain(..begin);
        lines
    }
}

/// A line as a person sees it: without the sequences that colour it and move the cursor.
fn without_escapes(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != 0x1b {
            plain.extend((byte >= b' ' || byte == b'\t').then_some(byte));
        } else if bytes.next() == Some(b'[') {
            // Parameters, and the letter that ends them.
            bytes.by_ref().find(|byte| (0x40..=0x7e).contains(byte));
        }
    }
    plain
}

/// Asks a port until something answers. Who forwards it accepts every connection: only bytes prove that somebody is there.
fn ask_port(port: u16, deadline: Instant) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        while Instant::now() < deadline {
            if let Some(answer) = ask_once(port) {
                // Who asked may have gone.
                let _ = sender.send(answer);
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    });
    receiver
}

/// How long a service may take to speak first, and then to answer to an empty line.
const SPEAK_LIMIT: Duration = Duration::from_secs(3);

fn ask_once(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, SPEAK_LIMIT).ok()?;
    stream.set_read_timeout(Some(SPEAK_LIMIT)).ok()?;
    let mut buffer = [0; 256];
    let mut length = stream.read(&mut buffer);
    if length.as_ref().is_err_and(|cause| matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)) {
        stream.write_all(b"\r\n\r\n").ok()?;
        length = stream.read(&mut buffer);
    }
    let answer = &buffer[..length.ok().filter(|length| *length > 0)?];
    let line = answer.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
    Some(format!("an answer: {}", String::from_utf8_lossy(line)))
}

#[cfg(test)]
mod tests {
    use super::super::screen::Picture;
    use super::*;
    use serde_json::json;

    fn serial(text: &str) -> Event {
        Event::Serial(text.as_bytes().to_vec())
    }

    #[test]
    fn a_line_matches_in_pieces_in_colour_and_without_an_end() {
        let condition: Condition = "serial:^ready [0-9]+".parse().unwrap();
        let mut watch = Watch::new(&condition);
        assert_eq!(watch.hear(&serial("not ready 1\r\nrea")), None);
        assert_eq!(watch.hear(&serial("\u{1b}[1;32mdy 42")), None, "more may come");
        assert_eq!(watch.hear_silence(), None);
        watch.heard_at -= PROMPT;
        let verdict = watch.hear_silence().unwrap();
        assert_eq!(verdict, Verdict { met: true, seen: "ready 42".to_owned() });
    }

    #[test]
    fn what_cannot_go_on_is_given_up_at_once() {
        let condition: Condition = "serial:never".parse().unwrap();
        let heard = |event: Event| Watch::new(&condition).hear(&event).map(|verdict| verdict.seen);
        assert!(heard(serial("[ 1.2] Kernel panic - not syncing: VFS\n")).unwrap().contains("Kernel panic"));
        assert!(heard(Event::FirmwareLog(b"No bootable device.\n".to_vec())).is_some());
        assert_eq!(heard(serial("all is well\n")), None);
        let mut watch = Watch::new(&condition);
        let reset = || Event::Qmp("RESET".to_owned(), json!({"guest": true}));
        let verdicts: Vec<_> = (0..=MOST_RESETS).map(|_| watch.hear(&reset()).is_some()).collect();
        assert_eq!(verdicts.iter().position(|verdict| *verdict), Some(MOST_RESETS));
        assert_eq!(watch.hear(&Event::Qmp("SHUTDOWN".to_owned(), json!({"guest": true}))), None);
        watch.hear(&serial("the last words"));
        let off = watch.hear_silence().unwrap();
        let mut watch = Watch::new(&condition);
        assert_eq!(watch.hear(&Event::Gone), None);
        assert_eq!(watch.hear(&Event::Gone).unwrap().seen, "QEMU ended");
        assert_eq!(off.seen, "it powered itself off; its last line was \"the last words\"");
    }

    #[test]
    fn a_screen_counts_when_it_stays() {
        let condition = Condition::Screen;
        let mut watch = Watch::new(&condition);
        let screen =
            |colours: &[u8; 6]| Screen::Graphics(Picture::parse(&[&b"P6\n2 1\n255\n"[..], colours].concat()).unwrap());
        assert_eq!(watch.see(screen(b"logo  ")), None);
        assert!(watch.shown.is_none(), "the firmware still works");
        watch.hear(&serial("BdsDxe: starting Boot0001\n"));
        for (shown, met) in [(b"logo  ", false), (b"system", true)] {
            assert_eq!(watch.see(screen(shown)), None);
            watch.shown.as_mut().unwrap().1 -= STABLE;
            assert_eq!(watch.see(screen(shown)).is_some_and(|verdict| verdict.met), met);
        }
        assert!(!watch.see(Screen::Text(vec!["No bootable device.".to_owned()])).unwrap().met);
    }

    #[test]
    fn memory_stays_bounded_when_no_line_ends() {
        let mut text = Vec::new();
        for _ in 0..100 {
            assert_eq!(warn_of(&mut text, &serial(&"x".repeat(4096))), None);
        }
        assert!(text.len() <= 4096);
        let mut lines = Lines::default();
        assert!(lines.take(&vec![b'x'; 3 * MAX_LINE_BYTES]).len() >= 2 && lines.rest.len() <= MAX_LINE_BYTES);
        assert_eq!(lines.take(b"end\r\nnext\n\nrest").iter().map(Vec::len).sum::<usize>(), MAX_LINE_BYTES + 3 + 4);
        assert_eq!(lines.rest, b"rest");
    }

    /// Searching a line of 64 KiB again for each byte would take minutes.
    #[test]
    fn single_bytes_take_no_longer_than_many_at_once() {
        let condition: Condition = "serial:never".parse().unwrap();
        let mut watch = Watch::new(&condition);
        let began = Instant::now();
        for _ in 0..4 * MAX_LINE_BYTES {
            assert_eq!(watch.hear(&Event::Serial(vec![b'x'])), None);
        }
        assert_eq!(watch.hear(&Event::Serial(vec![b'\n'; 16 * MAX_LINE_BYTES])), None);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let seen = watch.timed_out(Duration::from_secs(1)).seen;
        assert!(seen.chars().count() < 2 * MAX_SHOWN_LETTERS, "{seen}");
    }
}
