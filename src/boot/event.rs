//! What is heard of a machine.

use serde_json::Value;

/// Something that was heard of a machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An event of QEMU's, by its name, and what it says.
    Qmp(String, Value),
    /// Bytes from the serial port.
    Serial(Vec<u8>),
    /// Bytes from the firmware.
    FirmwareLog(Vec<u8>),
    /// QEMU has gone.
    Gone,
}
