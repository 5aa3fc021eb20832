//! QMP: commands to QEMU and events from it, a line of JSON each.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::event::Event;
use super::inbox::Sender as Events;
use crate::error::{Error, Kind, Result};

/// The longest line that is read; the longest that QEMU writes here are screens full of text.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// What QEMU says.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    id: Option<u64>,
    #[serde(rename = "return", default)]
    answer: Option<Value>,
    #[serde(default)]
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    desc: String,
}

struct Reply {
    id: u64,
    result: std::result::Result<Value, String>,
}

/// The side that gives commands.
pub struct Qmp {
    stream: UnixStream,
    replies: Receiver<Reply>,
    last_id: u64,
}

impl Qmp {
    /// Takes the connection. Events go to `events`, and [`Event::Gone`] when QEMU has gone.
    pub fn new(stream: UnixStream, events: Events) -> Result<Qmp> {
        let doing = |cause| Error::io("talk to QEMU", cause);
        let reader = stream.try_clone().map_err(doing)?;
        let (sender, replies) = mpsc::channel();
        let listen = move || {
            listen(reader, &events, &sender);
            // Nobody may be interested any more.
            events.send(Event::Gone);
        };
        thread::Builder::new().name("qmp".to_owned()).spawn(listen).map_err(doing)?;
        Ok(Qmp { stream, replies, last_id: 0 })
    }

    /// Gives a command, and waits for the answer.
    pub fn execute(&mut self, command: &str, arguments: Value, limit: Duration) -> Result<Value> {
        let id = self.send(command, arguments)?;
        loop {
            match self.replies.recv_timeout(limit) {
                Ok(reply) if reply.id == id => {
                    let failed = |text: String| Error::new(Kind::Io, format!("QEMU refused {command}: {text}"));
                    return reply.result.map_err(failed);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let message = format!("QEMU did not answer to {command} within {} s", limit.as_secs());
                    return Err(Error::new(Kind::Io, message));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(Kind::Io, format!("QEMU ended before it answered to {command}")));
                }
            }
        }
    }

    /// Gives a command, whatever comes of it.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<u64> {
        self.last_id += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": self.last_id}).to_string() + "\n";
        self.stream.write_all(line.as_bytes()).map_err(|cause| Error::io("give QEMU a command", cause))?;
        Ok(self.last_id)
    }
}

/// Passes on what QEMU says, until it says nothing any more.
fn listen(stream: UnixStream, events: &Events, replies: &Sender<Reply>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        // What is no message, such as the greeting, is of no use.
        let Ok(message) = serde_json::from_slice::<Message>(&line) else { continue };
        let sent = match message {
            Message { event: Some(name), data, .. } => events.send(Event::Qmp(name, data)),
            Message { id: Some(id), error: Some(fault), .. } => {
                replies.send(Reply { id, result: Err(fault.desc) }).is_ok()
            }
            Message { id: Some(id), answer, .. } => {
                replies.send(Reply { id, result: Ok(answer.unwrap_or(Value::Null)) }).is_ok()
            }
            _ => true,
        };
        if !sent {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_commands_and_events_go_elsewhere() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (sender, events) = super::super::inbox::inbox();
        let mut qmp = Qmp::new(ours, sender).unwrap();
        let lines = "{\"QMP\": {}}\nnonsense\n{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n\
                     {\"return\": 7, \"id\": 9}\n{\"return\": 5, \"id\": 1}\n\
                     {\"error\": {\"class\": \"x\", \"desc\": \"no\"}, \"id\": 2}\n";
        theirs.write_all(lines.as_bytes()).unwrap();
        let limit = Duration::from_secs(5);
        assert_eq!(qmp.execute("one", json!({}), limit).unwrap(), json!(5));
        assert!(qmp.execute("two", json!({}), limit).unwrap_err().to_string().contains("refused two: no"));
        assert!(matches!(events.recv_timeout(limit).unwrap(), Event::Qmp(name, _) if name == "RESET"));
        drop(theirs);
        assert!(matches!(events.recv_timeout(limit).unwrap(), Event::Gone));
        assert!(qmp.execute("three", json!({}), limit).is_err());
    }
}
