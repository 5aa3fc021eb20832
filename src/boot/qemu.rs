//! The command line of QEMU.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use serde_json::{Value, json};
use tintype_formats::Geometry;
use tintype_volumes::look::System;

use super::confine::{Confinement, SANDBOX, SANDBOX_OF_WINDOW};
use super::exports::Exports;
use super::settings::{Accelerator, Bus, Display, Network, Plan, Serial, Settings};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Descriptors that QEMU inherits.
#[derive(Debug, Clone)]
pub struct Descriptors {
    /// For QMP.
    pub qmp: RawFd,
    /// For what the firmware tells whoever debugs it.
    pub firmware_log: RawFd,
    /// For the serial port, if this program watches it.
    pub serial: Option<RawFd>,
    /// The UEFI variables.
    pub variables: Option<RawFd>,
    /// The overlays, one for each disk.
    pub overlays: Vec<RawFd>,
}

/// A disk, as the command line needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Drive {
    /// Its sectors.
    pub geometry: Geometry,
    /// Whether what is written to it is to survive.
    pub is_kept: bool,
}

/// The arguments for a machine.
pub fn arguments(
    plan: &Plan,
    settings: &Settings,
    (accelerator, confinement): (Accelerator, Confinement),
    drives: &[Drive],
    (descriptors, socket): (&Descriptors, &Path),
) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.words(&["-name", "tintype,process=tintype-boot", "-no-user-config", "-nodefaults", "-boot", "strict=on"]);
    if confinement.sandbox {
        line.option("-sandbox", if settings.display == Display::Gtk { SANDBOX_OF_WINDOW } else { SANDBOX });
    }
    processor(&mut line, plan, accelerator);
    firmware(&mut line, plan, descriptors);
    for (index, (drive, descriptor)) in drives.iter().zip(&descriptors.overlays).enumerate() {
        disk(&mut line, index, plan.bus, drive, (*descriptor, socket));
    }
    network(&mut line, settings.network, plan.system);
    display(&mut line, settings.display);
    serial(&mut line, &settings.serial, descriptors);
    line.option("-chardev", format!("socket,id=qmp,fd={}", descriptors.qmp));
    line.words(&["-mon", "chardev=qmp,mode=control"]);
    line.option("-chardev", format!("socket,id=firmware,fd={}", descriptors.firmware_log));
    line.words(&["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]);
    if settings.stays_when_off {
        line.words(&["-no-shutdown"]);
    }
    line.0.extend(settings.more.iter().cloned());
    line.0
}

struct Line(Vec<OsString>);

impl Line {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }

    fn block_device(&mut self, description: &Value) {
        self.option("-blockdev", description.to_string());
    }

    /// Lends QEMU a descriptor as the file `/dev/fdset/SET`.
    fn file_of(&mut self, descriptor: RawFd, set: usize) -> String {
        self.option("-add-fd", format!("fd={descriptor},set={set}"));
        format!("/dev/fdset/{set}")
    }
}

fn processor(line: &mut Line, plan: &Plan, accelerator: Accelerator) {
    let machine = if plan.bus == Bus::Ide { "pc" } else { "q35" };
    let flash = if plan.flash.is_some() { ",pflash0=code,pflash1=variables" } else { "" };
    let (accelerator, model) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Auto | Accelerator::Tcg => ("tcg", "max"),
    };
    line.option("-machine", format!("{machine},usb=on{flash}"));
    line.words(&["-accel", accelerator, "-cpu", model]);
    line.option("-m", format!("{}M", plan.memory_bytes >> 20));
    line.option("-smp", plan.cpus.to_string());
    match plan.system {
        // Its clock shows the time of the place.
        System::Windows => line.words(&["-rtc", "base=localtime"]),
        // What it needs random numbers for at its start takes long otherwise.
        System::Linux => line.words(&["-device", "virtio-rng-pci"]),
        System::Unknown => {}
    }
}

/// Sets of descriptors are numbered: the disks from 0 on, and this one.
const VARIABLES_SET: usize = 1000;

fn firmware(line: &mut Line, plan: &Plan, descriptors: &Descriptors) {
    let (Some(flash), Some(variables)) = (&plan.flash, descriptors.variables) else { return };
    let code = json!({"driver": "file", "filename": flash.code.to_string_lossy(), "read-only": true});
    line.block_device(&json!({"driver": flash.code_format, "node-name": "code", "read-only": true, "file": code}));
    let variables = json!({"driver": "file", "filename": line.file_of(variables, VARIABLES_SET)});
    line.block_device(&json!({"driver": "raw", "node-name": "variables", "file": variables}));
}

fn disk(line: &mut Line, index: usize, bus: Bus, drive: &Drive, (overlay, socket): (RawFd, &Path)) {
    let (base, name) = (format!("base{index}"), format!("drive{index}"));
    let server = json!({"type": "unix", "path": socket.to_string_lossy()});
    let export = Exports::name(index);
    line.block_device(
        &json!({"driver": "nbd", "node-name": base, "server": server, "export": export, "read-only": true}),
    );
    // What nobody keeps needs not be safe from a power cut.
    let cache = json!({"no-flush": !drive.is_kept});
    let file = json!({"driver": "file", "filename": line.file_of(overlay, index), "cache": cache});
    line.block_device(&json!({
        "driver": "qcow2", "node-name": name, "backing": base, "file": file, "cache": cache, "discard": "unmap"
    }));
    let (logical, physical) = (drive.geometry.logical_sector_bytes, drive.geometry.physical_sector_bytes);
    let common = format!("drive={name},bootindex={index},physical_block_size={physical}");
    line.option(
        "-device",
        match bus {
            Bus::Virtio => format!("virtio-blk-pci,{common},logical_block_size={logical}"),
            Bus::Nvme => format!("nvme,serial=tintype{index},{common},logical_block_size={logical}"),
            Bus::Ide => format!("ide-hd,bus=ide.{},unit={},{common}", index / 2, index % 2),
            Bus::Sata | Bus::Auto => format!("ide-hd,bus=ide.{index},{common}"),
        },
    );
}

/// How many disks each bus takes.
pub fn most_disks(bus: Bus) -> usize {
    match bus {
        Bus::Ide => 4,
        Bus::Sata | Bus::Auto => 6,
        Bus::Virtio | Bus::Nvme => 20,
    }
}

fn network(line: &mut Line, network: Network, system: System) {
    let card = if system == System::Linux { "virtio-net-pci" } else { "e1000e" };
    match network {
        Network::None => line.words(&["-nic", "none"]),
        Network::User => line.option("-nic", format!("user,model={card}")),
        Network::Forwarded(here, there) => {
            line.option("-nic", format!("user,model={card},restrict=on,hostfwd=tcp:127.0.0.1:{here}-:{there}"));
        }
    }
}

fn display(line: &mut Line, display: Display) {
    line.words(&["-device", "VGA"]);
    match display {
        Display::None => line.words(&["-display", "none"]),
        Display::Gtk => line.words(&["-display", "gtk", "-device", "usb-tablet"]),
        // The first port that is free.
        Display::Vnc => line.words(&["-display", "none", "-vnc", "127.0.0.1:0,to=99", "-device", "usb-tablet"]),
    }
}

fn serial(line: &mut Line, serial: &Serial, descriptors: &Descriptors) {
    match (serial, descriptors.serial) {
        (Serial::Stdio, _) => {
            // Ctrl-C is the guest's; Ctrl-A X ends the machine.
            line.words(&["-chardev", "stdio,id=serial0,mux=on,signal=off", "-serial", "chardev:serial0"]);
            line.words(&["-mon", "chardev=serial0,mode=readline"]);
        }
        (Serial::File(path), _) => {
            let mut option = OsString::from("file,id=serial0,path=");
            // A comma in a value is written twice.
            option.push(path.to_string_lossy().replace(',', ",,"));
            line.option("-chardev", option);
            line.words(&["-serial", "chardev:serial0"]);
        }
        (Serial::Watched, Some(descriptor)) => {
            line.option("-chardev", format!("socket,id=serial0,fd={descriptor}"));
            line.words(&["-serial", "chardev:serial0"]);
        }
        (Serial::None | Serial::Watched, _) => line.words(&["-serial", "none"]),
    }
}
