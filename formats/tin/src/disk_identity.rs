//! Identity of a disk apart from its name, so that it is recognised under another one (FORMAT.md §10).

use serde::{Deserialize, Serialize};

/// Facts that tell a disk from others: of its hardware, and of the partition table on it. Each is missing where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The serial number that the disk gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The world wide name that the disk gives, as the kernel writes it: `naa.…`, `eui.…`, `t10.…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// The disk GUID in its GPT, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpt_guid: Option<String>,
    /// The disk identifier in its MBR: eight lower-case hexadecimal digits. Missing if the disk has a GPT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbr_id: Option<String>,
    /// The partition's GUID, `MBR-ID-NN` or `at 0xOFFSET`, where the source is a partition; the other facts are then those of its
    /// disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
}

/// Result of comparing two identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameDisk {
    /// At least one fact is known of both, and all such facts are equal.
    Yes,
    /// A fact that is known of both differs.
    No,
    /// No fact is known of both.
    Unknown,
}

impl DiskIdentity {
    /// True if nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == DiskIdentity::default()
    }

    /// The facts that are known, each with a name for people.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.all().into_iter().filter_map(|(name, value)| value.map(|value| (name, value)))
    }

    /// Compares two identities. A partition and a whole disk are never the same, nor are tables of two kinds.
    pub fn compare(&self, other: &DiskIdentity) -> SameDisk {
        let pairs = self.all().into_iter().zip(other.all());
        let known: Vec<_> = pairs.filter_map(|((_, one), (_, other))| one.zip(other)).collect();
        let both_are_known = !self.is_empty() && !other.is_empty();
        if known.iter().any(|(one, other)| one != other)
            || (both_are_known && self.partition.is_some() != other.partition.is_some())
            || self.has_other_table(other)
        {
            return SameDisk::No;
        }
        if known.is_empty() { SameDisk::Unknown } else { SameDisk::Yes }
    }

    /// One text that is equal exactly for equal identities; none if nothing is known.
    pub fn key(&self) -> Option<String> {
        let facts: Vec<_> = self.facts().map(|(name, value)| format!("{name} {value}")).collect();
        (!facts.is_empty()).then(|| facts.join(", "))
    }

    fn has_other_table(&self, other: &DiskIdentity) -> bool {
        let is_mixed = |gpt: &DiskIdentity, mbr: &DiskIdentity| gpt.gpt_guid.is_some() && mbr.mbr_id.is_some();
        is_mixed(self, other) || is_mixed(other, self)
    }

    fn all(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("WWN", self.wwn.as_deref()),
            ("serial number", self.serial.as_deref()),
            ("GPT", self.gpt_guid.as_deref()),
            ("MBR", self.mbr_id.as_deref()),
            ("partition", self.partition.as_deref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt(guid: &str) -> DiskIdentity {
        DiskIdentity { gpt_guid: Some(guid.to_owned()), ..DiskIdentity::default() }
    }

    #[test]
    fn identities_are_compared_by_what_both_know() {
        let none = DiskIdentity::default();
        let serial = DiskIdentity { serial: Some("1".to_owned()), ..none.clone() };
        let both = DiskIdentity { serial: Some("1".to_owned()), ..gpt("a") };
        let other = DiskIdentity { serial: Some("2".to_owned()), ..gpt("a") };
        let part = DiskIdentity { partition: Some("p".to_owned()), ..gpt("a") };
        let mbr = DiskIdentity { mbr_id: Some("a".to_owned()), ..none.clone() };
        let expected = [
            (&none, &none, SameDisk::Unknown),
            (&none, &both, SameDisk::Unknown),
            (&serial, &gpt("a"), SameDisk::Unknown),
            (&serial, &both, SameDisk::Yes),
            (&gpt("a"), &both, SameDisk::Yes),
            (&gpt("b"), &both, SameDisk::No),
            (&other, &both, SameDisk::No),
            (&part, &gpt("a"), SameDisk::No),
            (&part, &none, SameDisk::Unknown),
            (&mbr, &gpt("a"), SameDisk::No),
        ];
        for (one, another, same) in expected {
            assert_eq!((one.compare(another), another.compare(one)), (same, same), "{one:?} and {another:?}");
        }
        assert_eq!((none.key(), both.key().as_deref()), (None, Some("serial number 1, GPT a")));
    }

    #[test]
    fn facts_that_are_unknown_are_not_written() {
        assert_eq!(serde_json::to_string(&gpt("a")).unwrap(), r#"{"gpt_guid":"a"}"#);
        assert_eq!(serde_json::from_str::<DiskIdentity>("{}").unwrap(), DiskIdentity::default());
    }
}
