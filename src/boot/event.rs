//! Events of a machine.

use serde_json::Value;

/// An event of a machine.
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

impl Event {
    /// Returns true if the machine stands still because what it writes finds no space. That says nothing of the machine.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Event::Qmp(name, data) if name == "BLOCK_IO_ERROR" && data["nospace"] == true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_missing_space_is_missing_space() {
        let event =
            |nospace: bool| Event::Qmp("BLOCK_IO_ERROR".to_owned(), json!({"nospace": nospace, "action": "stop"}));
        assert!(event(true).is_out_of_space() && !event(false).is_out_of_space());
        assert!(!Event::Qmp("STOP".to_owned(), json!({})).is_out_of_space() && !Event::Gone.is_out_of_space());
    }
}
