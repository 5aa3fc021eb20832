//! The handshake: options, until the client has chosen an export or gone.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use zerocopy::IntoBytes;

use super::export::{Export, Exports, MAX_PAYLOAD_BYTES};
use super::option::{self as data, ContextQuery, InfoQuery, Malformed};
use super::request::Agreed;
use super::tls::TlsSettings;
use crate::channel::{Channel, Socket, TlsChannel};
use crate::nbd_protocol::{
    GREETING_MAGIC, Greeting, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader, OptionReplyHeader, allocation, greeting,
    info, option, option_reply,
};

/// Why a connection ended before its client wanted.
#[derive(Debug)]
pub enum Failure {
    /// The client broke the protocol's rules.
    Malformed(String),
    /// The socket failed, or the client took too long.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Self {
        Failure::Io(cause)
    }
}

impl From<Malformed> for Failure {
    fn from(Malformed(text): Malformed) -> Self {
        Failure::Malformed(text)
    }
}

/// What came of a handshake that ended with an export.
pub struct Negotiated {
    /// What goes on.
    pub channel: Channel,
    /// The disk that the client chose.
    pub export: Arc<Export>,
    /// How it is talked about.
    pub agreed: Agreed,
}

/// Talks with a client until it has chosen; `None` if it only wanted to look. `set_known` is called when it has shown a
/// certificate that counts.
pub fn negotiate(
    socket: &Arc<Socket>,
    exports: &Exports,
    tls: Option<&TlsSettings>,
    (deadline, set_known): (Instant, &dyn Fn()),
) -> Result<Option<Negotiated>, Failure> {
    let channel = Channel::Plain(Arc::clone(socket));
    let mut talk = Handshake {
        socket,
        channel,
        exports,
        tls,
        deadline,
        set_known,
        encrypted: false,
        no_zeroes: false,
        structured: false,
        contexts_of: None,
    };
    socket.tick()?;
    socket.limit_writes(Some(talk.left()?))?;
    let chosen = talk.greet().and_then(|()| talk.options())?;
    Ok(chosen.map(|(export, block_status)| {
        let agreed = Agreed { structured: talk.structured, block_status };
        Negotiated { channel: talk.channel, export, agreed }
    }))
}

struct Handshake<'a> {
    socket: &'a Arc<Socket>,
    channel: Channel,
    exports: &'a Exports,
    tls: Option<&'a TlsSettings>,
    deadline: Instant,
    set_known: &'a dyn Fn(),
    encrypted: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export whose block status the client wants, by the name that it said.
    contexts_of: Option<String>,
}

/// What an option leads to.
enum Step {
    Next,
    /// With or without block status.
    Chosen(Arc<Export>, bool),
    Gone,
}

impl Handshake<'_> {
    fn left(&self) -> io::Result<std::time::Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills the buffer before the deadline.
    fn read_into(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.channel.read_exact_until(buffer, Some(self.deadline))
    }

    fn greet(&mut self) -> Result<(), Failure> {
        let offered = greeting::FIXED_NEWSTYLE | greeting::NO_ZEROES;
        let words = Greeting { magic: GREETING_MAGIC.into(), option_magic: OPTION_MAGIC.into(), flags: offered.into() };
        self.channel.write_all(&mut [IoSlice::new(words.as_bytes())])?;
        let flags = u32::from_be_bytes(self.read()?);
        if flags & !u32::from(offered) != 0 || flags & u32::from(greeting::FIXED_NEWSTYLE) == 0 {
            return Err(Failure::Malformed(format!("the client's flags are {flags:#x}, expected 1 or 3")));
        }
        self.no_zeroes = flags & u32::from(greeting::NO_ZEROES) != 0;
        Ok(())
    }

    fn options(&mut self) -> Result<Option<(Arc<Export>, bool)>, Failure> {
        loop {
            let header = match self.read::<{ size_of::<OptionHeader>() }>() {
                // Who hangs up between two options has seen enough.
                Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                header => header?,
            };
            let (option, length_bytes) = data::parse_header(&header)?;
            let mut data = vec![0; length_bytes as usize];
            self.read_into(&mut data)?;
            match self.answer(option, &data)? {
                Step::Next => {}
                Step::Chosen(export, block_status) => return Ok(Some((export, block_status))),
                Step::Gone => return Ok(None),
            }
        }
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<Step, Failure> {
        if self.tls.is_some() && !self.encrypted && ![option::STARTTLS, option::ABORT].contains(&option) {
            if option == option::EXPORT_NAME {
                return Err(Failure::Malformed("the client does not use TLS".to_owned()));
            }
            return self.refuse(option, option_reply::ERR_TLS_REQD, "this server demands TLS");
        }
        match option {
            option::EXPORT_NAME => self.choose_in_old_style(data),
            option::ABORT => {
                // It need not wait for the answer.
                let _ = self.reply(option, option_reply::ACK, &[]);
                Ok(Step::Gone)
            }
            option::STARTTLS => self.start_tls(data),
            option::LIST => self.list(data),
            option::INFO | option::GO => self.describe(option, data),
            option::STRUCTURED_REPLY => {
                if !data.is_empty() {
                    return self.refuse(option, option_reply::ERR_INVALID, "structured replies take no data");
                }
                self.structured = true;
                self.acknowledge(option)
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data),
            _ => self.refuse(option, option_reply::ERR_UNSUP, "this server does not know the option"),
        }
    }

    fn reply(&self, option: u32, reply: u32, parts: &[&[u8]]) -> io::Result<()> {
        let length_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OptionReplyHeader {
            magic: OPTION_REPLY_MAGIC.into(),
            option: option.into(),
            reply: reply.into(),
            length_bytes: u32::try_from(length_bytes).map_err(io::Error::other)?.into(),
        };
        let whole = std::iter::once(header.as_bytes()).chain(parts.iter().copied());
        self.channel.write_all(&mut whole.map(IoSlice::new).collect::<Vec<_>>())
    }

    fn acknowledge(&self, option: u32) -> Result<Step, Failure> {
        self.reply(option, option_reply::ACK, &[])?;
        Ok(Step::Next)
    }

    fn refuse(&self, option: u32, error: u32, message: &str) -> Result<Step, Failure> {
        self.reply(option, error, &[message.as_bytes()])?;
        Ok(Step::Next)
    }

    /// The oldest way to choose: there is no word for "no", so that the connection ends instead.
    fn choose_in_old_style(&mut self, data: &[u8]) -> Result<Step, Failure> {
        let name = data::parse_name(data)?;
        let Some(export) = self.exports.find(&name).cloned() else {
            return Err(Failure::Malformed(format!("there is no export \"{}\"", name.escape_debug())));
        };
        let size_bytes = export.geometry().size_bytes.to_be_bytes();
        let flags = export.flags(self.structured).to_be_bytes();
        let zeroes = [0; 124];
        let padding: &[u8] = if self.no_zeroes { &[] } else { &zeroes };
        self.channel.write_all(&mut [IoSlice::new(&size_bytes), IoSlice::new(&flags), IoSlice::new(padding)])?;
        let block_status = self.has_contexts_of(&name);
        Ok(Step::Chosen(export, block_status))
    }

    fn start_tls(&mut self, data: &[u8]) -> Result<Step, Failure> {
        let option = option::STARTTLS;
        let Some(settings) = self.tls else {
            return self.refuse(option, option_reply::ERR_UNSUP, "this server has no certificate for TLS");
        };
        if self.encrypted || !data.is_empty() {
            return self.refuse(option, option_reply::ERR_INVALID, "TLS has begun already, or takes no data");
        }
        self.reply(option, option_reply::ACK, &[])?;
        let deadline = self.deadline;
        let mut before_waiting = || match Instant::now() < deadline {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        };
        let tls = TlsChannel::start(Arc::clone(self.socket), settings.session()?, &mut before_waiting)?;
        self.channel = Channel::Tls(Box::new(tls));
        if settings.verifies_clients() {
            (self.set_known)();
        }
        // Nothing that was said before can be believed.
        (self.encrypted, self.structured, self.contexts_of) = (true, false, None);
        Ok(Step::Next)
    }

    fn list(&mut self, data: &[u8]) -> Result<Step, Failure> {
        let option = option::LIST;
        if !data.is_empty() {
            return self.refuse(option, option_reply::ERR_INVALID, "the list takes no data");
        }
        for export in self.exports.iter() {
            let name = export.name().as_bytes();
            let length_bytes = (name.len() as u32).to_be_bytes();
            self.reply(option, option_reply::SERVER, &[&length_bytes, name, export.description().as_bytes()])?;
        }
        self.acknowledge(option)
    }

    fn describe(&mut self, option: u32, data: &[u8]) -> Result<Step, Failure> {
        let InfoQuery { name, wanted } = match InfoQuery::parse(data) {
            Ok(query) => query,
            Err(Malformed(text)) => return self.refuse(option, option_reply::ERR_INVALID, &text),
        };
        let Some(export) = self.exports.find(&name).cloned() else {
            return self.refuse(option, option_reply::ERR_UNKNOWN, "there is no export of that name");
        };
        self.inform(option, &export, &wanted)?;
        self.reply(option, option_reply::ACK, &[])?;
        if option == option::INFO {
            return Ok(Step::Next);
        }
        let block_status = self.has_contexts_of(&name);
        Ok(Step::Chosen(export, block_status))
    }

    fn inform(&self, option: u32, export: &Export, wanted: &[u16]) -> io::Result<()> {
        let say = |kind: u16, parts: [&[u8]; 3]| {
            let [first, second, third] = parts;
            self.reply(option, option_reply::INFO, &[&kind.to_be_bytes(), first, second, third])
        };
        let geometry = export.geometry();
        let flags = export.flags(self.structured).to_be_bytes();
        say(info::EXPORT, [&geometry.size_bytes.to_be_bytes(), &flags, &[]])?;
        if wanted.contains(&info::NAME) {
            say(info::NAME, [export.name().as_bytes(), &[], &[]])?;
        }
        if wanted.contains(&info::DESCRIPTION) && !export.description().is_empty() {
            say(info::DESCRIPTION, [export.description().as_bytes(), &[], &[]])?;
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            let preferred = export.preferred_block_bytes().to_be_bytes();
            say(info::BLOCK_SIZE, [&1u32.to_be_bytes(), &preferred, &MAX_PAYLOAD_BYTES.to_be_bytes()])?;
        }
        Ok(())
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<Step, Failure> {
        let ContextQuery { name, queries } = match ContextQuery::parse(data) {
            Ok(query) => query,
            Err(Malformed(text)) => return self.refuse(option, option_reply::ERR_INVALID, &text),
        };
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            self.contexts_of = None;
            if !self.structured {
                return self.refuse(option, option_reply::ERR_INVALID, "structured replies come first");
            }
        }
        if self.exports.find(&name).is_none() {
            return self.refuse(option, option_reply::ERR_UNKNOWN, "there is no export of that name");
        }
        let lists_all = !sets && (queries.is_empty() || queries.iter().any(|query| query == "base:"));
        if lists_all || queries.iter().any(|query| query == allocation::NAME) {
            // Of a list the number means nothing.
            let id = if sets { allocation::ID } else { 0 };
            self.reply(option, option_reply::META_CONTEXT, &[&id.to_be_bytes(), allocation::NAME.as_bytes()])?;
            if sets {
                self.contexts_of = Some(name);
            }
        }
        self.acknowledge(option)
    }

    fn has_contexts_of(&self, name: &str) -> bool {
        self.contexts_of.as_deref() == Some(name)
    }
}
