//! `tintype serve`

mod exports;
mod listen;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;

use self::listen::{ListenArgs, uri};
use crate::access::Address;
use crate::cli::failure::Failure;
use crate::cli::source_args::{SourceArgs, address_parser};
use crate::cli::units::parse_some_time;
use crate::cli::{Global, Outcome, escape, output, units};
use crate::error::Error;
use crate::jobs::{Wish, catch_signals, is_stop, obey};
use crate::serve::nbd::{Counters, Event, Exports, Limits, Observer, Server, Settings, TlsFiles, TlsSettings};

/// How many warnings about clients are printed: anybody who can connect can cause them.
const MAX_WARNINGS: u32 = 100;

/// Let other programs and machines use a disk over the network (NBD), without copying it
///
/// The disk has the empty name and its own, and each partition a name like NAME/part1. What is printed first is how clients
/// reach them. Ends with Ctrl-C.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The disk; of a stored snapshot, all its disks unless one is chosen
    #[arg(value_name = "SOURCE", value_parser = address_parser())]
    source: Address,
    #[command(flatten)]
    disk: SourceArgs,
    #[command(flatten)]
    listen: ListenArgs,
    /// Name of the disk; by default that of the file, without folder and extension, or of the stored disk
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// File that takes what clients write, so that the disk stays as it is; made if it is not there, else gone on with
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Folder with server-cert.pem and server-key.pem: clients have to use TLS then
    #[arg(long, value_name = "DIR", env = "TINTYPE_TLS_CERTIFICATES")]
    tls_certificates: Option<PathBuf>,
    /// Take only clients with a certificate of the authority in ca-cert.pem, in the same folder
    #[arg(long, requires = "tls_certificates")]
    tls_verify_clients: bool,
    /// End when the last client has gone
    #[arg(long)]
    exit_with_last: bool,
    /// Most clients at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_connections: u16,
    /// Most requests of one connection that are carried out at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    max_requests: u16,
    /// Disconnect clients that are idle for this long, like 90s, 10m or 24h. Where --max-connections is reached, the client
    /// that is idle longest makes room for a new one after 10 s
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_some_time)]
    idle_timeout: Duration,
}

#[derive(Serialize)]
struct ExportLine<'a> {
    r#type: &'static str,
    name: &'a str,
    uri: &'a str,
    size_bytes: u64,
    read_only: bool,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let mut signals = catch_signals()?;
    let settings = args.settings(global)?;
    let (exports, lease) = exports::exports(args, global)?;
    let encrypted = settings.tls.is_some();
    let listeners = args.listen.listeners(encrypted, global)?;
    let is_stopped = signals.pending().any(is_stop);
    if is_stopped {
        return Err(Error::cancelled().into());
    }
    let server = Server::start(listeners, exports.clone(), settings)?;
    announce(&server, &exports, encrypted, global)?;
    let (remote, handle) = (server.remote(), signals.handle());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            obey(signals, |wish| match wish {
                Wish::Position => say_counters(remote.counters(), global),
                Wish::Stop => remote.stop(),
            });
        });
        server.wait();
        let stopped = server.stop();
        handle.close();
        stopped
    })?;
    drop(lease);
    Ok(Outcome::Done)
}

impl Args {
    fn settings(&self, global: Global) -> Result<Settings, Failure> {
        let tls = self.tls_certificates.as_deref().map(|folder| {
            let client_authority = self.tls_verify_clients.then(|| folder.join("ca-cert.pem"));
            let (certificate, key) = (folder.join("server-cert.pem"), folder.join("server-key.pem"));
            TlsSettings::load(&TlsFiles { certificate, key, client_authority })
        });
        let limits = Limits {
            connections: self.max_connections.into(),
            requests: self.max_requests.into(),
            idle: Some(self.idle_timeout),
            ..Limits::default()
        };
        let observer = Some(observer(global));
        Ok(Settings { limits, tls: tls.transpose()?, ends_with_last_client: self.exit_with_last, observer })
    }
}

/// Warns of what happens, as long as there are not too many warnings.
fn observer(global: Global) -> Observer {
    let count = AtomicU32::new(0);
    Box::new(move |event| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        if number < MAX_WARNINGS {
            output::warn(&describe(event), global);
        } else if number == MAX_WARNINGS {
            output::warn("further warnings are left out", global);
        }
    })
}

fn describe(event: Event) -> String {
    match event {
        Event::TurnedAway => "a client was sent away: there are as many as --max-connections allows".to_owned(),
        Event::MadeRoom => "a client that did nothing was sent away: another one needed its place".to_owned(),
        Event::ConnectionFailed(text) => format!("a connection ended: {text}"),
        Event::DiskFailed { export, message } => format!("{export}: {message}"),
    }
}

/// Prints how clients reach the exports.
fn announce(server: &Server, exports: &Exports, encrypted: bool, global: Global) -> Result<(), Failure> {
    for address in server.addresses() {
        for export in exports.iter() {
            let (name, uri) = (export.name(), uri(address, export.name(), encrypted));
            if global.json {
                let (size_bytes, read_only) = (export.geometry().size_bytes, export.writable().is_none());
                output::print_json_line(&ExportLine { r#type: "export", name, uri: &uri, size_bytes, read_only })?;
            } else {
                output::print(&(escape::printable(&uri) + "\n"))?;
            }
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct CountersEvent {
    r#type: &'static str,
    connections: usize,
    clients: u64,
    read_bytes: u64,
    written_bytes: u64,
}

fn say_counters(counters: Counters, global: Global) {
    let Counters { connections, clients, read_bytes, written_bytes } = counters;
    if global.json {
        let event = CountersEvent { r#type: "served", connections, clients, read_bytes, written_bytes };
        // If nobody reads the events, the server goes on all the same.
        let _ = output::print_json_line(&event);
        return;
    }
    let (read, written) = (units::size(read_bytes), units::size(written_bytes));
    let clients = units::count(clients, "client", "clients");
    output::say(&format!("{connections} connected, {clients} until now, {read} read, {written} written"));
}
