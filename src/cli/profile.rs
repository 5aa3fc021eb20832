//! What platforms accept: the format, its variant, and the size of the disk.

use clap::ValueEnum;
use tintype_formats::Geometry;

use super::failure::Failure;
use super::units;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A platform that a disk is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Hyper-V: dynamic VHDX
    Hyperv,
    /// Azure: fixed VHD of whole MiB
    Azure,
    /// VMware ESXi and vCenter: streamOptimized VMDK of whole MiB
    Vmware,
    /// VirtualBox: dynamic VDI
    Virtualbox,
    /// KVM, libvirt, oVirt: QCOW2
    Kvm,
    /// Amazon EC2 import: streamOptimized VMDK
    Aws,
    /// Google Compute Engine: disk.raw of whole GiB in a tar.gz
    Gcp,
}

/// A platform's rules.
pub struct Rules {
    /// The format's name.
    pub format: &'static str,
    /// The variant of the format.
    pub subformat: Option<&'static str>,
    /// The disk's size is a multiple of this.
    unit_bytes: u64,
    /// The disk is extended to such a multiple; otherwise one that is none is refused.
    extends: bool,
    /// The largest disk.
    max_bytes: u64,
    /// Whether guests see sectors of 4096 bytes where the disk has them.
    large_sectors: bool,
}

/// Any disk of whole sectors.
const ANY: Rules = Rules {
    format: "qcow2",
    subformat: None,
    unit_bytes: 512,
    extends: false,
    max_bytes: u64::MAX,
    large_sectors: false,
};

impl Profile {
    /// What the platform accepts, from its own documentation.
    pub fn rules(self) -> Rules {
        let stream = Some("streamOptimized");
        match self {
            // Any VHDX; Hyper-V presents its sectors as the file says.
            Profile::Hyperv => Rules { format: "vhdx", max_bytes: 64 * TIB, large_sectors: true, ..ANY },
            // "The virtual size must be aligned to 1 MiB", fixed VHD only; the format ends at 2040 GiB.
            Profile::Azure => {
                let (subformat, unit_bytes) = (Some("fixed"), MIB);
                Rules { format: "vhd", subformat, unit_bytes, extends: true, max_bytes: 2040 * GIB, ..ANY }
            }
            // vSphere counts capacity in KiB, its tools in MiB; virtual disks end at 62 TiB.
            Profile::Vmware => {
                Rules { format: "vmdk", subformat: stream, unit_bytes: MIB, extends: true, max_bytes: 62 * TIB, ..ANY }
            }
            Profile::Virtualbox => Rules { format: "vdi", ..ANY },
            Profile::Kvm => Rules { large_sectors: true, ..ANY },
            // VM Import takes no other VMDK, and no volume above 16 TiB.
            Profile::Aws => Rules { format: "vmdk", subformat: stream, max_bytes: 16 * TIB, ..ANY },
            // The size of disk.raw is a whole number of GiB; persistent disks end at 64 TiB.
            Profile::Gcp => Rules { format: "gce", unit_bytes: GIB, max_bytes: 64 * TIB, ..ANY },
        }
    }

    /// The platform's name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The size that the disk has to get for this platform; fails if the platform would refuse it.
    pub fn fit(self, disk: Geometry) -> Result<u64, Failure> {
        let (rules, name) = (self.rules(), self.name());
        if disk.logical_sector_bytes != 512 && !rules.large_sectors {
            return Err(Failure::usage(format!(
                "{name} presents sectors of 512 bytes, the disk has sectors of {}: its partition table would not be found",
                disk.logical_sector_bytes
            )));
        }
        let size_bytes = disk.size_bytes.checked_next_multiple_of(rules.unit_bytes).unwrap_or(u64::MAX);
        if size_bytes > rules.max_bytes {
            return Err(Failure::usage(format!(
                "{name} takes disks of at most {}, this one has {}",
                units::size(rules.max_bytes),
                units::size(disk.size_bytes)
            )));
        }
        if size_bytes != disk.size_bytes && !rules.extends {
            let (unit, bytes) = (units::size(rules.unit_bytes), disk.size_bytes);
            return Err(Failure::usage(format!(
                "{name} takes disks of whole multiples of {unit}, this one has {bytes} bytes"
            ))
            .hinted(format!("make it larger: --extend-to {size_bytes}")));
        }
        Ok(size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(profile: Profile, size_bytes: u64) -> Option<u64> {
        profile.fit(Geometry::of_512_byte_sectors(size_bytes, 1)).ok()
    }

    #[test]
    fn platforms_round_or_refuse() {
        assert_eq!(fit(Profile::Azure, MIB), Some(MIB));
        assert_eq!(fit(Profile::Azure, MIB + 512), Some(2 * MIB));
        assert_eq!(fit(Profile::Azure, 2040 * GIB), Some(2040 * GIB));
        assert_eq!(fit(Profile::Azure, 2040 * GIB + 512), None);
        assert_eq!(fit(Profile::Gcp, 3 * GIB), Some(3 * GIB));
        assert_eq!(fit(Profile::Gcp, 3 * GIB - 512), None);
        assert_eq!(fit(Profile::Kvm, 512), Some(512));
        assert_eq!(fit(Profile::Hyperv, u64::MAX / 512 * 512), None);
    }

    #[test]
    fn large_sectors_go_where_they_are_presented() {
        let disk = Geometry { logical_sector_bytes: 4096, ..Geometry::of_512_byte_sectors(GIB, 1) };
        assert!(Profile::Hyperv.fit(disk).is_ok());
        assert!(Profile::Azure.fit(disk).is_err() && Profile::Virtualbox.fit(disk).is_err());
    }
}
