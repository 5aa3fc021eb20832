//! The descriptor of a new package: one machine with one disk.

use crate::error::{ErrorKind, ImageError, Result};
use crate::format::OptionHelp;
use crate::sink::{CreateOptions, invalid_option};

/// The options for new packages.
pub static OPTIONS: &[OptionHelp] = &[
    OptionHelp {
        name: "controller",
        values: "lsilogic, lsisas, pvscsi, sata, ide (default: lsilogic)",
        help: "The controller that the disk is attached to",
    },
    OptionHelp { name: "firmware", values: "bios, efi (default: bios)", help: "How the machine starts" },
    OptionHelp {
        name: "os",
        values: "other, other64, linux, linux64, debian64, ubuntu64, rhel64, centos64, oracle64, sles64, freebsd64, \
                 windows10-64, windows2012-64, windows2016-64 (default: other64)",
        help: "The operating system in it, for the platform to choose its devices by",
    },
    OptionHelp { name: "cpus", values: "1 to 768 (default: 2)", help: "The number of processors" },
    OptionHelp { name: "memory", values: "from 4M, whole MiB (default: 2G)", help: "The size of the memory" },
    OptionHelp { name: "name", values: "any (default: that of the file)", help: "The name of the machine" },
];

const MIB: u64 = 1 << 20;

/// A controller: as the option calls it, its resource type (CIM_ResourceAllocationSettingData) and subtype, and what the
/// disk's own descriptor calls it.
struct Controller {
    option: &'static str,
    title: &'static str,
    resource_type: u32,
    subtype: &'static str,
    adapter_type: &'static str,
}

static CONTROLLERS: [Controller; 5] = [
    Controller { option: "lsilogic", title: "SCSI", resource_type: 6, subtype: "lsilogic", adapter_type: "lsilogic" },
    Controller { option: "lsisas", title: "SCSI", resource_type: 6, subtype: "lsilogicsas", adapter_type: "lsilogic" },
    Controller { option: "pvscsi", title: "SCSI", resource_type: 6, subtype: "VirtualSCSI", adapter_type: "lsilogic" },
    Controller {
        option: "sata",
        title: "SATA",
        resource_type: 20,
        subtype: "vmware.sata.ahci",
        adapter_type: "lsilogic",
    },
    Controller { option: "ide", title: "IDE", resource_type: 5, subtype: "PIIX4", adapter_type: "ide" },
];

/// An operating system: as the option calls it, its number (CIM_OperatingSystem.OSType), VMware's name for it, and words.
/// Readers do not agree on the numbers of Windows since 2012: they are 102 here, "Other 64-Bit".
type System = (&'static str, u32, &'static str, &'static str);

static SYSTEMS: [System; 14] = [
    ("other64", 102, "otherGuest64", "Other (64-bit)"),
    ("other", 1, "otherGuest", "Other (32-bit)"),
    ("linux", 36, "otherLinuxGuest", "Linux (32-bit)"),
    ("linux64", 101, "otherLinux64Guest", "Linux (64-bit)"),
    ("debian64", 96, "debian8_64Guest", "Debian GNU/Linux (64-bit)"),
    ("ubuntu64", 94, "ubuntu64Guest", "Ubuntu Linux (64-bit)"),
    ("rhel64", 80, "rhel7_64Guest", "Red Hat Enterprise Linux (64-bit)"),
    ("centos64", 107, "centos64Guest", "CentOS (64-bit)"),
    ("oracle64", 109, "oracleLinux64Guest", "Oracle Linux (64-bit)"),
    ("sles64", 85, "sles12_64Guest", "SUSE Linux Enterprise (64-bit)"),
    ("freebsd64", 78, "freebsd64Guest", "FreeBSD (64-bit)"),
    ("windows10-64", 102, "windows9_64Guest", "Microsoft Windows 10 (64-bit)"),
    ("windows2012-64", 102, "windows8Server64Guest", "Microsoft Windows Server 2012 (64-bit)"),
    ("windows2016-64", 102, "windows9Server64Guest", "Microsoft Windows Server 2016 (64-bit)"),
];

/// The machine that a new package describes.
pub struct Machine {
    name: String,
    controller: &'static Controller,
    efi: bool,
    system: &'static System,
    cpus: u64,
    memory_mib: u64,
    capacity_bytes: u64,
    disk_name: String,
}

impl Machine {
    /// From the options; `base` is the name of the package's files without their extension.
    pub fn from_options(options: &CreateOptions, base: &str) -> Result<Machine> {
        let choice = |name: &str| options.options.get(name).map(String::as_str);
        let (controller, system) = (choice("controller"), choice("os"));
        let efi = match choice("firmware") {
            None | Some("bios") => false,
            Some("efi") => true,
            Some(other) => return Err(invalid_option("firmware", other, "bios or efi")),
        };
        let memory = options.size_option("memory")?.unwrap_or(2 << 30);
        if memory < 4 * MIB || !memory.is_multiple_of(MIB) {
            return Err(invalid_option("memory", &memory.to_string(), "at least 4M, in whole MiB"));
        }
        let cpus = choice("cpus").map_or(Some(2), |text| text.parse().ok().filter(|cpus| (1..=768).contains(cpus)));
        let name = choice("name").unwrap_or(base);
        if name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
            return Err(invalid_option("name", name, "1 to 80 bytes without control characters"));
        }
        Ok(Machine {
            name: name.to_owned(),
            controller: find(&CONTROLLERS, controller, "controller", |one| one.option)?,
            efi,
            system: find(&SYSTEMS, system, "os", |one| one.0)?,
            cpus: cpus.ok_or_else(|| invalid_option("cpus", choice("cpus").unwrap_or_default(), "1 to 768"))?,
            memory_mib: memory / MIB,
            capacity_bytes: options.geometry.size_bytes,
            disk_name: format!("{base}-disk1.vmdk"),
        })
    }

    /// The name of the disk's file.
    pub fn disk_name(&self) -> &str {
        &self.disk_name
    }

    /// What the disk's own descriptor calls the controller.
    pub fn adapter_type(&self) -> &'static str {
        self.controller.adapter_type
    }

    /// The descriptor's length, whatever size the disk's file has.
    pub fn descriptor_bytes(&self) -> u64 {
        self.text(u64::MAX).len() as u64
    }

    /// The descriptor for a disk file of so many bytes, filled up with white space to its length.
    pub fn descriptor(&self, disk_file_bytes: u64) -> Result<Vec<u8>> {
        let mut bytes = self.text(disk_file_bytes).into_bytes();
        let room = self.descriptor_bytes() as usize;
        if bytes.len() > room {
            let detail = format!("it has {} bytes, there is room for {room}", bytes.len());
            return Err(ImageError::new(ErrorKind::LimitExceeded, "write OVF descriptor", detail));
        }
        bytes.resize(room, b'\n');
        Ok(bytes)
    }

    /// Elements in the order of the schema: those of an `Item` are sorted by name.
    fn text(&self, disk_file_bytes: u64) -> String {
        let (name, disk_name, capacity) = (escaped(&self.name), escaped(&self.disk_name), self.capacity_bytes);
        let (_, system_number, system_type, system_words) = self.system;
        let Controller { title, resource_type, subtype, .. } = self.controller;
        let (cpus, memory) = (self.cpus, self.memory_mib);
        let firmware = if self.efi { "efi" } else { "bios" };
        let hardware = format!(
            r#"      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:Description>Number of virtual processors</rasd:Description>
        <rasd:ElementName>{cpus} virtual processors</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>{cpus}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:Description>Memory size</rasd:Description>
        <rasd:ElementName>{memory} MiB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>{memory}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:Description>{title} controller</rasd:Description>
        <rasd:ElementName>{title} controller 0</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>{subtype}</rasd:ResourceSubType>
        <rasd:ResourceType>{resource_type}</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Disk 1</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{firmware}"/>"#
        );
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:href="{disk_name}" ovf:id="file1" ovf:size="{disk_file_bytes}"/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id="vm">
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="{system_number}" vmw:osType="{system_type}">
      <Info>The operating system</Info>
      <Description>{system_words}</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>
      </System>
{hardware}
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
        )
    }
}

/// The one of that name; the first one if there is no name.
fn find<T>(known: &'static [T], name: Option<&str>, option: &str, name_of: fn(&T) -> &str) -> Result<&'static T> {
    let found = known.iter().find(|one| name.is_none_or(|name| name == name_of(one)));
    found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(name_of).collect();
        invalid_option(option, name.unwrap_or_default(), &names.join(", "))
    })
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
