//! Starts disks as machines, in QEMU.
//!
//! ```text
//!   the disk, read-only ──► NBD export on a private socket ──► QEMU ◄── overlay (qcow2), which takes all writes
//! ```
//!
//! *Firmware*: what starts the machine, BIOS (SeaBIOS) or UEFI (OVMF). *Bus*: what its disks hang on. *Accelerator*: what
//! runs the processor, KVM or, everywhere and slower, TCG. *QMP*: how QEMU is told what to do. *Handover*: the moment at
//! which the firmware starts what is on the disk.
//!
//! Invariants: QEMU never gets to see a file that it could change, but the overlay and its own variables; an overlay that
//! is not kept has no name, and is gone with its last process, however that ended; QEMU ends when this process does; what a
//! guest says takes bounded memory; QEMU gets none of this process's secrets.

mod condition;
mod confine;
mod event;
mod exports;
mod firmware;
mod inbox;
mod kvm;
mod machine;
mod overlay;
mod private_folder;
mod qemu;
mod qmp;
mod screen;
mod settings;
mod variables;
mod watch;

pub use condition::Condition;
pub use event::Event;
pub use exports::{BootDisk, Exports};
pub use machine::{End, Machine};
pub use overlay::{Overlay, Parent};
pub use settings::{Accelerator, Bus, Display, Firmware, Network, Plan, Serial, Settings};
pub use watch::{Verdict, warn_of, watch_until};
