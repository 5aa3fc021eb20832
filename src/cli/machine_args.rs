//! The arguments of every command that starts a machine.

use clap::Args;
use clap::builder::{PossibleValuesParser, StringValueParser, TypedValueParser};
use tintype_formats::sink::parse_size;

use crate::boot::{Accelerator, Bus, Display, Firmware, Network, Serial, Settings};

const MIB: u64 = 1 << 20;

/// What a machine is to be like.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "The machine")]
pub struct MachineArgs {
    /// Its memory; 2G by default, or less if less is free
    #[arg(long, value_name = "SIZE", value_parser = StringValueParser::new().try_map(|text| parse_memory(&text)))]
    memory: Option<u64>,
    /// How many processors it has; as many as this computer by default, and at most 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// What starts it; by default what the disk is made for, and UEFI if that is both
    #[arg(long, value_name = "FIRMWARE", value_parser = choice(FIRMWARES))]
    firmware: Option<Firmware>,
    /// What runs its processor; KVM by default, and emulation (TCG) where that does not work
    #[arg(long, value_name = "ACCELERATOR", value_parser = choice(ACCELERATORS))]
    accel: Option<Accelerator>,
    /// What its disks hang on; by default virtio for Linux, and SATA for Windows and everything else
    #[arg(long, value_name = "BUS", value_parser = choice(BUSES))]
    bus: Option<Bus>,
}

const FIRMWARES: &[(&str, Firmware)] = &[("auto", Firmware::Auto), ("bios", Firmware::Bios), ("uefi", Firmware::Uefi)];
const ACCELERATORS: &[(&str, Accelerator)] =
    &[("auto", Accelerator::Auto), ("kvm", Accelerator::Kvm), ("tcg", Accelerator::Tcg)];
const BUSES: &[(&str, Bus)] =
    &[("auto", Bus::Auto), ("virtio", Bus::Virtio), ("sata", Bus::Sata), ("ide", Bus::Ide), ("nvme", Bus::Nvme)];

/// Reads one of these names.
pub fn choice<T: Copy + Send + Sync + 'static>(
    values: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).try_map(|found| {
        let value = values.iter().find(|(name, _)| *name == found).map(|(_, value)| *value);
        value.ok_or("there is no such choice")
    })
}

fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(bytes) if bytes >= MIB && bytes.is_multiple_of(MIB) => Ok(bytes),
        Some(_) => Err("expected whole MiB".to_owned()),
        None => Err("expected a size such as 512M or 4G".to_owned()),
    }
}

impl MachineArgs {
    /// Whether anything of it was said.
    pub fn is_said(&self) -> bool {
        let MachineArgs { memory, cpus, firmware, accel, bus } = self;
        memory.is_some() || cpus.is_some() || firmware.is_some() || accel.is_some() || bus.is_some()
    }

    /// A machine without a network, a screen or a serial port.
    pub fn settings(&self) -> Settings {
        Settings {
            memory_bytes: self.memory,
            cpus: self.cpus,
            firmware: self.firmware.unwrap_or(Firmware::Auto),
            accelerator: self.accel.unwrap_or(Accelerator::Auto),
            bus: self.bus.unwrap_or(Bus::Auto),
            network: Network::None,
            display: Display::None,
            serial: Serial::None,
            stays_when_off: false,
            more: Vec::new(),
        }
    }
}
