//! From a connected socket to an export: the options of the newstyle handshake.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;

use super::tls;
use super::transport::{check_time, read_exact_until};
use super::wire::{Fields, broken};
use crate::channel::{Channel, Socket, TlsChannel};
use crate::nbd_protocol::{self, allocation};

/// The longest answer to an option that is read, in bytes. Names and messages have at most 4 KiB.
const MAX_REPLY_BYTES: u32 = 16 << 10;

/// How many answers an option may have.
const MAX_REPLIES: usize = 64;

/// How many names of other disks are told where one is not found.
const MAX_NAMES: usize = 8;

/// The longest request of ours, in bytes, if the server allows as much.
pub const MAX_REQUEST_BYTES: u32 = 4 << 20;

/// The largest block that a server may insist on, in bytes: the protocol's own bound.
const MAX_MINIMUM_BYTES: u32 = 64 << 10;

/// The least that a server has to give at once, in bytes, unless the disk is smaller: with less, a disk takes for ever.
const LEAST_MAXIMUM_BYTES: u32 = 4096;

/// The size that a client may use where the server says nothing, as the protocol has it.
const DEFAULT_MAX_BYTES: u32 = 32 << 20;

/// What a server says of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// The disk's size.
    pub size_bytes: u64,
    /// What can be asked of it.
    pub flags: u16,
    /// What offsets and lengths are multiples of.
    pub min_bytes: u32,
    /// The most to read or write at once.
    pub max_bytes: u32,
    /// Whether answers come in chunks.
    pub is_structured: bool,
    /// The number of `base:allocation`, if the server knows what is allocated.
    pub allocation: Option<u32>,
}

/// What a connection is to become.
pub struct Wanted<'a> {
    /// The name of the export.
    pub export: &'a str,
    /// How to encrypt, and who the server is to be.
    pub tls: Option<(&'a Arc<ClientConfig>, &'a str)>,
    /// When to give up.
    pub deadline: Instant,
}

/// Agrees with a server on an export.
pub fn negotiate(socket: Arc<Socket>, wanted: &Wanted<'_>) -> io::Result<(Channel, Export)> {
    let deadline = wanted.deadline;
    let mut channel = Channel::Plain(Arc::clone(&socket));
    let no_zeroes = greet(&channel, deadline)?;
    if let Some((config, name)) = wanted.tls {
        let plain = Talk { channel: &channel, deadline };
        if let Some(refusal) = plain.simple_option(nbd_protocol::option::STARTTLS, &[])? {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the server has no TLS, as nbds:// demands it: {refusal}"),
            ));
        }
        let session = tls::session(config, name)?;
        channel = Channel::Tls(Box::new(TlsChannel::start(socket, session, &mut || check_time(deadline))?));
    }
    let talk = Talk { channel: &channel, deadline };
    let is_structured = talk.simple_option(nbd_protocol::option::STRUCTURED_REPLY, &[])?.is_none();
    let allocation = if is_structured { talk.ask_for_allocation(wanted.export)? } else { None };
    let found = match talk.go(wanted.export)? {
        Some(found) => found,
        None => talk.export_by_name(wanted.export, no_zeroes)?,
    };
    let export = Export { is_structured, allocation, ..found };
    check(&export)?;
    Ok((channel, export))
}

/// The first words; says whether the server leaves out zeros that nobody needs.
fn greet(channel: &Channel, deadline: Instant) -> io::Result<bool> {
    let mut hello = [0; 18];
    read_exact_until(channel, &mut hello[..16], deadline)?;
    let mut fields = Fields(&hello);
    if fields.u64()? != nbd_protocol::GREETING_MAGIC {
        return Err(broken("it does not begin with NBDMAGIC"));
    }
    if fields.u64()? != nbd_protocol::OPTION_MAGIC {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the server only speaks the old dialect of NBD"));
    }
    read_exact_until(channel, &mut hello[16..], deadline)?;
    let flags = Fields(&hello[16..]).u16()?;
    if flags & nbd_protocol::greeting::FIXED_NEWSTYLE == 0 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the server does not speak the fixed newstyle of NBD"));
    }
    let ours = flags & (nbd_protocol::greeting::FIXED_NEWSTYLE | nbd_protocol::greeting::NO_ZEROES);
    channel.write_all(&mut [IoSlice::new(&u32::from(ours).to_be_bytes())])?;
    Ok(ours & nbd_protocol::greeting::NO_ZEROES != 0)
}

fn check(export: &Export) -> io::Result<()> {
    let Export { size_bytes, min_bytes, max_bytes, .. } = *export;
    if !min_bytes.is_power_of_two() || min_bytes > MAX_MINIMUM_BYTES || max_bytes < min_bytes {
        return Err(broken(format!("it wants blocks of {min_bytes} to {max_bytes} bytes")));
    }
    if u64::from(max_bytes) < size_bytes.min(LEAST_MAXIMUM_BYTES.into()) {
        return Err(broken(format!("it gives {max_bytes} bytes at once, expected at least {LEAST_MAXIMUM_BYTES}")));
    }
    if !size_bytes.is_multiple_of(min_bytes.into()) {
        return Err(broken(format!("the disk has {size_bytes} bytes, but can only be read in blocks of {min_bytes}")));
    }
    if i64::try_from(size_bytes).is_err() {
        return Err(broken(format!("the disk has {size_bytes} bytes")));
    }
    Ok(())
}

/// A connection on which options are negotiated.
struct Talk<'a> {
    channel: &'a Channel,
    deadline: Instant,
}

/// An answer to an option.
struct OptionReply {
    kind: u32,
    data: Vec<u8>,
}

impl OptionReply {
    /// The words of a refusal.
    fn refusal(&self) -> String {
        let what = match self.kind {
            nbd_protocol::option_reply::ERR_UNSUP => "it does not know what was asked for".to_owned(),
            nbd_protocol::option_reply::ERR_TLS_REQD => "it wants TLS (nbds://)".to_owned(),
            nbd_protocol::option_reply::ERR_UNKNOWN => "it has no export of that name".to_owned(),
            other => format!("it refuses with error {}", other & !nbd_protocol::option_reply::ERROR),
        };
        let said = String::from_utf8_lossy(&self.data);
        if said.is_empty() { what } else { format!("{what} (\"{}\")", said.escape_debug()) }
    }

    fn is_refusal(&self) -> bool {
        self.kind & nbd_protocol::option_reply::ERROR != 0
    }
}

impl Talk<'_> {
    fn read<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        read_exact_until(self.channel, &mut bytes, self.deadline)?;
        Ok(bytes)
    }

    fn send_option(&self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut message = nbd_protocol::OPTION_MAGIC.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.channel.write_all(&mut [IoSlice::new(&message)])
    }

    fn option_reply(&self, option: u32) -> io::Result<OptionReply> {
        let header: [u8; 20] = self.read()?;
        let mut fields = Fields(&header);
        if fields.u64()? != nbd_protocol::OPTION_REPLY_MAGIC {
            return Err(broken("an answer to an option has another magic"));
        }
        let (about, kind, length) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if about != option {
            return Err(broken(format!("it answers option {about} instead of {option}")));
        }
        if length > MAX_REPLY_BYTES {
            return Err(broken(format!("it answers an option with {length} bytes")));
        }
        let mut data = vec![0; length as usize];
        read_exact_until(self.channel, &mut data, self.deadline)?;
        Ok(OptionReply { kind, data })
    }

    /// An option that is granted, or refused with words.
    fn simple_option(&self, option: u32, data: &[u8]) -> io::Result<Option<String>> {
        self.send_option(option, data)?;
        let reply = self.option_reply(option)?;
        match reply.kind {
            nbd_protocol::option_reply::ACK => Ok(None),
            _ if reply.is_refusal() => Ok(Some(reply.refusal())),
            other => Err(broken(format!("it answers option {option} with {other}"))),
        }
    }

    /// Asks to be told what is allocated; gives the number under which it will be.
    fn ask_for_allocation(&self, export: &str) -> io::Result<Option<u32>> {
        const CONTEXT: &[u8] = allocation::NAME.as_bytes();
        let mut data = with_length(export.as_bytes());
        data.extend(1_u32.to_be_bytes());
        data.extend(with_length(CONTEXT));
        self.send_option(nbd_protocol::option::SET_META_CONTEXT, &data)?;
        let mut found = None;
        for _ in 0..MAX_REPLIES {
            let reply = self.option_reply(nbd_protocol::option::SET_META_CONTEXT)?;
            match reply.kind {
                nbd_protocol::option_reply::ACK => return Ok(found),
                nbd_protocol::option_reply::META_CONTEXT => {
                    let mut fields = Fields(&reply.data);
                    let number = fields.u32()?;
                    if fields.0 == CONTEXT {
                        found = Some(number);
                    }
                }
                // Whatever is wrong (the name, TLS), it comes again with the next option, which asks for the export.
                _ if reply.is_refusal() => return Ok(None),
                other => return Err(broken(format!("it answers with {other} when asked for contexts"))),
            }
        }
        Err(broken("it does not stop to answer"))
    }

    /// Asks for the export; `None` if the server does not know this way.
    fn go(&self, export: &str) -> io::Result<Option<Export>> {
        let mut data = with_length(export.as_bytes());
        data.extend(1_u16.to_be_bytes());
        data.extend(nbd_protocol::info::BLOCK_SIZE.to_be_bytes());
        self.send_option(nbd_protocol::option::GO, &data)?;
        let mut size_and_flags = None;
        let mut blocks = (1, DEFAULT_MAX_BYTES);
        for _ in 0..MAX_REPLIES {
            let reply = self.option_reply(nbd_protocol::option::GO)?;
            match reply.kind {
                nbd_protocol::option_reply::ACK => {
                    let (size_bytes, flags) =
                        size_and_flags.ok_or_else(|| broken("it does not say how large the disk is"))?;
                    return Ok(Some(export_of(size_bytes, flags, blocks)));
                }
                nbd_protocol::option_reply::INFO => {
                    let mut fields = Fields(&reply.data);
                    match fields.u16()? {
                        nbd_protocol::info::EXPORT => size_and_flags = Some((fields.u64()?, fields.u16()?)),
                        nbd_protocol::info::BLOCK_SIZE => {
                            let (min_bytes, _, max_bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
                            blocks = (min_bytes, max_bytes);
                        }
                        _ => {}
                    }
                }
                nbd_protocol::option_reply::ERR_UNSUP => return Ok(None),
                _ if reply.is_refusal() => {
                    let known = match reply.kind {
                        nbd_protocol::option_reply::ERR_UNKNOWN => self.known_names(),
                        _ => String::new(),
                    };
                    let (export, refusal) = (export.escape_debug(), reply.refusal());
                    let message = format!("the server does not give the disk \"{export}\": {refusal}{known}");
                    return Err(io::Error::new(io::ErrorKind::NotFound, message));
                }
                other => return Err(broken(format!("it answers with {other} when asked for the disk"))),
            }
        }
        Err(broken("it does not stop to answer"))
    }

    /// What the server has instead, for people; nothing if it does not tell.
    fn known_names(&self) -> String {
        let mut names = Vec::new();
        if self.send_option(nbd_protocol::option::LIST, &[]).is_err() {
            return String::new();
        }
        while let Ok(reply) = self.option_reply(nbd_protocol::option::LIST) {
            let name = Fields(&reply.data).u32().ok().and_then(|length| reply.data.get(4..)?.get(..length as usize));
            match name.filter(|_| reply.kind == nbd_protocol::option_reply::SERVER) {
                Some(_) if names.len() == MAX_NAMES => {
                    names.push("...".to_owned());
                    break;
                }
                Some(name) => names.push(format!("\"{}\"", String::from_utf8_lossy(name).escape_debug())),
                None => break,
            }
        }
        if names.is_empty() { String::new() } else { format!("; it has {}", names.join(", ")) }
    }

    /// The older way: the server says size and flags, or closes the connection.
    fn export_by_name(&self, export: &str, no_zeroes: bool) -> io::Result<Export> {
        self.send_option(nbd_protocol::option::EXPORT_NAME, export.as_bytes())?;
        let answer: [u8; 10] = self.read()?;
        let mut fields = Fields(&answer);
        let found = export_of(fields.u64()?, fields.u16()?, (1, DEFAULT_MAX_BYTES));
        if !no_zeroes {
            self.read::<124>()?;
        }
        Ok(found)
    }
}

fn export_of(size_bytes: u64, flags: u16, (min_bytes, max_bytes): (u32, u32)) -> Export {
    // A whole number of the server's blocks.
    let max_bytes = match max_bytes.min(MAX_REQUEST_BYTES) {
        most if min_bytes > 0 && most >= min_bytes => most / min_bytes * min_bytes,
        most => most,
    };
    Export { size_bytes, flags, min_bytes, max_bytes, is_structured: false, allocation: None }
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}
