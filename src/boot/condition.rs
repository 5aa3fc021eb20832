//! What has to happen so that a machine counts as started.

use std::fmt;
use std::str::FromStr;

use regex::bytes::Regex;

/// What has to happen so that a machine counts as started.
#[derive(Debug, Clone)]
pub enum Condition {
    /// A line on the first serial port matches.
    Serial(Regex),
    /// The screen shows something that is not the firmware's, and goes on to.
    Screen,
    /// Something in the machine answers at this TCP port.
    Port(u16),
}

impl Condition {
    /// What sort of condition it is. A regular expression may tell more than everybody is to know.
    pub fn kind(&self) -> String {
        match self {
            Condition::Serial(_) => "serial".to_owned(),
            Condition::Screen => "screen".to_owned(),
            Condition::Port(port) => format!("port:{port}"),
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        match text.split_once(':') {
            None if text == "screen" => Ok(Condition::Screen),
            Some(("serial", pattern)) if !pattern.is_empty() => {
                Regex::new(pattern).map(Condition::Serial).map_err(|cause| cause.to_string())
            }
            Some(("port", port)) => match port.parse() {
                Ok(port) if port > 0 => Ok(Condition::Port(port)),
                _ => Err("expected a port from 1 to 65535".to_owned()),
            },
            _ => Err("expected serial:REGEX, screen or port:NUMBER".to_owned()),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Serial(pattern) => write!(f, "serial:{pattern}"),
            other => f.write_str(&other.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_they_are_shown() {
        for text in ["serial:^a: [0-9]+$", "screen", "port:22"] {
            assert_eq!(Condition::from_str(text).unwrap().to_string(), text);
        }
        for wrong in ["", "serial", "serial:", "serial:(", "screen:", "port", "port:0", "port:65536", "line:x"] {
            assert!(Condition::from_str(wrong).is_err(), "{wrong}");
        }
    }
}
