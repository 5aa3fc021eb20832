//! What a machine is to be like, and what becomes of that by what its disks show.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use tintype_formats::Geometry;
use tintype_volumes::look::{FALLBACK_LOADER, Look, System};

use super::firmware::{self, Flash};
use crate::error::{Error, Kind, Result};

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// What the disk is made for.
    Auto,
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// What runs the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM, and TCG where that does not work.
    Auto,
    /// The processor's own virtualization.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Accelerator::Kvm { "KVM" } else { "TCG" })
    }
}

/// What the disks hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// What the system on the disk has a driver for.
    Auto,
    /// virtio-blk.
    Virtio,
    /// AHCI.
    Sata,
    /// The IDE controller of an old machine.
    Ide,
    /// NVMe.
    Nvme,
}

/// What the machine is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing.
    None,
    /// The outside, through this computer.
    User,
    /// Nothing, but this computer reaches one of its ports: (this computer's, the machine's).
    Forwarded(u16, u16),
}

/// Where the machine's screen is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// Nowhere.
    None,
    /// In a window.
    Gtk,
    /// By a VNC server on loopback.
    Vnc,
}

/// Where the machine's first serial port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serial {
    /// Nowhere.
    None,
    /// To the terminal.
    Stdio,
    /// Into a file.
    File(PathBuf),
    /// To this program.
    Watched,
}

/// What the machine is to be like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its memory; 2 GiB, or less if there is less, if `None`.
    pub memory_bytes: Option<u64>,
    /// How many processors; four, or less if there are less, if `None`.
    pub cpus: Option<u32>,
    /// What starts it.
    pub firmware: Firmware,
    /// What runs its processor.
    pub accelerator: Accelerator,
    /// What its disks hang on.
    pub bus: Bus,
    /// What it is connected to.
    pub network: Network,
    /// Where its screen is shown.
    pub display: Display,
    /// Where its serial port leads.
    pub serial: Serial,
    /// Whether it stays, stopped, when it powered itself off, so that its screen can be looked at.
    pub stays_when_off: bool,
    /// More arguments for QEMU.
    pub more: Vec<OsString>,
}

/// What the machine is going to be like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The UEFI firmware; the BIOS if there is none here.
    pub flash: Option<Flash>,
    /// The boot loader that a UEFI firmware has to be told of.
    pub loader: Option<String>,
    /// What the disks hang on; never [`Bus::Auto`].
    pub bus: Bus,
    /// What is on the disks.
    pub system: System,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// How many processors.
    pub cpus: u32,
    /// What is worth saying about how that was chosen.
    pub remarks: Vec<String>,
}

const DEFAULT_MEMORY_BYTES: u64 = 2 << 30;
const LEAST_MEMORY_BYTES: u64 = 256 << 20;
const MEMORY_UNIT_BYTES: u64 = 1 << 20;
const MOST_DEFAULT_CPUS: usize = 4;

impl Plan {
    /// Decides what was left open, by what the first disk with something to boot shows.
    pub fn new(settings: &Settings, look: &Look, geometry: Geometry) -> Result<Plan> {
        let is_4k = geometry.logical_sector_bytes > 512;
        let bus = choose_bus(settings.bus, look.system, is_4k)?;
        let mut remarks = Vec::new();
        let flash = match settings.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some(firmware::find(bus == Bus::Ide)?),
            Firmware::Auto => choose_firmware(look, bus, &mut remarks)?,
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_DEFAULT_CPUS) as u32;
        let loader = look.efi_loader.clone().filter(|loader| loader != FALLBACK_LOADER);
        if flash.is_some() && look.efi_loader.is_none() {
            remarks.push(
                "no boot loader that is known is on an EFI system partition: the firmware may find nothing to boot"
                    .to_owned(),
            );
        }
        Ok(Plan {
            flash,
            loader,
            bus,
            system: look.system,
            memory_bytes: settings.memory_bytes.unwrap_or_else(default_memory),
            cpus: settings.cpus.unwrap_or(cpus),
            remarks,
        })
    }

    /// The firmware and the bus in a few words.
    pub fn summary(&self) -> String {
        let firmware = if self.flash.is_some() { "UEFI" } else { "BIOS" };
        let bus = match self.bus {
            Bus::Virtio => "virtio",
            Bus::Ide => "IDE",
            Bus::Nvme => "NVMe",
            Bus::Sata | Bus::Auto => "SATA",
        };
        format!("{firmware}, {bus}")
    }
}

/// Linux has drivers for all of them, and is fastest by virtio; Windows brings none for that.
fn choose_bus(wanted: Bus, system: System, is_4k: bool) -> Result<Bus> {
    match wanted {
        Bus::Auto if system == System::Linux => Ok(Bus::Virtio),
        Bus::Auto if is_4k => Ok(Bus::Nvme),
        Bus::Auto => Ok(Bus::Sata),
        Bus::Sata | Bus::Ide if is_4k => {
            let message = "the disk has sectors of 4096 bytes, which QEMU's SATA and IDE disks cannot have; choose virtio or nvme";
            Err(Error::new(Kind::Usage, message))
        }
        chosen => Ok(chosen),
    }
}

/// The firmware that the disk is made for. A disk made for both starts by UEFI if that is installed.
fn choose_firmware(look: &Look, bus: Bus, remarks: &mut Vec<String>) -> Result<Option<Flash>> {
    let wants_uefi = look.efi_loader.is_some() || (look.has_efi_partition && !look.has_boot_code);
    if !look.has_boot_code && !look.has_efi_partition {
        remarks.push(
            "no disk has a boot sector or an EFI system partition: the firmware may find nothing to boot".to_owned(),
        );
    }
    if !wants_uefi {
        return Ok(None);
    }
    match firmware::find(bus == Bus::Ide) {
        Ok(flash) => Ok(Some(flash)),
        Err(_) if look.has_boot_code => {
            remarks.push(
                "the disk boots by UEFI and by BIOS; OVMF is not installed (package ovmf), so it is BIOS".to_owned(),
            );
            Ok(None)
        }
        Err(cause) => Err(cause),
    }
}

/// As much as a machine wants, or what is free.
fn default_memory() -> u64 {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_bytes(&text));
    let bytes = free.map_or(DEFAULT_MEMORY_BYTES, |free| (free / 4 * 3).min(DEFAULT_MEMORY_BYTES));
    bytes.max(LEAST_MEMORY_BYTES) / MEMORY_UNIT_BYTES * MEMORY_UNIT_BYTES
}

/// What Linux says is available.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_one_that_the_system_has_a_driver_for() {
        assert_eq!(choose_bus(Bus::Auto, System::Linux, false).unwrap(), Bus::Virtio);
        assert_eq!(choose_bus(Bus::Auto, System::Windows, false).unwrap(), Bus::Sata);
        assert_eq!(choose_bus(Bus::Auto, System::Windows, true).unwrap(), Bus::Nvme);
        assert_eq!(choose_bus(Bus::Ide, System::Linux, false).unwrap(), Bus::Ide);
        assert!(choose_bus(Bus::Sata, System::Unknown, true).is_err());
    }

    #[test]
    fn free_memory_is_read() {
        assert_eq!(available_bytes("MemTotal: 1 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
    }
}
