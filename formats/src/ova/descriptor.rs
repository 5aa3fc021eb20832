//! The descriptor: an XML document that names the files of the package and says which of them are disks.
//!
//! Clause numbers are those of DSP0243 1.1.0. Element and attribute names are looked up without regard to the version of
//! their namespace: 0.9, 1 and 2 differ only in it.

use roxmltree::{Document, Node, ParsingOptions};

use crate::error::{ImageError, Result};

/// Longest descriptor that is read: they have some KiB; licences and icons make it a few hundred.
pub const MAX_DESCRIPTOR_BYTES: u64 = 4 << 20;

/// How many elements and texts a descriptor may have; with the next two, this bounds the parser's memory and time.
const MAX_NODES: u32 = 100_000;

/// How many attributes an element may have: the parser compares each with each.
const MAX_ATTRIBUTES: usize = 256;

/// How many namespaces may be declared: the parser keeps a list of them for each element.
const MAX_NAMESPACES: usize = 256;

/// How many files, and how many disks, a package may have.
const MAX_FILES: usize = 1024;

const DOING: &str = "read OVF descriptor";

/// What a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The files of the package.
    pub files: Vec<PackageFile>,
    /// The disks that have a file.
    pub disks: Vec<PackageDisk>,
    /// The ids of the disks that have none: they are empty.
    pub empty_disks: Vec<String>,
    /// The name of the first machine.
    pub machine: Option<String>,
    /// Its operating system, in words or as a number of CIM.
    pub operating_system: Option<String>,
}

/// A file of the package (§7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    /// What disks refer to it by.
    pub id: String,
    /// Its name, as a relative URL.
    pub href: String,
    /// Its size as stored, in bytes.
    pub size_bytes: Option<u64>,
    /// How it is compressed: `gzip`, or something that is not read.
    pub compression: Option<String>,
    /// The size of the chunks that it is cut into, in bytes.
    pub chunk_bytes: Option<u64>,
}

/// A disk (§9.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageDisk {
    /// Its id.
    pub id: String,
    /// Its size, in bytes, if it is a number.
    pub capacity_bytes: Option<u64>,
    /// Index of its file.
    pub file: usize,
    /// The URI of its format.
    pub format: Option<String>,
    /// The id of the disk that it inherits from.
    pub parent: Option<String>,
}

impl Descriptor {
    /// Reads a descriptor.
    pub fn parse(bytes: &[u8]) -> Result<Descriptor> {
        let text = std::str::from_utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
            .map_err(|cause| ImageError::unsupported(DOING, "it is not UTF-8 text").caused_by(cause))?;
        check_bounds(text)?;
        let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, options)
            .map_err(|cause| ImageError::corrupt(DOING, format!("it is no well-formed XML: {cause}")))?;
        let envelope = document.root_element();
        if envelope.tag_name().name() != "Envelope" {
            let name = envelope.tag_name().name().escape_debug();
            return Err(ImageError::not_this_format(DOING, format!("its element is <{name}>, expected <Envelope>")));
        }
        let mut descriptor = Descriptor {
            files: files(envelope)?,
            disks: Vec::new(),
            empty_disks: Vec::new(),
            machine: None,
            operating_system: None,
        };
        descriptor.add_disks(envelope)?;
        descriptor.describe_machine(envelope);
        Ok(descriptor)
    }

    fn add_disks(&mut self, envelope: Node<'_, '_>) -> Result<()> {
        let sections = envelope.children().filter(|node| node.is_element());
        let disks = sections.flat_map(|section| section.children()).filter(|node| is(*node, "Disk"));
        for node in disks {
            if self.disks.len() + self.empty_disks.len() >= MAX_FILES {
                return Err(too_many("disks", MAX_FILES));
            }
            let id = required(node, "diskId")?;
            let Some(reference) = attribute(node, "fileRef") else {
                self.empty_disks.push(id);
                continue;
            };
            let file = self.files.iter().position(|file| file.id == reference).ok_or_else(|| {
                let (id, reference) = (id.escape_debug(), reference.escape_debug());
                ImageError::corrupt(DOING, format!("disk \"{id}\" is in file \"{reference}\", which is not listed"))
            })?;
            let unit = attribute(node, "capacityAllocationUnits").map_or(Some(1), unit_bytes);
            let capacity = attribute(node, "capacity").and_then(|text| text.trim().parse::<u64>().ok());
            self.disks.push(PackageDisk {
                id,
                capacity_bytes: capacity.zip(unit).and_then(|(number, unit)| number.checked_mul(unit)),
                file,
                format: attribute(node, "format").map(str::to_owned),
                parent: attribute(node, "parentRef").map(str::to_owned),
            });
        }
        let mut ids: Vec<_> = self.disks.iter().map(|disk| &disk.id).chain(&self.empty_disks).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(twice("disk", pair[0])),
            None => Ok(()),
        }
    }

    fn describe_machine(&mut self, envelope: Node<'_, '_>) {
        let Some(machine) = envelope.descendants().find(|node| is(*node, "VirtualSystem")) else { return };
        let child = |parent: Node<'_, '_>, name| parent.children().find(|node| is(*node, name)).and_then(words);
        self.machine = child(machine, "Name").or_else(|| attribute(machine, "id").map(str::to_owned));
        if let Some(section) = machine.children().find(|node| is(*node, "OperatingSystemSection")) {
            let number = attribute(section, "id").map(|number| format!("CIM number {number}"));
            self.operating_system = child(section, "Description").or(number);
        }
    }
}

fn files(envelope: Node<'_, '_>) -> Result<Vec<PackageFile>> {
    let mut files = Vec::<PackageFile>::new();
    let references = envelope.children().filter(|node| is(*node, "References"));
    for node in references.flat_map(|references| references.children()).filter(|node| is(*node, "File")) {
        if files.len() >= MAX_FILES {
            return Err(too_many("files", MAX_FILES));
        }
        let file = PackageFile {
            id: required(node, "id")?,
            href: required(node, "href")?,
            size_bytes: number(node, "size")?,
            compression: attribute(node, "compression").filter(|name| *name != "identity").map(str::to_owned),
            chunk_bytes: number(node, "chunkSize")?,
        };
        if files.iter().any(|known| known.id == file.id) {
            return Err(twice("file", &file.id));
        }
        files.push(file);
    }
    Ok(files)
}

/// The parser is linear in the text, but for the attributes of one element, and for namespaces in all of them.
fn check_bounds(text: &str) -> Result<()> {
    if text.matches("xmlns").count() > MAX_NAMESPACES {
        return Err(too_many("namespaces", MAX_NAMESPACES));
    }
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        rest = &rest[open..];
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")];
        if let Some((_, end)) = skipped.iter().find(|(begin, _)| rest.starts_with(begin)) {
            rest = rest.find(end).map_or("", |end| &rest[end..]);
            continue;
        }
        let (attributes, length) = tag_bounds(rest);
        if attributes > MAX_ATTRIBUTES {
            return Err(too_many("attributes of one element", MAX_ATTRIBUTES));
        }
        rest = &rest[length..];
    }
    Ok(())
}

/// How many attributes a tag has, and how long it is.
fn tag_bounds(tag: &str) -> (usize, usize) {
    let (mut quote, mut attributes) = (None, 0);
    for (place, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return (attributes, place),
            (None, b'=') => attributes += 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(begin), end) if begin == end => quote = None,
            _ => {}
        }
    }
    (attributes, tag.len())
}

fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

/// An attribute of the descriptor's own vocabulary, with or without its prefix.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let own = |namespace: Option<&str>| namespace.is_none_or(|uri| uri.contains("/envelope"));
    let found = node.attributes().find(|attribute| attribute.name() == name && own(attribute.namespace()));
    found.map(|attribute| attribute.value())
}

fn required(node: Node<'_, '_>, name: &str) -> Result<String> {
    attribute(node, name).filter(|value| !value.is_empty()).map(str::to_owned).ok_or_else(|| {
        let tag = node.tag_name().name();
        ImageError::corrupt(DOING, format!("an element <{tag}> has no attribute \"{name}\""))
    })
}

fn number(node: Node<'_, '_>, name: &str) -> Result<Option<u64>> {
    attribute(node, name)
        .map(|text| {
            text.trim().parse().map_err(|_| {
                let text = text.escape_debug();
                ImageError::corrupt(DOING, format!("attribute \"{name}\" is \"{text}\", expected a number"))
            })
        })
        .transpose()
}

fn words(node: Node<'_, '_>) -> Option<String> {
    node.text().map(str::trim).filter(|text| !text.is_empty()).map(|text| text.chars().take(200).collect())
}

/// A programmatic unit (§C.1): `byte`, `byte * 2^30`, `byte * 10^9`; and what was written before there were any.
fn unit_bytes(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    match text.as_str() {
        "byte" | "bytes" => return Some(1),
        "kilobytes" | "kb" => return Some(1 << 10),
        "megabytes" | "mb" => return Some(1 << 20),
        "gigabytes" | "gb" => return Some(1 << 30),
        _ => {}
    }
    let factor = text.strip_prefix("byte*")?;
    match factor.split_once('^') {
        Some((base, power)) => base.parse::<u64>().ok()?.checked_pow(power.parse().ok()?),
        None => factor.parse().ok(),
    }
}

fn too_many(what: &str, most: usize) -> ImageError {
    ImageError::limit_exceeded(DOING, format!("it has more than {most} {what}"))
}

fn twice(what: &str, id: &str) -> ImageError {
    ImageError::corrupt(DOING, format!("it has two of {what} \"{}\"", id.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn kind_of(text: &str) -> ErrorKind {
        Descriptor::parse(text.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn units_are_products_of_powers() {
        for (text, bytes) in
            [("byte", 1), ("byte * 2^30", 1 << 30), ("byte*10^9", 1_000_000_000), ("MegaBytes", 1 << 20)]
        {
            assert_eq!(unit_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "hertz * 10^6", "byte * 2^64", "byte * x", "byte*^", "byte * 2^-1"] {
            assert_eq!(unit_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn any_prefix_and_version_of_the_namespace_is_read() {
        for (prefix, uri) in [
            ("", "http://schemas.dmtf.org/ovf/envelope/1"),
            ("o:", "http://schemas.dmtf.org/ovf/envelope/2"),
            ("ovf:", "http://www.vmware.com/schema/ovf/1/envelope"),
        ] {
            let attributes = if prefix.is_empty() { "x:" } else { prefix };
            let declared =
                format!("xmlns{}=\"{uri}\"", prefix.strip_suffix(':').map_or(String::new(), |p| format!(":{p}")));
            let text = format!(
                "\u{feff}<?xml version=\"1.0\"?><{prefix}Envelope {declared} xmlns:x=\"{uri}\" xmlns:v=\"urn:v\">
                <{prefix}References><{prefix}File {attributes}id=\"f\" v:href=\"no\" {attributes}href=\"d.vmdk\"/></{prefix}References>
                <{prefix}DiskSection><{prefix}Disk {attributes}diskId=\"d\" {attributes}capacity=\"3\"
                  {attributes}capacityAllocationUnits=\"byte * 2^20\" {attributes}fileRef=\"f\"/>
                <{prefix}Disk {attributes}diskId=\"e\" {attributes}capacity=\"1\"/></{prefix}DiskSection></{prefix}Envelope>"
            );
            let found = Descriptor::parse(text.as_bytes()).unwrap();
            assert_eq!(found.files[0].href, "d.vmdk");
            assert_eq!((found.disks[0].capacity_bytes, found.disks[0].file), (Some(3 << 20), 0));
            assert_eq!(found.empty_disks, ["e"]);
        }
    }

    #[test]
    fn bombs_are_refused_at_once() {
        let began = std::time::Instant::now();
        let laughs = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><Envelope>&b;</Envelope>";
        assert_eq!(kind_of(laughs), ErrorKind::Corrupt);
        let file = "<!DOCTYPE x [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><Envelope>&a;</Envelope>";
        assert_eq!(kind_of(file), ErrorKind::Corrupt);
        let attributes: String = (0..200_000).map(|i| format!(" a{i}=\"\"")).collect();
        assert_eq!(kind_of(&format!("<Envelope{attributes}/>")), ErrorKind::LimitExceeded);
        let namespaces: String = (0..2000).map(|i| format!("<x xmlns:n{i}=\"{i}\">")).collect();
        assert_eq!(kind_of(&namespaces), ErrorKind::LimitExceeded);
        assert_eq!(kind_of(&"<Envelope>".repeat(300_000)), ErrorKind::Corrupt);
        let files = "<File id=\"x\" href=\"y\"/>".repeat(5000);
        assert_eq!(kind_of(&format!("<Envelope><References>{files}</References></Envelope>")), ErrorKind::Corrupt);
        assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
    }

    #[test]
    fn what_contradicts_itself_is_corrupt() {
        let with = |files: &str, disks: &str| {
            kind_of(&format!("<Envelope><References>{files}</References><DiskSection>{disks}</DiskSection></Envelope>"))
        };
        let file = "<File id=\"f\" href=\"d.vmdk\"/>";
        assert_eq!(with(file, "<Disk diskId=\"d\" fileRef=\"other\"/>"), ErrorKind::Corrupt);
        assert_eq!(with(file, "<Disk diskId=\"d\"/><Disk diskId=\"d\" fileRef=\"f\"/>"), ErrorKind::Corrupt);
        assert_eq!(with(file, "<Disk fileRef=\"f\"/>"), ErrorKind::Corrupt);
        assert_eq!(with(&file.repeat(2), ""), ErrorKind::Corrupt);
        assert_eq!(with("<File id=\"f\"/>", ""), ErrorKind::Corrupt);
        assert_eq!(with("<File id=\"f\" href=\"x\" size=\"many\"/>", ""), ErrorKind::Corrupt);
        assert_eq!(kind_of("<html/>"), ErrorKind::NotThisFormat);
        assert_eq!(kind_of("<a></b>"), ErrorKind::Corrupt);
        assert_eq!(Descriptor::parse(b"\xff\xfe<\0").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
